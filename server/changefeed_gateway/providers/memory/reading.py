"""From a start to a position, and from a history to a page; nothing here waits."""

from collections.abc import Sequence
from datetime import datetime
from typing import assert_never

from changefeed_gateway.core.errors import (
    CheckpointExpired,
    InvalidRequest,
    NotFound,
    Reason,
    UnsupportedCapability,
)
from changefeed_gateway.core.model import (
    After,
    AtTime,
    Beginning,
    CapabilityName,
    Change,
    Child,
    EntireCollection,
    Feed,
    ItemState,
    LogicalPartition,
    Now,
    Page,
    PageRead,
    PhysicalPartition,
    Scan,
    Scope,
    Snapshot,
    Start,
)
from changefeed_gateway.providers.memory.collection import MemoryCollection
from changefeed_gateway.providers.memory.cursor import decode_cursor, encode_cursor
from changefeed_gateway.providers.memory.history import History, PartitionLog, Record
from changefeed_gateway.providers.memory.mapping import item_state, to_change


def require_capabilities(feed: Feed, read: PageRead) -> None:
    """Refuse what the collection cannot do. Raises UnsupportedCapability."""
    wanted: list[CapabilityName] = []
    if isinstance(read.start, Beginning):
        wanted.append(CapabilityName.BEGINNING)
    if isinstance(read.start, AtTime):
        wanted.append(CapabilityName.POINT_IN_TIME)
    if isinstance(read.start, Scan):
        wanted.append(CapabilityName.SNAPSHOT)
    if isinstance(read.scope, LogicalPartition):
        wanted.append(CapabilityName.LOGICAL_PARTITION_SCOPE)
    for name in wanted:
        if not feed.supports(name):
            raise UnsupportedCapability(f"this collection does not have {name.value}", reason=name.value)


def find_history(collection: MemoryCollection, scope: Scope, start: Start | None) -> History:
    """Find what a scope reads; `start` None stands for a read under way.

    Raises NotFound for an unknown partition, and CheckpointExpired for a position in one that is forgotten.
    """
    match scope:
        case LogicalPartition(partition_key):
            return collection.logical(partition_key)
        case PhysicalPartition(partition_id):
            if (log := collection.log(partition_id)) is not None:
                return log
            if collection.is_forgotten(partition_id) and (start is None or isinstance(start, After)):
                raise expired()
            raise NotFound(
                f"there is no partition {partition_id!r}: list the partitions anew", reason=Reason.PARTITION_NOT_FOUND
            )
        case EntireCollection():
            raise TypeError("this provider keeps no order over its partitions")
        case _:
            assert_never(scope)


def resolve(collection: MemoryCollection, history: History, start: Start) -> int:
    """Turn a start into a position.

    Raises CheckpointExpired for trimmed history and InvalidRequest for a cursor that was not written here.
    """
    match start:
        case Beginning():
            return history.floor
        case Now():
            return history.end or collection.last_sequence
        case AtTime(time):
            if history.lost is not None and time <= history.lost.commit_time:
                raise CheckpointExpired(
                    "the history at that time is gone: start at a later time, from beginning or from now",
                    reason=Reason.START_TIME_BEFORE_RETENTION,
                )
            return history.position_before(time)
        case After(cursor):
            position = decode_cursor(cursor, number=history.number)
            if position > collection.last_sequence:
                raise InvalidRequest("the position lies in the future", reason=Reason.TOKEN_MALFORMED)
            if position < history.floor:
                raise expired()
            return position
        case Snapshot() | Scan():
            raise TypeError("a snapshot has no position among the changes")
        case _:
            assert_never(start)


def expired() -> CheckpointExpired:
    """The history of a position is gone."""
    return CheckpointExpired("the history after this position was trimmed: restart from beginning or now")


def build_page(collection: MemoryCollection, history: History, position: int, read: PageRead) -> Page:
    """Cut a page behind a position, by count and by bytes."""
    found = history.after(position, read.max_changes + 1)
    changes = _fill(collection, found[: read.max_changes], read)
    more = len(changes) < len(found)
    following = found[len(changes)] if more else None
    tail = history.end or collection.last_sequence
    reached = tail if read.max_changes and not more else found[len(changes) - 1].sequence if changes else position
    retired = history.end is not None and reached >= history.end
    return Page(
        changes=changes,
        cursors=[encode_cursor(history.number, record.sequence) for record in found[: len(changes)]],
        start=encode_cursor(history.number, position),
        cursor=encode_cursor(history.number, reached),
        more_available=more,
        retired=retired,
        children=_children(collection, history) if retired else (),
        expire_time=_expire_time(collection, following),
        start_expire_time=_expire_time(collection, found[0] if found else None),
        watermark=_watermark(collection, history, following),
        provider_calls=1,
    )


def _fill(collection: MemoryCollection, records: Sequence[Record], read: PageRead) -> list[Change]:
    available = collection.options.item_state
    changes: list[Change] = []
    used = 0
    for record in records:
        item = collection.current_item(record.key) if available is ItemState.INCLUDED_CURRENT else record.item
        change = to_change(record, item, item_state(record, item, read, available), collection.incarnation)
        used += len(change.item.encode()) if change.item is not None else 0
        if changes and used > read.max_bytes:
            break
        changes.append(change)
    return changes


def _children(collection: MemoryCollection, history: History) -> tuple[Child, ...]:
    if not isinstance(history, PartitionLog):
        return ()
    logs = [log for child in history.children if (log := collection.log(child)) is not None]
    return tuple(
        Child(partition_id=log.partition_id, parents=log.parents, start=encode_cursor(log.number, log.birth))
        for log in logs
    )


def _expire_time(collection: MemoryCollection, following: Record | None) -> datetime | None:
    if collection.options.retention is None:
        return None
    return (following.commit_time if following else collection.now()) + collection.options.retention


def _watermark(collection: MemoryCollection, history: History, following: Record | None) -> datetime | None:
    if following is not None:
        return following.commit_time
    if isinstance(history, PartitionLog) and history.retire_time is not None:
        return history.retire_time
    return collection.now()
