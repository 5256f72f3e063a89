"""One page of one logical partition: of a key, or of all keys with one beginning, which may lie in several ranges."""

from collections.abc import Sequence
from datetime import timedelta

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.cursors import LazyCursors
from changefeed_gateway.core.errors import InternalFailure
from changefeed_gateway.core.model import (
    After,
    AtTime,
    Beginning,
    Cursor,
    Now,
    Page,
    PageRead,
    PartitionId,
    Scan,
    Snapshot,
)
from changefeed_gateway.core.pace import LATE
from changefeed_gateway.providers.cosmos.cursor import Position, at_time, beginning, decode_all, encode_all
from changefeed_gateway.providers.cosmos.errors import RangeGone, moving
from changefeed_gateway.providers.cosmos.gathering import NOTHING, Gathered
from changefeed_gateway.providers.cosmos.life import MOVES, Life
from changefeed_gateway.providers.cosmos.mapping import parse_partition_key
from changefeed_gateway.providers.cosmos.sdk import FREE


class LogicalRead:
    """One read of one logical partition. Where it lies in several ranges, each has an order of its own."""

    def __init__(self, life: Life, partition_key: str, read: PageRead, window: timedelta | None) -> None:
        """`window`: how far the history goes back, where that is known. Raises InvalidRequest for no key."""
        self._life = life
        self._partition_key = partition_key
        self._values = parse_partition_key(partition_key, life.container.paths)
        self._read = read
        self._window = window
        self._mode = life.container.mode
        self._cost = FREE
        self._moves = 0
        self._deadline = monotonic() + read.max_wait.total_seconds()
        self._late_at = monotonic() + LATE

    async def page(self) -> Page:
        """Read. Raises as `Provider.read_page`."""
        start = positions = await self._resolve()
        if self._read.max_changes:
            return await self._from(start)
        if isinstance(self._read.start, After):
            positions = await self._checked(start)
        return self._page(start, positions, NOTHING, [], more_available=True)

    async def _resolve(self) -> list[Position]:
        if isinstance(self._read.start, After):
            return decode_all(self._read.start.cursor, self._mode)
        interval = await self._life.interval_of(self._partition_key, self._values)
        match self._read.start:
            case Beginning():
                return [beginning(interval)]
            case AtTime(time):
                return [at_time(interval, int(time.timestamp()))]
            case Now():
                return await self._now(beginning(interval))
            case Snapshot() | Scan():
                raise InternalFailure("a snapshot has no position among the changes")

    async def _now(self, whole: Position) -> list[Position]:
        """Now in each range that has a part of the key, all of them fixed before the answer."""
        parts = (await self._life.ranges.recent()).parts_of(whole.interval)
        for _ in range(MOVES):
            try:
                found = [await self._life.reader(part.interval).now() for part in parts]
            except RangeGone:
                parts, _ = await self._life.parts_of(whole.interval)
            else:
                if found:
                    return [position for position, _ in found]
                parts, _ = await self._life.parts_of(whole.interval)
        raise moving()

    async def _checked(self, positions: list[Position]) -> list[Position]:
        """See whether the history after some positions is there."""
        checked: list[Position] = []
        left = list(positions)
        while left:
            try:
                await self._life.reader(left[0].interval).fetch(left[0], 1)
            except RangeGone:
                left = await self._replaced(left, 0)
            else:
                checked.append(left.pop(0))
        return checked

    async def _from(self, start: list[Position]) -> Page:
        positions, waiting = start, bool(self._read.max_wait)
        home = await self._home(start[0])
        while not (waiting and await self._life.rest(positions, self._deadline)):
            positions, found = await self._round(positions, home, waiting=waiting)
            if found is not None:
                return self._page(start, positions, found, self._cursors(positions, found), more_available=True)
            if not waiting:
                break
        return self._page(start, positions, NOTHING, [], more_available=False)

    async def _round(
        self, positions: list[Position], home: PartitionId, *, waiting: bool
    ) -> tuple[list[Position], Gathered | None]:
        """Ask for each position, until the first that brings something or takes long; that one is last then.

        Nothing at all, in the end, where each was read to its own.
        """
        number = 0
        while number < len(positions):
            position = positions[number]
            if waiting and self._life.reader(position.interval).delay(position) > 0:
                number += 1
                continue
            try:
                step = await self._life.advance(position, home, self._read)
            except RangeGone:
                positions = await self._replaced(positions, number)
                continue
            self._cost = self._cost.plus(step.cost)
            positions = [*positions[:number], step.end, *positions[number + 1 :]]
            if step.found.changes or (not step.at_tip and monotonic() >= self._late_at):
                return [*positions[number + 1 :], *positions[: number + 1]], step.found
            # Behind an answer without documents there may be more.
            number += step.at_tip
        return positions, None

    async def _replaced(self, positions: Sequence[Position], number: int) -> list[Position]:
        """The positions, with those of its parts in the place of one whose range was split."""
        self._moves += 1
        if self._moves > MOVES * len(positions):
            raise moving()
        parts, cost = await self._life.parts_of(positions[number].interval)
        self._cost = self._cost.plus(cost)
        narrowed = [positions[number].narrowed(part.interval) for part in parts]
        return [*positions[:number], *narrowed, *positions[number + 1 :]]

    async def _home(self, position: Position) -> PartitionId:
        """The range in which the key lies, or a part of the keys."""
        listing = await self._life.ranges.recent()
        return listing.home_of(position.interval) or PartitionId("")

    # --- Pages

    def _cursors(self, positions: Sequence[Position], found: Gathered) -> Sequence[Cursor]:
        others = positions[:-1]
        return LazyCursors(found.positions, lambda position: encode_all([*others, position], self._mode))

    def _page(
        self,
        start: Sequence[Position],
        end: Sequence[Position],
        found: Gathered,
        cursors: Sequence[Cursor],
        *,
        more_available: bool,
    ) -> Page:
        return Page(
            changes=found.changes,
            cursors=cursors,
            start=encode_all(start, self._mode),
            cursor=encode_all(end, self._mode),
            more_available=more_available,
            expire_time=min(filter(None, (each.expire_time(self._window) for each in end)), default=None),
            start_expire_time=min(filter(None, (each.expire_time(self._window) for each in start)), default=None),
            comparable=False,
            provider_calls=self._cost.calls,
            request_charge=self._cost.charge,
        )
