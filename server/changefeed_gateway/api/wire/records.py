"""Changes to wire records, the hottest code of the gateway.

A record is one element of the repeated field `events` as it stands on the wire: tag, length, event. `events` has the
same field number in ReadChangesResponse and ChangeBatch, so joined records are either one's serialised events, and
a record is made once however many pages and streams carry it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from changefeed.v1 import change_event_pb2, resource_pb2
from changefeed_gateway.api.wire.cases import CHANGE_TYPES, ITEM_STATES, KEY_TYPES, ORIGINS
from changefeed_gateway.core.model import (
    Change,
    ChangeType,
    ExactTime,
    Feed,
    ItemState,
    KeyComponent,
    KeyType,
    Origin,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = 86_400


_BYTES = tuple(bytes((number,)) for number in range(0x80))


def varint(number: int) -> bytes:
    """Encode a number >= 0 as protobuf does."""
    if number <= 0x7F:
        return _BYTES[number]
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_VARINTS = tuple(varint(number) for number in range(1 << 14))


def encode_changes(feed: Feed, changes: Sequence[Change], *, items: bool) -> list[bytes]:
    """Encode every change as a record; a `ChangeEncoder`.

    `items=False` leaves items out: every create, update and item of a snapshot says OMITTED, whatever its own state.
    Raises TypeError for a naive commit time.
    """
    # One message serves all changes, and a field is set when it differs from the change before. What the feed decides
    # is appended ready-made: the order of fields does not matter on the wire. Cases are compared with `is`, because
    # hashing an Enum member runs Python code.
    event = change_event_pb2.ChangeEvent()
    serialize, key, time = event.SerializeToString, event.key, event.commit_timestamp
    suffix = _suffix(feed)
    slots: list[_Slot] = []
    last_type = last_state = last_seconds = None
    last_seldom: _Seldom = ("", "", None, "")
    records = []
    for change in changes:
        event_id, change_type, the_key, state, item, commit_time, partition_id, sequence, origin, annotations = change
        partition_key, components, sort_key = the_key
        if not items:
            item = None
            if change_type is not ChangeType.DELETE and change_type is not ChangeType.TRUNCATE:
                state = ItemState.OMITTED
        event.event_id = event_id
        event.sequence = sequence
        event.new_item_json = item or ""
        key.partition_key = partition_key
        if change_type is not last_type:
            event.change_type, last_type = CHANGE_TYPES[change_type], change_type
        if state is not last_state:
            event.item_state, last_state = ITEM_STATES[state], state
        seldom = (partition_id, sort_key, origin, annotations)
        if seldom != last_seldom:
            last_seldom = _set_seldom(event, seldom)
        if len(components) == 1 and len(slots) == 1:  # the usual key, without a call
            ((name, value, key_type),), ((slot, slot_name, slot_type),) = components, slots
            if name == slot_name and key_type is slot_type:
                slot.value = value
            else:
                slots = _set_components(key, slots, components)
        else:
            slots = _set_components(key, slots, components)
        if commit_time is None:
            event.ClearField("commit_timestamp")
            time, last_seconds = event.commit_timestamp, None
        else:
            since = commit_time - _EPOCH
            seconds = since.days * _DAY + since.seconds
            if seconds != last_seconds:
                time.seconds = last_seconds = seconds
            time.nanos = since.microseconds * 1_000
            if type(commit_time) is ExactTime:
                time.nanos += commit_time.nanoseconds
        encoded = serialize()
        size = len(encoded) + len(suffix)
        length = _VARINTS[size] if size < len(_VARINTS) else varint(size)
        records.append(b"".join((b"\x0a", length, encoded, suffix)))
    return records


class _Slot(NamedTuple):
    """Where the next key's value goes if its component has this name and type."""

    component: change_event_pb2.KeyComponent
    name: str
    type: KeyType


_Seldom = tuple[str, str, Origin | None, str]
"""Partition id, sort key, origin, annotations."""


def _suffix(feed: Feed) -> bytes:
    """The fields that the feed decides."""
    address = resource_pb2.ResourceAddress(
        connection=feed.address.connection, database=feed.address.database, collection=feed.address.collection
    )
    return change_event_pb2.ChangeEvent(address=address, provider=feed.provider_id).SerializeToString()


def _set_seldom(event: change_event_pb2.ChangeEvent, seldom: tuple[str, str, Origin, str]) -> _Seldom:
    event.partition_id, event.key.sort_key, origin, event.annotations_json = seldom
    event.origin = ORIGINS[origin]
    return seldom


def _set_components(key: change_event_pb2.Key, slots: list[_Slot], components: tuple[KeyComponent, ...]) -> list[_Slot]:
    """Set the key's values, in the slots if they fit."""
    if len(slots) == len(components):
        for (slot, slot_name, slot_type), (name, value, key_type) in zip(slots, components, strict=True):
            if name != slot_name or key_type is not slot_type:
                break
            slot.value = value
        else:
            return slots
    del key.components[:]
    return [
        _Slot(key.components.add(name=name, value=value, type=KEY_TYPES[key_type]), name, key_type)
        for name, value, key_type in components
    ]
