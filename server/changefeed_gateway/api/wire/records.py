"""Changes to wire records, the hottest code of the gateway.

A record is one element of the repeated field `events` as it stands on the wire: tag, length, event. `events` has the
same field number in ReadChangesResponse and ChangeBatch, so joined records are either one's serialised events, and
a record is made once however many pages and streams carry it.
"""

from collections.abc import Sequence
from typing import Any

from changefeed.v1 import change_event_pb2, resource_pb2
from changefeed_gateway.api.wire.cases import CHANGE_TYPES, ITEM_STATES, KEY_TYPES, ORIGINS
from changefeed_gateway.core.columns import SECOND, Columns, KeyShape
from changefeed_gateway.core.model import Change, ChangeType, Feed, ItemState, PartitionId

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
    # One message serves all changes, and what is often the same is set when it differs from the change before. What the
    # feed decides is appended ready-made: the order of fields does not matter on the wire. Texts are UTF-8 already,
    # which protobuf checks and takes as they are. Cases are compared with `is`, because hashing an Enum member runs
    # Python code.
    event = change_event_pb2.ChangeEvent()
    serialize, key, time = event.SerializeToString, event.key, event.commit_timestamp
    suffix = _suffix(feed)
    suffix_bytes = len(suffix)
    last_type = last_state = last_time = last_seconds = None
    last_sort_key = b""
    last_seldom: _Seldom = (PartitionId(""), (), None, b"")
    slots: list[change_event_pb2.KeyComponent] = []
    only: change_event_pb2.KeyComponent | None = None
    records: list[bytes] = []
    append, join = records.append, b"".join
    for (
        event_id,
        change_type,
        partition_key,
        sort_key,
        key_shape,
        key_values,
        state,
        item,
        commit_time,
        partition_id,
        sequence,
        origin,
        annotations,
    ) in Columns.of(changes).rows():
        if item is None or not items:
            item = b""
        if not items and change_type is not ChangeType.DELETE and change_type is not ChangeType.TRUNCATE:
            state = ItemState.OMITTED
        event.event_id = event_id
        event.sequence = sequence
        event.new_item_json = item
        key.partition_key = partition_key
        if change_type is not last_type:
            event.change_type, last_type = CHANGE_TYPES[change_type], change_type
        if state is not last_state:
            event.item_state, last_state = ITEM_STATES[state], state
        if sort_key != last_sort_key:
            key.sort_key = last_sort_key = sort_key
        seldom = partition_id, key_shape, origin, annotations
        if seldom != last_seldom:
            if key_shape != last_seldom[1]:
                slots = _make_slots(key, key_shape)
                only = slots[0] if len(slots) == 1 else None
            _set_seldom(event, seldom)
            last_seldom = seldom
        if only is not None:  # the usual key, without a loop
            only.value = key_values[0]
        else:
            for slot, value in zip(slots, key_values, strict=True):
                slot.value = value
        if commit_time != last_time:
            last_time = commit_time
            if commit_time is None:
                event.ClearField("commit_timestamp")
                time, last_seconds = event.commit_timestamp, None
            else:
                seconds, time.nanos = divmod(commit_time, SECOND)
                if seconds != last_seconds:
                    time.seconds = last_seconds = seconds
        encoded = serialize()
        size = len(encoded) + suffix_bytes
        length = _VARINTS[size] if size < len(_VARINTS) else varint(size)
        append(join((b"\x0a", length, encoded, suffix)))
    return records


_Seldom = tuple[PartitionId, KeyShape, Any, Any]
"""Partition id, names and types of the key's components, origin, annotations.

Any: protobuf's types do not tell that a text may be UTF-8.
"""


def _suffix(feed: Feed) -> bytes:
    """The fields that the feed decides."""
    address = resource_pb2.ResourceAddress(
        connection=feed.address.connection, database=feed.address.database, collection=feed.address.collection
    )
    return change_event_pb2.ChangeEvent(address=address, provider=feed.provider_id).SerializeToString()


def _set_seldom(event: change_event_pb2.ChangeEvent, seldom: _Seldom) -> None:
    event.partition_id, _, origin, event.annotations_json = seldom
    event.origin = ORIGINS[origin]


def _make_slots(key: change_event_pb2.Key, shape: KeyShape) -> list[change_event_pb2.KeyComponent]:
    """A component for each of the shape, without its value."""
    del key.components[:]
    return [key.components.add(name=name, type=KEY_TYPES[key_type]) for name, key_type in shape]
