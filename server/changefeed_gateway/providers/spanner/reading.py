"""Reads one partition for everybody in this process: looks at what there is, and one query that follows its end.

Progress is a record that was taken or a heartbeat, never the end of a query: a bounded query may end without the
record that names the partition's children (docs/providers/spanner.md).
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Final, NamedTuple

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import ChangeFeedError, TransientFailure
from changefeed_gateway.core.pace import LATE
from changefeed_gateway.core.refusals import ForTheCaller
from changefeed_gateway.core.retries import passes_soon
from changefeed_gateway.core.shared import SharedQuestion
from changefeed_gateway.providers.spanner.cursor import Position
from changefeed_gateway.providers.spanner.errors import OutsidePartition, TooFarPast, endless, silent_end, unknown
from changefeed_gateway.providers.spanner.following import Follower
from changefeed_gateway.providers.spanner.gathering import Amount, Gathering
from changefeed_gateway.providers.spanner.mapping import TakenMod
from changefeed_gateway.providers.spanner.query import Ending, StreamQueries, StreamQuery
from changefeed_gateway.providers.spanner.records import Children, DataRecord, Descendant, Heartbeat

_LOOKS_AT_ONCE: Final = 4
_MOST_KEPT: Final = 4
"""Looks that were cut by a page and whose query stays open. With the others and two that follow, half of the twenty
readers that Spanner allows a partition: two gateways may read it."""
_LOOK_LIFE: Final = 600.0
"""Seconds that a look may take, pauses of its reader included."""
_RECENT: Final = 1.0
"""Seconds for which a look that came to the end will do for who waits there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long queries stay."""

    heartbeat: timedelta = timedelta(seconds=1)
    """Between two signs of life of a query, when nothing is committed."""
    linger: timedelta = timedelta(seconds=10)
    """How long a query stays open that nobody reads."""
    renewal: timedelta = timedelta(minutes=45)
    """After which a query that follows is made anew: Google's client gives each an hour."""


class Batch(NamedTuple):
    """What follows a position."""

    mods: Sequence[TakenMod]
    positions: Sequence[Position]
    """After each modification."""
    position: Position
    """After all."""
    more: bool = False
    """More is there already, or may be."""
    children: tuple[Descendant, ...] = ()
    """The partition has ended, and these go on."""
    clear_to: int = 0
    """Nothing lies between the position and this time, in nanoseconds; 0 where that is not known."""


@dataclass(slots=True)
class _Look:
    """A bounded query, and what of it was not taken yet."""

    query: StreamQuery
    start: Position
    bound: int
    pending: deque[DataRecord | Heartbeat] = field(default_factory=deque)
    children: list[Descendant] = field(default_factory=list)
    finished: bool = False


class PartitionReader:
    """One partition of one change stream. Methods raise `ForTheCaller` and the errors of the service."""

    def __init__(self, queries: StreamQueries, table: str, token: str, pace: Pace) -> None:
        self.calls = 0
        """Queries so far."""
        self._queries, self._table, self._token, self._pace = queries, table, token, pace
        self._retries = queries.sdk.retries
        self._silence = queries.heartbeat + self._retries.answer_timeout.total_seconds()
        self._questions: SharedQuestion[Batch] = SharedQuestion(at_once=_LOOKS_AT_ONCE, foreseen=ForTheCaller)
        self._kept: OrderedDict[Position, tuple[_Look, asyncio.TimerHandle]] = OrderedDict()
        self._follower: Follower | None = None
        self._tip: tuple[Position, float] | None = None
        """Where a look last came to the end, and when."""

    def close(self) -> None:
        """End what is under way; who waits is told so."""
        self._questions.close()
        if self._follower is not None:
            self._follower.close()
        for position in list(self._kept):
            self._drop(position)

    @property
    def idle(self) -> bool:
        """Whether nothing of it is open."""
        follows = self._follower is not None and self._follower.active
        return not (self._kept or follows or self._questions.under_way)

    # --- What there is

    async def look(self, position: Position, amount: Amount) -> Batch:
        """What follows a position, of all that was committed before this call.

        Raises TooFarPast, ForeignPartition, StreamGone and the errors of the service.
        """
        return await self._questions.ask((position, amount), partial(self._look, position, amount))

    def near(self, position: Position, amount: Amount) -> Batch | None:
        """What is known to follow a position near the end, without asking; None where that is not known."""
        follower = self._follower
        if follower is not None and not follower.over and follower.covers(position.time):
            return self._follow_batch(follower, position, amount)
        if self._tip is not None and self._tip[0] == position and monotonic() - self._tip[1] < _RECENT:
            return Batch((), (), position)
        return None

    async def check(self, position: Position) -> None:
        """See whether what follows a position is there, as `look` does."""
        try:
            await self._read_all(position.time, position.time)
        except OutsidePartition as outside:
            await self._at_end(position, outside)

    async def probe(self, time: int) -> None:
        """Ask for one moment of the partition. Raises OutsidePartition where it lies before or after it."""
        await self._read_all(time, time)

    async def children_at(self, end: int) -> tuple[Descendant, ...]:
        """What goes on where the partition ended. Raises HistoryGap where that is not said, however often asked."""
        for attempt in range(1, self._retries.attempts + 1):
            if children := (await self._read_all(end, end)).children:
                return children
            await self._retries.pause(attempt)
        raise endless(self._token)

    async def _look(self, position: Position, amount: Amount) -> Batch:
        failures, look = 0, self._take_kept(position)
        fresh = look is None
        while True:
            gathering = Gathering(self._table, position, amount)
            try:
                if look is None:
                    bound = max(await self._queries.sdk.now(), position.time)
                    look, fresh = _Look(await self._open(position.time, bound), position, bound), True
                await self._draw(look, gathering)
                if gathering.mods or fresh or look.children or not look.finished:
                    return await self._judge(look, gathering, fresh=fresh)
            except OutsidePartition as outside:
                return await self._at_end(position, outside)
            except ChangeFeedError as error:
                failures += 1
                if gathering.mods:
                    return Batch(gathering.mods, gathering.positions, gathering.position, more=True)
                # One that was kept may have come to the end of its life.
                again = passes_soon(error) or (not fresh and isinstance(error, TransientFailure))
                if not again or failures >= self._retries.attempts:
                    raise
                await self._retries.pause(failures)
            finally:
                if look is not None and not self._is_kept(look):
                    look.query.close()
            # Its bound was the end of an earlier call, or it broke: a new one from where it came to.
            position, look = gathering.position, None

    async def _draw(self, look: _Look, gathering: Gathering) -> None:
        start, late_at = gathering.position, monotonic() + LATE
        while True:
            while look.pending:
                if not gathering.take(look.pending[0]):
                    return
                look.pending.popleft()
            # Records of other tables are passed over, and there may be any number of them.
            late = gathering.position != start and monotonic() >= late_at
            if look.finished or gathering.full or late:
                return
            records = await look.query.records(self._silence)
            if records is None:
                look.finished = True
            for record in records or ():
                if isinstance(record, Children):
                    look.children += record.partitions
                else:
                    look.pending.append(record)

    async def _judge(self, look: _Look, gathering: Gathering, *, fresh: bool) -> Batch:
        found = Batch(gathering.mods, gathering.positions, gathering.position)
        if look.pending or not look.finished:
            self._keep(gathering.position, look)
            return found._replace(more=True)
        if look.children:
            return _retired(found, look.children)
        if not fresh:
            return found._replace(more=True)
        if found.position.time < look.bound:
            return await self._ask_beyond(found, look.bound, look.start)
        return self._clear(found)

    def _clear(self, found: Batch, bound: int = 0) -> Batch:
        """What was found, with nothing behind it up to its position or a bound."""
        self._tip = found.position, monotonic()
        return found._replace(clear_to=max(bound, found.position.time))

    async def _ask_beyond(self, found: Batch, bound: int, start: Position) -> Batch:
        """Ask for what lies behind what a query brought that ended without a word about the rest up to its bound."""
        try:
            rest = await self._rest_of(found.position, bound)
        except OutsidePartition as outside:
            return await self._at_end(found.position, outside, found)
        except ChangeFeedError as error:
            if not passes_soon(error):
                raise
            # What was found stands; whoever reads on asks again.
            return found
        if rest.data:
            # P1: it ended early.
            if not found.mods and found.position == start:
                raise silent_end()
            return found._replace(more=True)
        if rest.children:
            return _retired(found, rest.children)
        position = found.position.heard(rest.heard)
        if 0 < rest.heard < bound:
            # P1: it ended behind its last word, which told nothing of what follows.
            if not found.mods and position == start:
                raise silent_end()
            return found._replace(position=position, more=True)
        return self._clear(found._replace(position=position), bound)

    async def _rest_of(self, position: Position, bound: int) -> Ending:
        """What is said from a position on, up to a bound. Raises OutsidePartition where the partition ended before."""
        # P1: of the position's own time there may be more, by a transaction that was committed at the same one.
        rest = await self._read_all(position.time, bound, beyond=position)
        if rest == Ending():
            # Behind what is known already it says nothing; or it has passed over the end of the partition.
            rest = await self._read_all(bound, bound, beyond=position)
        return rest

    async def _at_end(self, position: Position, outside: OutsidePartition, found: Batch | None = None) -> Batch:
        """The end of a partition that ended before a position: its children, asked for at its very end."""
        if outside.first is None or outside.last is None:
            raise unknown("a query at the end of a partition")
        if position.time < outside.first:
            raise TooFarPast(None)
        children = await self.children_at(outside.last)
        return _retired(found or Batch((), (), position), children)

    async def _read_all(self, start: int, end: int, *, beyond: Position | None = None) -> Ending:
        """What a short query says beside its changes; the first that lies `beyond` a position ends it."""
        failures = 0
        while True:
            try:
                query = await self._open(start, end)
                try:
                    return await query.ending(self._silence, beyond=beyond)
                finally:
                    query.close()
            except ChangeFeedError as error:
                failures += 1
                if not passes_soon(error) or failures >= self._retries.attempts:
                    raise
                await self._retries.pause(failures)

    async def _open(self, start: int, end: int) -> StreamQuery:
        self.calls += 1
        return await self._queries.open(self._token, start, end, life=_LOOK_LIFE)

    # --- Looks that a page cut

    def _take_kept(self, position: Position) -> _Look | None:
        if position not in self._kept:
            return None
        look, timer = self._kept.pop(position)
        timer.cancel()
        return look

    def _keep(self, position: Position, look: _Look) -> None:
        if position in self._kept:
            self._drop(position)
        timer = asyncio.get_running_loop().call_later(self._pace.linger.total_seconds(), self._drop, position)
        self._kept[position] = look, timer
        if len(self._kept) > _MOST_KEPT:
            self._drop(next(iter(self._kept)))

    def _drop(self, position: Position) -> None:
        look, timer = self._kept.pop(position)
        timer.cancel()
        look.query.close()

    def _is_kept(self, look: _Look) -> bool:
        return any(kept is look for kept, _ in self._kept.values())

    # --- What comes

    async def wait(self, position: Position, amount: Amount, deadline: float, clear_to: int = 0) -> Batch | None:
        """What comes after a position, until a deadline on the monotonic clock.

        `clear_to`: nothing lies between the position and this time. None where the query that follows the partition
        has lost sight of the position: look first.
        """
        follower = self._follower
        if follower is None or follower.over:
            self.calls += 1
            follower = self._follower = Follower(self._queries, self._token, position.time, self._pace)
        with follower.listening():
            while follower.covers(max(position.time, clear_to)):
                batch = self._follow_batch(follower, position, amount)
                if batch.mods or batch.children:
                    return batch
                position, clear_to = batch.position, max(clear_to, batch.position.time)
                if monotonic() >= deadline:
                    return batch
                try:
                    follower.check()
                except OutsidePartition as outside:
                    return await self._at_end(position, outside)
                await follower.changed(deadline - monotonic())
        return None

    def _follow_batch(self, follower: Follower, position: Position, amount: Amount) -> Batch:
        gathering = Gathering(self._table, position, amount)
        whole = all(gathering.take(record) for record in follower.since(position.time))
        if whole:
            gathering.take(Heartbeat(follower.reached))
        found = Batch(gathering.mods, gathering.positions, gathering.position, more=not whole)
        return _retired(found, follower.children) if whole and follower.children else found


def _retired(found: Batch, children: Sequence[Descendant]) -> Batch:
    # All data of the partition lie before its children begin (Spanner, "Change streams: child partitions records").
    position = found.position.heard(min(child.time for child in children))
    unique = {child.token: child for child in children}
    return found._replace(position=position, children=tuple(unique.values()), more=False)
