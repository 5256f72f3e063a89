"""The Python ceiling: one core that builds and serialises the very events of a feed with protobuf, and nothing else.

Three ways to write it, because they differ by more than two: a message constructor with nested constructors, `add`
with keywords, and `add` with assignments.
"""

import pickle
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from google.protobuf import timestamp_pb2

from bench.processes import Answer, own_cost
from bench.workers.control import ready
from bench.workers.drain import channel, read_pages
from changefeed.v1 import change_event_pb2, change_feed_service_pb2_grpc, resource_pb2, subscribe_pb2

_BATCH = 1_000


class _Fields(NamedTuple):
    """One event, taken apart into plain values."""

    event_id: str
    change_type: change_event_pb2.ChangeType
    partition_key: str
    components: tuple[tuple[str, str, change_event_pb2.KeyType], ...]
    item_state: change_event_pb2.ItemState
    item: str
    seconds: int
    nanos: int
    partition_id: str
    sequence: str
    origin: change_event_pb2.Origin
    provider: str


_Rows = Sequence[_Fields]


def sample(target: str, collection: str, events: int, file: str) -> Answer:
    """Store the events of a feed, taken apart."""
    stub = change_feed_service_pb2_grpc.ChangeFeedServiceStub(channel(target))
    ready()
    rows: list[_Fields] = []
    for page in read_pages(stub, collection, page_size=1_000, events=events):
        rows += [_taken_apart(event) for event in page.events]
    Path(file).write_bytes(pickle.dumps(([tuple(row) for row in rows], collection)))
    sizes = [len(row.item) for row in rows]
    return {"events": len(rows), "mean_item_bytes": sum(sizes) / len(sizes)}


def _taken_apart(event: change_event_pb2.ChangeEvent) -> _Fields:
    return _Fields(
        event.event_id,
        event.change_type,
        event.key.partition_key,
        tuple((component.name, component.value, component.type) for component in event.key.components),
        event.item_state,
        event.new_item_json,
        event.commit_timestamp.seconds,
        event.commit_timestamp.nanos,
        event.partition_id,
        event.sequence,
        event.origin,
        event.provider,
    )


def build(file: str, style: str) -> Answer:
    """Build and serialise the stored events in batches."""
    stored, collection = pickle.loads(Path(file).read_bytes())
    rows = [_Fields(*row) for row in stored]
    del stored
    address = resource_pb2.ResourceAddress(connection="main", database="changefeed", collection=collection)
    batch = _STYLES[style]
    ready()
    cpu, began, wire_bytes = own_cost()["cpu"], time.perf_counter(), 0
    remaining = iter(rows)
    while part := list(islice(remaining, _BATCH)):
        wire_bytes += len(batch(part, address).SerializeToString())
    seconds = time.perf_counter() - began
    cost = own_cost()
    return {
        "events": len(rows),
        "seconds": seconds,
        "client_cpu": cost["cpu"] - cpu,
        "wire_bytes": wire_bytes,
        "content": _content(rows),
    }


def _content(rows: _Rows) -> int:
    return sum(len(row.event_id) + len(row.partition_key) + len(row.item) for row in rows)


def _constructed(rows: _Rows, address: resource_pb2.ResourceAddress) -> subscribe_pb2.ChangeBatch:
    event, key, component = change_event_pb2.ChangeEvent, change_event_pb2.Key, change_event_pb2.KeyComponent
    time_of = timestamp_pb2.Timestamp
    return subscribe_pb2.ChangeBatch(
        events=[
            event(
                event_id=event_id,
                change_type=change_type,
                key=key(
                    partition_key=partition_key,
                    components=[component(name=name, value=value, type=kind) for name, value, kind in components],
                ),
                item_state=item_state,
                new_item_json=item,
                commit_timestamp=time_of(seconds=seconds, nanos=nanos),
                partition_id=partition_id,
                sequence=sequence,
                origin=origin,
                address=address,
                provider=provider,
            )
            for (
                event_id,
                change_type,
                partition_key,
                components,
                item_state,
                item,
                seconds,
                nanos,
                partition_id,
                sequence,
                origin,
                provider,
            ) in rows
        ]
    )


def _added(rows: _Rows, address: resource_pb2.ResourceAddress) -> subscribe_pb2.ChangeBatch:
    batch = subscribe_pb2.ChangeBatch()
    add = batch.events.add
    for (
        event_id,
        change_type,
        partition_key,
        components,
        item_state,
        item,
        seconds,
        nanos,
        partition_id,
        sequence,
        origin,
        provider,
    ) in rows:
        event = add(
            event_id=event_id,
            change_type=change_type,
            item_state=item_state,
            new_item_json=item,
            partition_id=partition_id,
            sequence=sequence,
            origin=origin,
            address=address,
            provider=provider,
        )
        key = event.key
        key.partition_key = partition_key
        for name, value, kind in components:
            key.components.add(name=name, value=value, type=kind)
        event.commit_timestamp.seconds = seconds
        event.commit_timestamp.nanos = nanos
    return batch


def _assigned(rows: _Rows, address: resource_pb2.ResourceAddress) -> subscribe_pb2.ChangeBatch:
    batch = subscribe_pb2.ChangeBatch()
    add = batch.events.add
    for (
        event_id,
        change_type,
        partition_key,
        components,
        item_state,
        item,
        seconds,
        nanos,
        partition_id,
        sequence,
        origin,
        provider,
    ) in rows:
        event = add()
        event.event_id = event_id
        event.change_type = change_type
        key = event.key
        key.partition_key = partition_key
        for name, value, kind in components:
            component = key.components.add()
            component.name = name
            component.value = value
            component.type = kind
        event.item_state = item_state
        event.new_item_json = item
        time_of = event.commit_timestamp
        time_of.seconds = seconds
        time_of.nanos = nanos
        event.partition_id = partition_id
        event.sequence = sequence
        event.origin = origin
        event.address.CopyFrom(address)
        event.provider = provider
    return batch


_STYLES: dict[str, Callable[[_Rows, resource_pb2.ResourceAddress], subscribe_pb2.ChangeBatch]] = {
    "constructed": _constructed,
    "added": _added,
    "assigned": _assigned,
}
