"""One page of one physical partition."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.cursors import LazyCursors
from changefeed_gateway.core.errors import InternalFailure
from changefeed_gateway.core.model import (
    After,
    AtTime,
    Beginning,
    Child,
    Now,
    Page,
    PageRead,
    PartitionId,
    Scan,
    Snapshot,
)
from changefeed_gateway.core.pace import LATE
from changefeed_gateway.providers.cosmos.cursor import (
    RETIRED,
    Interval,
    Position,
    at_time,
    beginning,
    decode,
    encode,
)
from changefeed_gateway.providers.cosmos.errors import RangeGone, moving, no_partition
from changefeed_gateway.providers.cosmos.gathering import NOTHING, Gathered
from changefeed_gateway.providers.cosmos.life import MOVES, Life
from changefeed_gateway.providers.cosmos.ranges import Part
from changefeed_gateway.providers.cosmos.sdk import FREE, Cost


class PhysicalRead:
    """One read of one physical partition."""

    def __init__(self, life: Life, partition_id: PartitionId, read: PageRead, window: timedelta | None) -> None:
        """`window`: how far the history goes back, where that is known."""
        self._life = life
        self._partition_id = partition_id
        self._read = read
        self._window = window
        self._mode = life.container.mode
        self._cost = FREE
        self._deadline = monotonic() + read.max_wait.total_seconds()

    async def page(self) -> Page:
        """Read. Raises as `Provider.read_page`."""
        match self._read.start:
            case After(cursor):
                position = decode(cursor, self._mode)
                if position.interval == RETIRED:
                    return await self._replaced(position)
                return await (self._from(position) if self._read.max_changes else self._checked(position))
            case Now():
                return await self._begin(await self._now())
            case Beginning():
                return await self._from_origin(beginning)
            case AtTime(time):
                return await self._from_origin(partial(at_time, second=int(time.timestamp())))
            case Snapshot() | Scan():
                raise InternalFailure("a snapshot has no position among the changes")

    # --- Where to start

    async def _now(self) -> Position:
        for _ in range(MOVES):
            position, cost = await self._now_in(await self._interval())
            self._cost = self._cost.plus(cost)
            if position is not None:
                return position
            await self._life.ranges.listing()
        raise moving()

    async def _now_in(self, interval: Interval | None) -> tuple[Position | None, Cost]:
        if interval is None:
            raise no_partition(self._partition_id)
        try:
            return await self._life.reader(interval).now()
        except RangeGone:
            return None, FREE

    async def _from_origin(self, origin: Callable[[Interval], Position]) -> Page:
        interval = await self._interval()
        if interval is not None:
            return await self._begin(origin(interval))
        return await self._replaced(origin(RETIRED))

    async def _replaced(self, position: Position) -> Page:
        """A partition that was retired before it was read: what it had is in those that came after it."""
        parts = (await self._life.ranges.listing()).descendants_of(self._partition_id)
        if not parts:
            raise no_partition(self._partition_id)
        return self._retired(position, parts)

    async def _interval(self) -> Interval | None:
        """What the partition holds; None if it is retired or unknown."""
        found = (await self._life.ranges.recent()).interval_of(self._partition_id)
        if found is None:
            listing = await self._life.ranges.listing()
            self._cost = self._cost.plus(listing.cost)
            found = listing.interval_of(self._partition_id)
        return found

    async def _begin(self, position: Position) -> Page:
        if self._read.max_changes:
            return await self._from(position)
        return self._page(position, position, NOTHING, more_available=True)

    # --- Reading on

    async def _checked(self, position: Position) -> Page:
        """See whether the history after a position is there."""
        for _ in range(MOVES):
            try:
                await self._life.reader(position.interval).fetch(position, 1)
            except RangeGone:
                if (parts := await self._parts(position)) is not None:
                    return self._retired(position, parts)
            else:
                return self._page(position, position, NOTHING, more_available=True)
        raise moving()

    async def _from(self, start: Position) -> Page:
        position, found, more, moves = start, NOTHING, False, 0
        late_at = monotonic() + LATE
        waiting = bool(self._read.max_wait)
        while not (waiting and await self._life.rest([position], self._deadline)):
            try:
                step = await self._life.advance(position, self._partition_id, self._read)
            except RangeGone:
                if (parts := await self._parts(position)) is not None:
                    return self._retired(position, parts, start)
                if (moves := moves + 1) == MOVES:
                    raise moving() from None
                continue
            # Behind an answer without documents there may be more.
            found, position, more = step.found, step.end, not step.at_tip
            self._cost = self._cost.plus(step.cost)
            if found.changes or (monotonic() >= late_at if more else not waiting):
                break
        return self._page(start, position, found, more_available=more)

    async def _parts(self, position: Position) -> Sequence[Part] | None:
        """What goes on in the place of a partition that was split; None where it lies within one range, as ever.

        A range that was merged with others is read on as a part of the new one: each reader keeps its own place.
        """
        parts, cost = await self._life.parts_of(position.interval)
        self._cost = self._cost.plus(cost)
        if len(parts) == 1:
            return None
        # The history is there for all, or for none.
        first = position.narrowed(parts[0].interval)
        try:
            await self._life.reader(first.interval).fetch(first, 1)
        except RangeGone:
            return None
        return parts

    # --- Pages

    def _retired(self, position: Position, parts: Sequence[Part], start: Position | None = None) -> Page:
        children = tuple(
            Child(
                partition_id=part.partition_id,
                parents=(self._partition_id,),
                start=encode(position.narrowed(part.interval), self._mode),
            )
            for part in parts
        )
        page = self._page(start or position, position, NOTHING, more_available=False)
        return replace(page, retired=True, children=children)

    def _page(self, start: Position, end: Position, found: Gathered, *, more_available: bool) -> Page:
        return Page(
            changes=found.changes,
            cursors=LazyCursors(found.positions, partial(encode, mode=self._mode)),
            start=encode(start, self._mode),
            cursor=encode(end, self._mode),
            more_available=more_available,
            expire_time=end.expire_time(self._window),
            start_expire_time=start.expire_time(self._window),
            comparable=end.comparable,
            provider_calls=self._cost.calls,
            request_charge=self._cost.charge,
        )
