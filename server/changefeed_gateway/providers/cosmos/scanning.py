"""The items of a container, a page at a time: what its feed of latest versions tells from the beginning.

That feed tells each item once, as its last change left it, in the order of those changes; every container has it, also
one that is read with all versions and deletes. A scan ends, in each range, where the feed was when the scan began: what
was changed since then comes with the changes, whose positions were fixed before.
"""

import asyncio
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.cursors import LazyCursors
from changefeed_gateway.core.errors import InvalidRequest, Reason
from changefeed_gateway.core.model import (
    Cursor,
    EntireCollection,
    LogicalPartition,
    Page,
    PageRead,
    PartitionId,
    PhysicalPartition,
    Scan,
    SnapshotProgress,
)
from changefeed_gateway.core.pace import LATE
from changefeed_gateway.core.snapshot import SNAPSHOT_CONVERGES
from changefeed_gateway.core.together import gather
from changefeed_gateway.providers.cosmos.cursor import (
    EVERYTHING,
    Interval,
    Mode,
    Position,
    beginning,
    decode_all,
    encode_all,
)
from changefeed_gateway.providers.cosmos.errors import RangeGone, lagging, lowered, moving, no_partition
from changefeed_gateway.providers.cosmos.gathering import NOTHING, Gathered
from changefeed_gateway.providers.cosmos.life import MOVES, Advance, Life
from changefeed_gateway.providers.cosmos.mapping import parse_partition_key
from changefeed_gateway.providers.cosmos.reading import lags_no_more
from changefeed_gateway.providers.cosmos.sdk import FREE

_COUNT: Final = struct.Struct(">I")
_BOUND: Final = struct.Struct(">Q")
_LOOKS: Final = (0.05, 0.2, 0.5, 1.0)
"""Seconds before another look at a range whose answers are of before the bound: a replica that lags."""


class _Part(NamedTuple):
    """What is left of an interval."""

    position: Position
    bound: int
    """The number up to which it is read; 0 where that is not known: to the end."""


class ScanRead:
    """One read of the items of a scope."""

    def __init__(self, life: Life, changes: Life, read: PageRead) -> None:
        """`life` is the container's in mode latest_version, `changes` the one in the mode of the changes."""
        self._life, self._changes = life, changes
        self._read = read
        self._cost = FREE
        self._moves = 0
        """Times that a range has moved since one was read."""

    async def page(self, start: Scan) -> Page:
        """Read. Raises as `Provider.read_page`."""
        parts = await self._begin() if start.after is None else decode_parts(start.after)
        estimate = None
        if start.after is None and isinstance(self._read.scope, EntireCollection):
            estimate, cost = await self._life.sdk.count_items(self._life.container.name)
            self._cost = self._cost.plus(cost)
        begun, found, late_at = parts, NOTHING, monotonic() + LATE
        while self._read.max_changes and parts and not found.changes:
            begun = parts
            parts, found = await self._advance(parts)
            if monotonic() >= late_at:
                break
        return self._page(begun, parts, found, estimate)

    # --- Where to begin

    async def _begin(self) -> list[_Part]:
        interval = await self._interval()
        for _ in range(MOVES):
            listed, cost = await self._life.parts_of(interval)
            self._cost = self._cost.plus(cost)
            try:
                return await gather(self._part(part.interval) for part in listed)
            except RangeGone:
                continue
        raise moving()

    async def _part(self, interval: Interval) -> _Part:
        now, cost = await self._life.reader(interval).now()
        self._cost = self._cost.plus(cost)
        # What another scan was told until now may have been deleted before the changes begin.
        start = beginning(interval, self._life.sdk.time + 1)
        # A replica that lags must not end the scan before the place at which the changes begin.
        return _Part(start, max(now.lsn, self._changes.reader(interval).newest))

    async def _interval(self) -> Interval:
        match self._read.scope:
            case PhysicalPartition(partition_id):
                interval = (await self._life.ranges.listing()).interval_of(partition_id)
                if interval is None:
                    raise no_partition(partition_id)
                return interval
            case LogicalPartition(partition_key):
                values = parse_partition_key(partition_key, self._life.container.paths)
                return await self._life.interval_of(partition_key, values)
            case _:
                return EVERYTHING

    # --- Reading on

    async def _advance(self, parts: list[_Part]) -> tuple[list[_Part], Gathered]:
        """One call further in the first part."""
        (position, bound), others = parts[0], parts[1:]
        try:
            step = await self._step(position, bound)
            if _lags(step, bound):
                step = await self._waited_for(step, bound)
        except RangeGone:
            return [*await self._replaced(parts[0]), *others], NOTHING
        self._moves = 0
        # The bound's own transaction may be cut by the page; of what came later none is needed.
        passed = step.end.lsn >= bound if step.found.whole else step.end.lsn > bound
        over = step.at_tip or (bool(bound) and passed)
        return (others if over else [_Part(step.end, bound), *others]), step.found

    async def _step(self, position: Position, bound: int) -> Advance:
        listing = await self._life.ranges.recent()
        home = listing.home_of(position.interval) or PartitionId("")
        # P1: a replica that lags may tell of what was deleted before the changes begin, and nobody would tell of that.
        step = await self._life.advance(position, home, self._read, items=True, bound=bound)
        self._cost = self._cost.plus(step.cost)
        return step

    async def _waited_for(self, step: Advance, bound: int) -> Advance:
        """Look again until what was there when the scan began is told. Raises TransientFailure, HistoryGap."""
        for pause in _LOOKS:
            await asyncio.sleep(pause)
            step = await self._step(step.end, bound)
            if not _lags(step, bound):
                return step
        # The bound had been told when the scan began.
        raise lowered() if lags_no_more(step.end.as_of, self._life.sdk.time) else lagging()

    async def _replaced(self, part: _Part) -> list[_Part]:
        """What goes on in the place of a part whose range was split."""
        self._moves += 1
        if self._moves > MOVES:
            raise moving()
        found, cost = await self._life.parts_of(part.position.interval)
        self._cost = self._cost.plus(cost)
        return [_Part(part.position.narrowed(each.interval), part.bound) for each in found]

    def _page(self, begun: Sequence[_Part], end: Sequence[_Part], found: Gathered, estimate: int | None) -> Page:
        def behind(position: Position) -> Cursor:
            return _encode([_Part(position, begun[0].bound), *begun[1:]])

        return Page(
            changes=found.changes,
            cursors=LazyCursors(found.positions, behind),
            start=_encode(begun),
            cursor=_encode(end),
            more_available=True,
            comparable=False,
            provider_calls=self._cost.calls,
            request_charge=self._cost.charge,
            snapshot=SnapshotProgress(items=len(found.changes), estimate=estimate, finished=not end),
            warnings=(SNAPSHOT_CONVERGES,),
        )


def _lags(step: Advance, bound: int) -> bool:
    """Whether a replica has answered that has not come to a bound."""
    return step.behind or (step.at_tip and step.end.lsn < bound)


def _encode(parts: Sequence[_Part]) -> Cursor:
    bounds = b"".join(_BOUND.pack(part.bound) for part in parts)
    positions = encode_all([part.position for part in parts], Mode.LATEST_VERSION)
    return Cursor(_COUNT.pack(len(parts)) + bounds + positions)


def decode_parts(cursor: Cursor) -> list[_Part]:
    """Read a place back. Raises InvalidRequest (TOKEN_MALFORMED) for bytes that `_encode` cannot make."""
    try:
        (count,) = _COUNT.unpack_from(cursor)
        rest = cursor[_COUNT.size :]
        if not count <= len(rest) // _BOUND.size:
            raise ValueError(count)
        bounds = [bound for (bound,) in _BOUND.iter_unpack(rest[: count * _BOUND.size])]
        positions = decode_all(Cursor(rest[count * _BOUND.size :]), Mode.LATEST_VERSION) if count else []
        return [_Part(position, bound) for position, bound in zip(positions, bounds, strict=True)]
    except (struct.error, ValueError) as error:
        raise InvalidRequest(
            "the place is not one of a snapshot of this container", reason=Reason.TOKEN_MALFORMED
        ) from error
