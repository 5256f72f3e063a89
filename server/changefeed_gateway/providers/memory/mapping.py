"""From records of the store to changes, and from values to key text; pure."""

import hashlib
import json

from changefeed_gateway.core.model import Change, ChangeType, ItemState, Key, KeyComponent, PageRead
from changefeed_gateway.providers.memory.history import Record


def key_of(partition_value: str, item_id: str) -> Key:
    """Make the key of an item from its partition key value and its own id."""
    return Key(
        partition_key_text(partition_value),
        (KeyComponent("partition", partition_value), KeyComponent("id", item_id)),
    )


def partition_key_text(value: str) -> str:
    """Write a partition key value as `Key.partition_key` wants it."""
    return json.dumps([value], ensure_ascii=False) if value.startswith("[") else value


def bucket_of(partition_key: str) -> int:
    """Choose the bucket (0-255) of a partition key text: the same in every release."""
    return hashlib.md5(partition_key.encode(), usedforsecurity=False).digest()[0]


def item_state(record: Record, item: str | None, read: PageRead, available: ItemState) -> ItemState:
    """Tell whether a change may carry `item`, and if not, why."""
    if record.change_type in (ChangeType.DELETE, ChangeType.TRUNCATE):
        return ItemState.NOT_APPLICABLE
    if not read.items:
        return ItemState.OMITTED
    if available is ItemState.UNAVAILABLE:
        return ItemState.UNAVAILABLE
    if item is None:
        return ItemState.NOT_APPLICABLE
    return ItemState.TOO_LARGE if len(item.encode()) > read.max_item_bytes else available


def to_change(record: Record, item: str | None, state: ItemState, incarnation: str) -> Change:
    """Build the change of one record; the incarnation keeps event ids of a re-created collection apart."""
    included = state in (ItemState.INCLUDED, ItemState.INCLUDED_CURRENT)
    return Change(
        event_id=f"{incarnation[:8]}-{record.sequence}",
        change_type=record.change_type,
        key=record.key,
        item_state=state,
        item=item if included else None,
        commit_time=record.commit_time,
        partition_id=record.partition_id,
        sequence=str(record.sequence),
        origin=record.origin,
        annotations=record.annotations,
    )
