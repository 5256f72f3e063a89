"""A client that reads a feed from its beginning and parses every event."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import grpc

from bench.processes import Answer, own_cost
from bench.workers.control import ready
from changefeed.v1 import (
    change_event_pb2,
    change_feed_service_pb2_grpc,
    position_pb2,
    read_changes_pb2,
    resource_pb2,
    subscribe_pb2,
)

Stub = change_feed_service_pb2_grpc.ChangeFeedServiceStub
_STARTS = {
    "beginning": position_pb2.StartPosition(beginning=position_pb2.Beginning()),
    "snapshot": position_pb2.StartPosition(snapshot=position_pb2.Snapshot()),
}


def start_of(token: str, start: str = "beginning") -> position_pb2.StartPosition:
    """A token's place; without one, `start`."""
    return position_pb2.StartPosition(continuation_token=token) if token else _STARTS[start]


def channel(target: str, credentials: dict[str, str] | None = None) -> grpc.Channel:
    """A connected channel with every client's default limits; `credentials` as `bench.guarded.Guards` has them."""
    if credentials is None:
        opened = grpc.insecure_channel(target)
    else:
        transport = grpc.ssl_channel_credentials(Path(credentials["ca_file"]).read_bytes())
        caller = grpc.access_token_call_credentials(credentials["bearer"])
        opened = grpc.secure_channel(target, grpc.composite_channel_credentials(transport, caller))
    grpc.channel_ready_future(opened).result(timeout=30)
    return opened


def address(collection: str) -> resource_pb2.ResourceAddress:
    """The collection on the bench's only connection."""
    return resource_pb2.ResourceAddress(connection="main", collection=collection)


def subscribe(
    target: str,
    collection: str,
    events: int,
    pause: float = 0.0,
    batch_size: int = 0,
    token: str = "",
    start: str = "beginning",
    credentials: dict[str, str] | None = None,
) -> Answer:
    """Through one stream that ends by itself; `pause` seconds after each message make a slow reader."""
    stub = Stub(channel(target, credentials))
    request = subscribe_pb2.SubscribeRequest(
        address=address(collection), start_position=start_of(token, start), max_events=events, max_batch_size=batch_size
    )
    ready()
    meter = _Meter()
    for message in stub.Subscribe(request):
        if message.WhichOneof("content") == "batch":
            meter.take(message.batch.events)
        if pause:
            time.sleep(pause)
    return meter.answer()


def touch(target: str, collection: str) -> Answer:
    """One page from now on: after it the gateway has done once what it does for a feed."""
    stub = Stub(channel(target))
    ready()
    stub.ReadChanges(
        read_changes_pb2.ReadChangesRequest(
            address=address(collection), start_position=position_pb2.StartPosition(now=position_pb2.Now())
        )
    )
    return {}


def read(
    target: str,
    collection: str,
    events: int,
    page_size: int,
    token: str = "",
    start: str = "beginning",
    credentials: dict[str, str] | None = None,
) -> Answer:
    """Through one unary call after the other."""
    stub = Stub(channel(target, credentials))
    ready()
    meter = _Meter()
    for page in read_pages(stub, collection, page_size=page_size, events=events, token=token, start=start):
        meter.take(page.events)
    return meter.answer()


def read_pages(
    stub: Stub, collection: str, *, page_size: int, events: int, token: str = "", start: str = "beginning"
) -> Iterator[read_changes_pb2.ReadChangesResponse]:
    """Pages from a token, or else a start, until they brought so many events."""
    position, received = start_of(token, start), 0
    while received < events:
        page: read_changes_pb2.ReadChangesResponse = stub.ReadChanges(
            read_changes_pb2.ReadChangesRequest(
                address=address(collection), start_position=position, max_page_size=page_size
            )
        )
        if not page.events:
            raise RuntimeError(f"{collection} ended after {received} events of {events}")
        received += len(page.events)
        yield page
        position = start_of(page.continuation_token)


class _Meter:
    """Counts what arrives, and touches what a consumer needs of every event."""

    def __init__(self) -> None:
        self._events = self._messages = self._content = 0
        self._cpu = own_cost()["cpu"]
        self._began = time.perf_counter()

    def take(self, events: Iterable[change_event_pb2.ChangeEvent]) -> None:
        count = content = 0
        for event in events:
            count += 1
            content += len(event.event_id) + len(event.key.partition_key) + len(event.new_item_json)
        self._messages += 1
        self._events += count
        self._content += content

    def answer(self) -> Answer:
        seconds = time.perf_counter() - self._began
        cost = own_cost()
        return {
            "events": self._events,
            "seconds": seconds,
            "messages": self._messages,
            "content": self._content,
            "client_cpu": cost["cpu"] - self._cpu,
            "client_peak_rss_mb": cost["peak_rss_mb"],
        }
