"""Changes to wire records, the hottest code of the gateway.

A record is one element of the repeated field `events` as it stands on the wire: tag, length, event. `events` has the
same field number in ReadChangesResponse and ChangeBatch, so joined records are either one's serialised events, and
a record is made once however many pages and streams carry it.

Records are written by columns: of each field what stands before the text (its tag and length) and the text, and each
record is a row of these columns, joined. The bytes are those that protobuf writes. Nothing runs in Python for a change
but its time, because all the rest is done by functions in C that `map` calls.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import repeat
from operator import add
from typing import Any, Final, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from changefeed.v1 import change_event_pb2, resource_pb2
from changefeed_gateway.api.wire.cases import CHANGE_TYPES, ITEM_STATES, KEY_TYPES, ORIGINS
from changefeed_gateway.core.columns import SECOND, Columns, KeyShape
from changefeed_gateway.core.model import Address, Change, ChangeType, Feed, ItemState, KeyType

_Case = TypeVar("_Case")

_Column = bytes | Iterable[bytes]
"""A part of each of some records, or one part that all have."""

_BYTES: Final = tuple(bytes((number,)) for number in range(0x80))


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


class _Heads(dict[int, bytes]):
    """What stands before a text of each length."""

    def __init__(self, make: Callable[[int], bytes], *, kept: int = 256) -> None:
        """`make` is called once for each length below `kept`."""
        super().__init__()
        self._make, self._kept = make, kept

    def __missing__(self, length: int) -> bytes:
        head = self._make(length)
        if length < self._kept:
            self[length] = head
        return head


def _of_text(tag: bytes, length: int) -> bytes:
    # An empty text is left out.
    return tag + varint(length) if length else b""


def _of_message(tag: bytes, length: int) -> bytes:
    return tag + varint(length)


_RECORD: Final = _Heads(partial(_of_message, b"\x0a"), kept=1 << 14)
_EVENT_ID: Final = _Heads(partial(_of_text, b"\x0a"))
_CHANGE_TYPES: Final = {case: b"\x10" + varint(number) for case, number in CHANGE_TYPES.items()}
_KEY: Final = _Heads(partial(_of_message, b"\x1a"))
_PARTITION_KEY: Final = _Heads(partial(_of_text, b"\x0a"))
_SORT_KEY: Final = _Heads(partial(_of_text, b"\x12"))
_ITEM_STATES: Final = {case: b"\x20" + varint(number) for case, number in ITEM_STATES.items()}
_ITEM: Final = _Heads(partial(_of_text, b"\x2a"), kept=1 << 14)
_TIME: Final = _Heads(partial(_of_message, b"\x32"))
_PARTITION_ID: Final = _Heads(partial(_of_text, b"\x3a"))
_SEQUENCE: Final = _Heads(partial(_of_text, b"\x42"))
_ORIGINS: Final = {case: b"\x48" + varint(number) for case, number in ORIGINS.items()}
_ANNOTATIONS: Final = _Heads(partial(_of_text, b"\x62"))

_WITHOUT_ITEM: Final = (ChangeType.DELETE, ChangeType.TRUNCATE)


def encode_changes(feed: Feed, changes: Sequence[Change], *, items: bool) -> list[bytes]:
    """Encode every change as a record; a `ChangeEncoder`.

    `items=False` leaves items out: every create, update and item of a snapshot says OMITTED, whatever its own state.
    Raises TypeError for a naive commit time.
    """
    columns = Columns.of(changes)
    if not columns:
        return []
    of_feed = _of_feed(feed.address, feed.provider_id)
    if _is_one(columns.key_shapes):
        return _encode(columns, of_feed, items=items)
    by_shape: dict[KeyShape, list[int]] = {}
    for place, shape in enumerate(columns.key_shapes):
        by_shape.setdefault(shape, []).append(place)
    records = [b""] * len(columns)
    for places in by_shape.values():
        for place, record in zip(places, _encode(columns.chosen(places), of_feed, items=items), strict=True):
            records[place] = record
    return records


def _encode(columns: Columns, of_feed: bytes, *, items: bool) -> list[bytes]:
    """The records of changes whose keys have one shape."""
    count = len(columns)
    states: Sequence[ItemState] = columns.item_states
    texts: Sequence[Any] = columns.items
    if not items:
        states = [
            state if change_type in _WITHOUT_ITEM else ItemState.OMITTED
            for change_type, state in zip(columns.change_types, states, strict=True)
        ]
        texts = [b""] * count
    elif None in texts:
        texts = [text or b"" for text in texts]
    # In the order of their numbers; what the feed decides comes last, for the order does not matter on the wire.
    events = _joined(
        count,
        *_texts(_EVENT_ID, columns.event_ids),
        _cases(_CHANGE_TYPES, columns.change_types),
        *_keys(columns),
        _cases(_ITEM_STATES, states),
        *_texts(_ITEM, texts),
        _times(columns.commit_times),
        _seldom_other(_PARTITION_ID, _in_utf8(columns.partition_ids)),
        *_texts(_SEQUENCE, columns.sequences),
        _cases(_ORIGINS, columns.origins),
        _seldom_other(_ANNOTATIONS, columns.annotations),
        of_feed,
    )
    return list(map(add, map(_RECORD.__getitem__, map(len, events)), events))


@lru_cache(maxsize=1_000)
def _of_feed(address: Address, provider_id: str) -> bytes:
    """The fields that the feed decides."""
    told = resource_pb2.ResourceAddress(
        connection=address.connection, database=address.database, collection=address.collection
    )
    return change_event_pb2.ChangeEvent(address=told, provider=provider_id).SerializeToString()


def _is_one(values: Sequence[object]) -> bool:
    """Whether all are the same."""
    return values.count(values[0]) == len(values)


def _joined(count: int, *columns: _Column) -> list[bytes]:
    """The rows of some columns, each row as one."""
    parts: list[Iterable[bytes]] = []
    alike = b""
    for column in columns:
        if isinstance(column, bytes):
            alike += column
        else:
            if alike:
                parts.append(repeat(alike, count))
                alike = b""
            parts.append(column)
    if alike:
        parts.append(repeat(alike, count))
    return list(map(b"".join, zip(*parts, strict=True)))


def _texts(heads: _Heads, texts: Sequence[bytes]) -> tuple[_Column, _Column]:
    return map(heads.__getitem__, map(len, texts)), texts


def _seldom_other(heads: _Heads, texts: Sequence[bytes]) -> _Column:
    """Texts of which a page mostly has one."""
    if _is_one(texts):
        return heads[len(texts[0])] + texts[0]
    return map(add, *_texts(heads, texts))


def _in_utf8(texts: Sequence[str]) -> Sequence[bytes]:
    if _is_one(texts):
        return [texts[0].encode()] * len(texts)
    return [text.encode() for text in texts]


def _cases(fields: Mapping[_Case, bytes], cases: Sequence[_Case]) -> _Column:
    return fields[cases[0]] if _is_one(cases) else map(fields.__getitem__, cases)


def _keys(columns: Columns) -> Iterable[_Column]:
    """The field `key`, for keys of one shape."""
    shape, texts, count = columns.key_shapes[0], columns.partition_keys, len(columns)
    values: list[tuple[bytes, ...]] = list(zip(*columns.key_values, strict=True))
    sort_keys = _seldom_other(_SORT_KEY, columns.sort_keys)
    if len(values) == 1 and not sort_keys and values[0] == tuple(texts):
        # The usual key of a table: its only value is its partition key.
        before, between, end = _said_twice(*shape[0])
        lengths = list(map(len, texts))
        return map(before.__getitem__, lengths), texts, map(between.__getitem__, lengths), texts, end
    parts: list[_Column] = [*_texts(_PARTITION_KEY, texts), sort_keys]
    for (name, key_type), of_component in zip(shape, values, strict=True):
        heads, end = _component(name, key_type)
        parts += [*_texts(heads, of_component), end]
    return _texts(_KEY, _joined(count, *parts))


@lru_cache(maxsize=100)
def _component(name: str, key_type: KeyType) -> tuple[_Heads, bytes]:
    """What stands before and behind the value of a key's component."""
    named, end = _of_text(b"\x0a", len(name.encode())) + name.encode(), b"\x18" + varint(KEY_TYPES[key_type])

    def head(length: int) -> bytes:
        value = _of_text(b"\x12", length)
        return b"\x1a" + varint(len(named) + len(value) + length + len(end)) + named + value

    return _Heads(head), end


@lru_cache(maxsize=100)
def _said_twice(name: str, key_type: KeyType) -> tuple[_Heads, _Heads, bytes]:
    """What stands before, between and behind a text that is the partition key and the value of the only component."""
    between, end = _component(name, key_type)

    def head(length: int) -> bytes:
        text = _PARTITION_KEY[length]
        return b"\x1a" + varint(len(text) + length + len(between[length]) + length + len(end)) + text

    return _Heads(head), between, end


def _times(moments: Sequence[int | None]) -> _Column:
    time = Timestamp()
    fields: list[bytes] = []
    last = last_second = None
    field = b""
    for moment in moments:
        if moment is None:
            last, field = None, b""
        elif moment != last:  # changes of one transaction often have one
            last = moment
            second, time.nanos = divmod(moment, SECOND)
            if second != last_second:
                time.seconds = last_second = second
            encoded = time.SerializeToString()
            field = _TIME[len(encoded)] + encoded
        fields.append(field)
    return fields
