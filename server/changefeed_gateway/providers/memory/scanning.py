"""The items of a collection as a page: what a snapshot scans."""

import json
from heapq import nsmallest

from changefeed_gateway.core.errors import InvalidRequest, Reason
from changefeed_gateway.core.model import (
    Change,
    ChangeType,
    Cursor,
    ItemState,
    Key,
    LogicalPartition,
    Page,
    PageRead,
    PhysicalPartition,
    Scan,
    SnapshotProgress,
)
from changefeed_gateway.core.snapshot import SNAPSHOT_CONVERGES
from changefeed_gateway.providers.memory.collection import MemoryCollection
from changefeed_gateway.providers.memory.history import PartitionLog
from changefeed_gateway.providers.memory.mapping import bucket_of
from changefeed_gateway.providers.memory.reading import find_history


def scan(collection: MemoryCollection, read: PageRead, start: Scan) -> Page:
    """The items of a scope behind a place, in the order of their keys. Raises as `find_history`, and InvalidRequest."""
    place = _decode(start)
    found = [key for key in _keys(collection, read) if place is None or _values(key) > place]
    keys = nsmallest(read.max_changes + 1, found, key=_values)
    changes: list[Change] = []
    used = 0
    for key in keys[: read.max_changes]:
        change = _change(collection, key, read)
        used += len(change.item.encode()) if change.item is not None else 0
        if changes and used > read.max_bytes:
            break
        changes.append(change)
    cursors = [_encode(change.key) for change in changes]
    before = start.after if start.after is not None else Cursor(b"")
    return Page(
        changes=changes,
        cursors=cursors,
        start=before,
        cursor=cursors[-1] if cursors else before,
        more_available=True,
        comparable=False,
        provider_calls=1,
        snapshot=SnapshotProgress(
            items=len(changes), estimate=sum(1 for _ in _keys(collection, read)), finished=len(changes) == len(keys)
        ),
        warnings=(SNAPSHOT_CONVERGES,),
    )


def _keys(collection: MemoryCollection, read: PageRead) -> list[Key]:
    match read.scope:
        case LogicalPartition(partition_key):
            return [key for key in collection.present() if key.partition_key == partition_key]
        case PhysicalPartition():
            log = find_history(collection, read.scope, None)
            buckets = log.buckets if isinstance(log, PartitionLog) else range(0)
            return [key for key in collection.present() if bucket_of(key.partition_key) in buckets]
        case _:
            return list(collection.present())


def _change(collection: MemoryCollection, key: Key, read: PageRead) -> Change:
    item, version = collection.item(key)
    state = ItemState.INCLUDED
    if not read.items:
        state = ItemState.OMITTED
    elif collection.options.item_state is ItemState.UNAVAILABLE:
        state = ItemState.UNAVAILABLE
    elif len(item.encode()) > read.max_item_bytes:
        state = ItemState.TOO_LARGE
    return Change(
        event_id=f"{collection.incarnation[:8]}-{version}-item",
        change_type=ChangeType.SNAPSHOT,
        key=key,
        item_state=state,
        item=item if state is ItemState.INCLUDED else None,
        commit_time=None,
        partition_id=collection.partition_of(key),
        sequence="",
    )


def _values(key: Key) -> list[str]:
    return [component.value for component in key.components]


def _encode(key: Key) -> Cursor:
    return Cursor(json.dumps(_values(key)).encode())


def _decode(start: Scan) -> list[str] | None:
    if not start.after:
        return None
    try:
        partition, name = json.loads(start.after)
    except ValueError as error:
        raise InvalidRequest("the place is not one of this collection", reason=Reason.TOKEN_MALFORMED) from error
    return [str(partition), str(name)]
