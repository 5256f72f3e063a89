"""The ticks of one feed that this process knows: loaded when needed, shared by all readers, bounded."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from changefeed_gateway.core.errors import ChangeFeedError, CheckpointExpired, HistoryGap, InvalidRequest, Reason
from changefeed_gateway.providers.postgres.connections import Connections
from changefeed_gateway.providers.postgres.cursor import mark_of
from changefeed_gateway.providers.postgres.statements import Statements
from changefeed_gateway.providers.postgres.ticks.tick import Days, Tick, parse_snapshot

_BLOCK: Final = 256
"""Ticks are loaded and forgotten by blocks, so that the small pages of a long catch-up need few loads."""

_BLOCKS: Final = 64

WIDEST: Final = 4096
"""Most ticks that `between` gives at once; several readers fit into the window with it."""

TickRow = tuple[int, datetime, int, str, str, int, int | None]
"""id, at, last_seq, xid, snapshot, topology, day."""


def to_tick(row: TickRow) -> Tick:
    """Make a tick of its row."""
    number, at, last_seq, xid, snapshot, topology, day = row
    return Tick(number, *parse_snapshot(snapshot), last_seq, int(xid), at, topology, day)


def expired(oldest: Tick | None = None) -> CheckpointExpired:
    """The error for a position whose history was dropped, with the earliest tick that is still there."""
    message = (
        "the history after this position was dropped by the feed's retention: restart from beginning or now, and"
        " read the source again if you mirror it"
    )
    if oldest is None:
        return CheckpointExpired(message)
    time = oldest.at.isoformat()
    return CheckpointExpired(
        f"{message}; the earliest position still there is of {time}, where beginning starts and at_time can",
        metadata={"earliest_time": time},
    )


class TickWindow:
    """Ticks never change, so what is known stays true until their day is dropped.

    All that is known was found while the history consisted of the same tables, of which `tables` is the number: what
    is read from the same ones, later, has everything that follows a known tick.
    """

    def __init__(self, connections: Connections, statements: Statements) -> None:
        self._connections = connections
        self._statements = statements
        self._blocks: OrderedDict[int, dict[int, Tick]] = OrderedDict()
        self._loading = asyncio.Lock()
        self._first = 0
        """The oldest tick, once a search for its predecessor found none."""
        self.tables: int | None = None
        """None before anything was asked."""
        self._gaps: list[datetime] = []
        self._log_tables: list[tuple[int, int, int]] = []

    def add(self, ticks: Iterable[Tick]) -> None:
        """Remember ticks."""
        for tick in ticks:
            number = tick.id // _BLOCK
            block = self._blocks.get(number)
            if block is None:
                block = self._blocks[number] = {}
                if len(self._blocks) > _BLOCKS:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(number)
            block[tick.id] = tick

    def forget(self) -> None:
        """Know nothing any more: the database has other ticks under these numbers, or none."""
        self._blocks.clear()
        self._first = 0
        self.tables = None

    def known(self, tick: int) -> Tick | None:
        """A tick, if this process knows it."""
        block = self._blocks.get(tick // _BLOCK)
        return None if block is None else block.get(tick)

    async def tick(self, number: int) -> Tick:
        """One tick that was seen to exist. Raises as `between`."""
        tick = self.known(number)
        if tick is None:
            (tick,) = await self.between(number, number)
        return tick

    async def check_same(self, tick: Tick) -> None:
        """P6: raise InvalidRequest when a tick is not the one of its number any more, as its time tells.

        Raises as `between`, too.
        """
        # Nearly always the very one.
        if self.known(tick.id) is not tick and mark_of((await self.tick(tick.id)).at) != mark_of(tick.at):
            raise lost("is of a history that the database does not have")

    async def between(self, low: int, high: int) -> list[Tick]:
        """The ticks `low` to `high`, both included, of which the highest was seen to exist.

        Raises CheckpointExpired when the first ones are gone, HistoryGap when one in between is missing, InvalidRequest
        when the database has none of these numbers by now.
        """
        if (ticks := self._known(low, high)) is not None:
            return ticks
        await self._load(low, high)
        if (ticks := self._known(low, high)) is not None:
            return ticks
        raise await self._why_missing(low, high)

    async def before(self, base: Tick) -> Tick | None:
        """P1: the tick whose readings no row after `base` is older than; None where base is the oldest one.

        It is the tick before: only that tick's own transaction, allocated after its readings, is known to have ended
        when the base was made. Raises HistoryGap when that tick is missing and base is not the oldest one.
        """
        if base.id == self._first:
            return None
        if (before := self.known(base.id - 1)) is None:
            await self._load(base.id - 1, base.id - 1)
            before = self.known(base.id - 1)
        if before is not None:
            return before
        oldest = await self.oldest()
        if oldest.id > base.id:
            raise expired(oldest)
        if oldest.id < base.id:
            raise gap(f"tick {base.id - 1}")
        self._first = base.id
        return None

    async def renew(self, tables: int | None) -> None:
        """Know nothing any more of a history that consists of other tables by now than those of a number."""
        async with self._loading:
            if self.tables == tables:
                await self._look()

    async def _look(self) -> None:
        """Find out which tables there are, before anything is learnt from them."""
        self.forget()
        rows = await self._connections.fetch(self._statements.history, {})
        self.forget()
        ((self.tables, self._gaps, *of_log),) = rows
        self._log_tables = list(zip(*of_log, strict=True))

    def check_whole(self, base: Tick) -> None:
        """Raise HistoryGap when a day of the log is missing that a read from a tick on needs."""
        if any(end > base.at for end in self._gaps):
            raise gap("a day of the log")

    def log_table(self, day: Days) -> int | None:
        """The table of the log (its oid) that takes a whole day, as it was when the history was looked at."""
        starts, ends = day.starts.timestamp(), day.ends.timestamp()
        return next((oid for oid, low, high in self._log_tables if low <= starts and ends <= high), None)

    async def check(self, tick: int) -> None:
        """Ask the database whether a tick is still there. Raises CheckpointExpired or HistoryGap when it is not."""
        if not await self._connections.fetch(self._statements.ticks_between, {"low": tick, "high": tick}):
            raise await self._why_missing(tick, tick)

    async def oldest(self) -> Tick:
        """The oldest retained tick."""
        return await self._one(self._statements.oldest_tick)

    async def newest(self) -> Tick:
        """The newest tick, made by whomever."""
        return await self._one(self._statements.newest_tick)

    async def at(self, time: datetime) -> Tick | None:
        """The last tick at or before an aware time; None when all are later."""
        rows = await self._connections.fetch(self._statements.tick_at, {"time": time})
        return to_tick(rows[0]) if rows else None

    async def _one(self, statement: str) -> Tick:
        rows = await self._connections.fetch(statement, {})
        if not rows:
            raise expired()
        return to_tick(rows[0])

    def _known(self, low: int, high: int) -> list[Tick] | None:
        ticks: list[Tick] = []
        for number in range(low // _BLOCK, high // _BLOCK + 1):
            block = self._blocks.get(number)
            if block is None:
                return None
            self._blocks.move_to_end(number)
            first = max(low, number * _BLOCK)
            last = min(high, number * _BLOCK + _BLOCK - 1)
            try:
                ticks.extend(map(block.__getitem__, range(first, last + 1)))
            except KeyError:
                return None
        return ticks

    async def _load(self, low: int, high: int) -> None:
        async with self._loading:
            if self._known(low, high) is None:
                if self.tables is None:
                    await self._look()
                first = low // _BLOCK * _BLOCK
                last = (high // _BLOCK + 1) * _BLOCK - 1
                rows = await self._connections.fetch(self._statements.ticks_between, {"low": first, "high": last})
                self.add(map(to_tick, rows))

    async def _why_missing(self, low: int, high: int) -> ChangeFeedError:
        oldest = await self.oldest()
        if oldest.id > low:
            return expired(oldest)
        if (await self.newest()).id < low:
            return lost("lies beyond the newest change")
        missing = next((n for n in range(low, high + 1) if self.known(n) is None), low)
        return gap(f"tick {missing}")


def gap(what: str) -> HistoryGap:
    """The error for a position behind which something is missing that retention did not drop."""
    return HistoryGap(
        f"{what} is missing inside the retained history: changes after it may be lost; start from a snapshot, or"
        " from now and read the source after that"
    )


def lost(what: str) -> InvalidRequest:
    """The error for a position whose ticks the database does not have, or has others in their place."""
    return InvalidRequest(
        f"the position {what}: the database was restored or failed over and lost the history that the token came from;"
        " start from a snapshot, or from now and read the source after that",
        reason=Reason.TOKEN_RESOURCE_RECREATED,
    )
