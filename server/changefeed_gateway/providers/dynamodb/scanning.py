"""The items of a table as they are, a page at a time.

A table beyond a gigabyte is scanned in segments that take turns, page by page, so that not one of its partitions bears
all of the reading while the others rest. Reads are consistent: what was written before the position of the changes was
fixed has no record behind it, and would otherwise be missed by both.
"""

import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from changefeed_gateway.core.cursors import LazyCursors
from changefeed_gateway.core.errors import InvalidRequest, Reason, UnsupportedCapability
from changefeed_gateway.core.model import (
    CapabilityName,
    Change,
    Cursor,
    EntireCollection,
    ItemState,
    Page,
    PageRead,
    Scan,
    SnapshotProgress,
)
from changefeed_gateway.core.snapshot import SNAPSHOT_CONVERGES
from changefeed_gateway.providers.dynamodb.errors import StreamGone
from changefeed_gateway.providers.dynamodb.mapping import AttributeValue, ItemMaker, key_texts
from changefeed_gateway.providers.dynamodb.sdk import Sdk
from changefeed_gateway.providers.dynamodb.table import Stream, find_stream

MOST_SEGMENTS: Final = 8
SEGMENT_BYTES: Final = 1 << 30
"""Of a table, for which it is worth a segment."""

_Key = tuple[tuple[str, str], ...]
"""Of an item: type letter and text of each attribute, in the order of the schema."""


class _Segment(NamedTuple):
    key: _Key | None = None
    """Of the last item that was read; None before the first."""
    done: bool = False


class ScanPlace(NamedTuple):
    """Where a scan stands."""

    segments: tuple[_Segment, ...]
    turn: int = 0
    """Which of them is read next."""

    @property
    def done(self) -> bool:
        """Nothing lies behind it."""
        return all(segment.done for segment in self.segments)

    def behind(self, key: _Key) -> "ScanPlace":
        """Right behind an item of the segment whose turn it is, which goes on with the rest."""
        return self._with(_Segment(key))

    def passed_to_next(self, segment: _Segment) -> "ScanPlace":
        """With the segment whose turn it was, and the next one's turn."""
        after = self._with(segment)
        order = [(after.turn + step) % len(after.segments) for step in range(1, len(after.segments) + 1)]
        return after._replace(turn=next((number for number in order if not after.segments[number].done), 0))

    def _with(self, segment: _Segment) -> "ScanPlace":
        return self._replace(segments=(*self.segments[: self.turn], segment, *self.segments[self.turn + 1 :]))

    def encode(self) -> Cursor:
        """Write a place."""
        return Cursor(json.dumps(self, ensure_ascii=False, separators=(",", ":")).encode())

    @classmethod
    def decode(cls, cursor: Cursor) -> "ScanPlace":
        """Read a place back. Raises InvalidRequest (TOKEN_MALFORMED) for bytes that `encode` cannot make."""
        try:
            written, turn = json.loads(cursor)
            segments = tuple(
                _Segment(None if key is None else tuple((str(letter), str(text)) for letter, text in key), bool(done))
                for key, done in written
            )
            if turn not in range(len(segments)):
                raise ValueError(turn)
        except (ValueError, TypeError) as error:
            raise InvalidRequest(
                "the place is not one of a snapshot of this table", reason=Reason.TOKEN_MALFORMED
            ) from error
        return cls(segments, turn)


async def scan(sdk: Sdk, stream: Stream, read: PageRead, start: Scan, segment_bytes: int) -> Page:
    """The items behind a place. Raises StreamGone when the table is another one by now, and the service's errors."""
    if not isinstance(read.scope, EntireCollection):
        raise UnsupportedCapability(
            "a shard does not say which keys it holds: take a snapshot of the entire collection",
            reason=CapabilityName.SNAPSHOT_PHYSICAL_PARTITION_SCOPE.value,
        )
    if start.after is not None:
        place, estimate, calls = ScanPlace.decode(start.after), None, 0
    else:
        described: Mapping[str, Any] = (await sdk.call("DescribeTable", TableName=stream.table)).body
        wanted = 1 + int(described.get("TableSizeBytes") or 0) // segment_bytes
        place = ScanPlace((_Segment(),) * min(MOST_SEGMENTS, wanted))
        estimate, calls = described.get("ItemCount"), 1
    if not read.max_changes:
        return _page(place, place, [], [], estimate, calls)
    changes: list[Change] = []
    keys: list[_Key] = []
    begun = end = place
    while not changes and not end.done:
        begun = end
        changes, keys, end = await _read_segment(sdk, stream, begun, read)
        calls += 1
    # After the read: if the table is still the same, its items were of this one.
    if (await find_stream(sdk, stream.table)).arn != stream.arn:
        raise StreamGone
    return _page(begun, end, changes, keys, estimate, calls + 1)


async def _read_segment(
    sdk: Sdk, stream: Stream, place: ScanPlace, read: PageRead
) -> tuple[list[Change], list[_Key], ScanPlace]:
    """The next items of the segment whose turn it is, the key of each, and the place behind them."""
    key = place.segments[place.turn].key
    names = [name for name in stream.schema if name is not None]
    where: dict[str, Any] = {} if key is None else {"ExclusiveStartKey": _attributes(names, key)}
    if len(place.segments) > 1:
        where |= {"Segment": place.turn, "TotalSegments": len(place.segments)}
    answer = await sdk.call("Scan", TableName=stream.table, ConsistentRead=True, Limit=read.max_changes, **where)
    maker = ItemMaker(stream.schema, stream.arn, whole=stream.item_state is ItemState.INCLUDED)
    changes: list[Change] = []
    keys: list[_Key] = []
    size = 0
    for item in answer.body:
        change = maker.make(item, read)
        size += len(change.item.encode()) if change.item is not None else 0
        if changes and size > read.max_bytes:
            return changes, keys, place.passed_to_next(_Segment(keys[-1]))
        changes.append(change)
        keys.append(key_texts(names, item))
    last = answer.whole.get("LastEvaluatedKey")
    return changes, keys, place.passed_to_next(_Segment(done=True) if not last else _Segment(key_texts(names, last)))


def _attributes(names: Sequence[str], key: _Key) -> dict[str, AttributeValue]:
    return {
        name: {letter: b64decode(text) if letter == "B" else text}
        for name, (letter, text) in zip(names, key, strict=True)
    }


def _page(
    start: ScanPlace, end: ScanPlace, changes: list[Change], keys: list[_Key], estimate: int | None, calls: int
) -> Page:
    return Page(
        changes=changes,
        cursors=LazyCursors(keys, lambda key: start.behind(key).encode()),
        start=start.encode(),
        cursor=end.encode(),
        more_available=True,
        comparable=False,
        provider_calls=calls,
        snapshot=SnapshotProgress(items=len(changes), estimate=estimate, finished=end.done),
        warnings=(SNAPSHOT_CONVERGES,),
    )
