"""Reads rows of the log in the order of their batches.

A step reads the batches after a position in one statement: rows that the last of them sees and the first one's base
does not. DESIGN of the order: see `ticks`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from typing import Final, NamedTuple

from changefeed_gateway.providers.postgres.connections import Connections
from changefeed_gateway.providers.postgres.cursor import Position
from changefeed_gateway.providers.postgres.log.partitions import ALL, Buckets, Part
from changefeed_gateway.providers.postgres.mapping import OP, SEQ, XID, Row
from changefeed_gateway.providers.postgres.statements import Statements
from changefeed_gateway.providers.postgres.ticks.live import LivePages
from changefeed_gateway.providers.postgres.ticks.tick import (
    Tick,
    batches_of,
    days_between,
    finished_between,
    last_within,
    reading_order,
    snapshot_text,
)
from changefeed_gateway.providers.postgres.ticks.window import WIDEST, TickWindow, gap

_NO_BOUND: Final = 2**63 - 1
_MOST_STEPS: Final = 64
_FIRST_LOOK: Final = 128
"""Ticks looked at first when a range is chosen; twice as many each time they hold less than a page."""
_DENSE: Final = 1024
"""Longest run of ticks that is loaded to find the batches of rows; beyond it the database finds them."""
_FEW: Final = 256
"""Buckets that are read through their own index. Beyond a sixteenth of them to look into each for a page's rows costs
more than to pass over the rows of the others."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows in reading order with the batch of each, and the position after all of them."""

    rows: list[Row]
    ticks: list[int]
    end: Position
    times: Mapping[int, datetime] = field(default_factory=dict)
    """Of those ticks."""
    statements: int = 1


class _Pages(NamedTuple):
    """The statements that read some batches of a part of the log."""

    new: str
    """Rows of transactions that the base's snapshot knew nothing of."""
    finished: str
    """Rows of those that it saw under way."""


class _Finished(NamedTuple):
    """What is known of rows of transactions that the base saw under way and another tick does not."""

    base: Tick
    to: Tick
    part: Part
    seq: int
    """None has a higher number."""


class LogReader:
    """Reads one feed's log."""

    def __init__(
        self, connections: Connections, statements: Statements, window: TickWindow, live: LivePages | None = None
    ) -> None:
        """`live` has what came with ticks."""
        self._live = live or LivePages()
        self._connections = connections
        self._statements = statements
        self._window = window
        self._finished: _Finished | None = None
        """Of the range that was read last: of a batch of many pages all but the first ones need not ask for them."""

    async def read(self, after: Position, until: int, newest: Tick, size: int, part: Part) -> Stretch:
        """Rows after a position, about `size` or up to the tick `until`; `newest` is that one or a later one.

        Holds no row only at `until`, or after a long run of batches that had none. Raises CheckpointExpired,
        HistoryGap and InvalidRequest as the window does.
        """
        rows: list[Row] = []
        ticks: list[int] = []
        times: dict[int, datetime] = {}
        end, steps, statements = after, 0, 0
        while end < Position(until) and 2 * len(rows) < size and steps < _MOST_STEPS:
            stands_at = await self._window.tick(end.batch)
            step = await self._step(end, until, newest, size - len(rows), part)
            # P6: it may have learnt meanwhile that the database has another history.
            await self._window.check_same(stands_at)
            rows += step.rows
            ticks += step.ticks
            times.update(step.times)
            end, steps, statements = step.end, steps + 1, statements + step.statements
        return Stretch(rows, ticks, end, times, statements)

    async def _step(self, after: Position, until: int, newest: Tick, size: int, part: Part) -> Stretch:
        if part is None and not after.seq and (brought := self._brought(after.tick, until, size)) is not None:
            return brought
        to = after.tick + 1 if after.seq else min(until, await self._end_of_page(after.tick, newest, size, part))
        while True:
            step = await self._range(after, to, newest, size, part)
            if isinstance(step, Stretch):
                return step
            to = step

    def _brought(self, base: int, until: int, size: int) -> Stretch | None:
        """What came with the ticks after a base, where it fits."""
        page = self._live.after(base)
        if page is None or len(page.rows) > size or page.ticks[-1].id > until or self._window.known(base) != page.base:
            return None
        self._window.check_whole(page.base)
        known = batches_of({row[XID] for row in page.rows}, page.ticks)
        batches = [known[row[XID]] for row in page.rows]
        rows = list(page.rows)
        if (order := reading_order(batches)) is not None:
            rows, batches = [rows[i] for i in order], [batches[i] for i in order]
        return Stretch(rows, batches, Position(page.ticks[-1].id), {tick.id: tick.at for tick in page.ticks})

    async def _end_of_page(self, base: int, newest: Tick, size: int, part: Part) -> int:
        """The last tick up to which about a page of changes follows the base."""
        match part:
            case None:
                return await self._end_of_numbers(base, newest, size)
            case Buckets() if part.width > _FEW:
                return await self._end_of_numbers(base, newest, size * ALL.width // part.width)
            case Buckets(low, high):
                return await self._end_by_index(
                    self._statements.range_of_few_buckets, base, newest, {"low": low, "high": high, "size": size}
                )
            case partition_key:
                return await self._end_by_index(
                    self._statements.range_of_key, base, newest, {"partition_key": partition_key, "size": size}
                )

    async def _end_of_numbers(self, base: int, newest: Tick, size: int) -> int:
        """The last tick up to which about `size` numbers follow the base."""
        look = _FIRST_LOOK
        while True:
            high = min(newest.id, base + min(look, WIDEST - 1))
            ticks = await self._window.between(base, high)
            full = ticks[-1].last_seq - ticks[0].last_seq > size
            if full or high == newest.id or look >= WIDEST:
                return ticks[last_within(ticks, size)].id
            look *= 2

    async def _end_by_index(self, statement: str, base: int, newest: Tick, arguments: dict[str, object]) -> int:
        """The same by a part's own index, so that a sparse part costs its own changes and not the feed's ticks."""
        before = await self._window.before((await self._window.between(base, base))[0])
        bounds = {"after": before.last_seq if before else 0, "starts": days_between(before, None).starts}
        rows = await self._connections.fetch(statement, arguments | bounds)
        if not rows or rows[0][0] is None:
            return newest.id
        return min(newest.id, max(base + 1, int(rows[0][0])))

    async def _range(self, after: Position, to: int, newest: Tick, size: int, part: Part) -> Stretch | int:
        """The batches up to `to`; or, where they hold far more than a page, a nearer end to try."""
        one_batch = to == after.tick + 1
        limit = size + 1 if one_batch else 2 * size
        rows = await self._rows(after, to, newest, limit, part)
        cut = len(rows) == limit
        if one_batch:
            if cut:
                # The row beyond tells that the batch goes on after the last one.
                del rows[-1]
            end = Position(after.tick, rows[-1][SEQ]) if cut else Position(to)
            (tick,) = await self._window.between(to, to)
            return Stretch(rows, [to] * len(rows), end, {to: tick.at})
        batches, times = await self._batches(rows, after.tick, to)
        if cut:
            # Rows cut by their numbers are no prefix of the reading order. Stop before the batch that has most.
            ((largest, _),) = Counter(batches).most_common(1)
            return max(after.tick + 1, largest - 1)
        if (order := reading_order(batches)) is not None:
            rows = [rows[i] for i in order]
            batches = [batches[i] for i in order]
        return Stretch(rows, batches, Position(to), times)

    async def _rows(self, after: Position, to: int, newest: Tick, limit: int, part: Part) -> list[Row]:
        """Rows in the order of their numbers that tick `to` sees and the base of `after` does not.

        P6: they come from the same tables as those in which the base was found before, so no day is missing. What has
        changed since is looked at again.
        """
        while True:
            (base,) = await self._window.between(after.tick, after.tick)
            tables = self._window.tables
            if tables is not None:
                found, rows = await self._ask(base, after, to, newest, limit, part)
                if found == {tables} == {self._window.tables}:
                    self._window.check_whole(base)
                    return rows
            await self._window.renew(tables)

    async def _ask(
        self, base: Tick, after: Position, to: int, newest: Tick, limit: int, part: Part
    ) -> tuple[set[int], list[Row]]:
        """The numbers of the tables that were read, and their rows."""
        (last,) = await self._window.between(to, to)
        before = await self._window.before(base)
        # Whatever `last` sees drew its number, and was dated, before the next tick read the sequence and the day floor.
        following = None if to >= newest.id else (await self._window.between(to + 1, to + 1))[0]
        days = days_between(before, following)
        finished = finished_between(base, last)
        statements, which = self._pages_of(part)
        arguments = which | {
            "base_xmax": str(base.xmax),
            "to_snapshot": snapshot_text(last),
            "base": base.id,
            "finished": f"{{{','.join(map(str, finished))}}}",
            "after": max(before.last_seq if before else 0, after.seq),
            "after_finished": after.seq,
            "upper": following.last_seq if following else _NO_BOUND,
            "starts": days.starts,
            "ends": days.ends,
            "limit": limit,
        }
        found, rows = await self._fetch(statements.new, arguments)
        known = self._finished
        if not finished or (known and known[:3] == (base, last, part) and known.seq <= after.seq):
            return {found}, rows
        of_finished, older = await self._fetch(statements.finished, arguments)
        if len(older) < limit:
            self._finished = _Finished(base, last, part, max((row[SEQ] for row in older), default=after.seq))
        return {found, of_finished}, sorted(rows + older, key=itemgetter(SEQ))[:limit]

    async def _fetch(self, statement: str, arguments: dict[str, object]) -> tuple[int, list[Row]]:
        rows = await self._connections.fetch(statement, arguments, as_sent=True)
        # The first, except where a plan has workers.
        of_tables = next(index for index, row in enumerate(rows) if row[OP] is None)
        return rows.pop(of_tables)[SEQ], rows

    def _pages_of(self, part: Part) -> tuple[_Pages, dict[str, object]]:
        statements = self._statements
        match part:
            case None:
                return _Pages(statements.page, statements.page_finished), {}
            case Buckets(low, high) if part.width <= _FEW:
                few = _Pages(statements.page_of_few_buckets, statements.page_of_few_buckets_finished)
                return few, {"low": low, "high": high}
            case Buckets(low, high):
                many = _Pages(statements.page_of_buckets, statements.page_of_buckets_finished)
                return many, {"low": low, "high": high}
            case partition_key:
                of_key = _Pages(statements.page_of_key, statements.page_of_key_finished)
                return of_key, {"partition_key": partition_key}

    async def _batches(self, rows: Sequence[Row], base: int, to: int) -> tuple[list[int], dict[int, datetime]]:
        """The batch of each row, and the time of each batch's tick."""
        highest = {row[XID]: row[SEQ] for row in rows}
        if to - base <= _DENSE:
            ticks = await self._window.between(base + 1, to)
            found = batches_of(highest, ticks)
            times = {tick.id: tick.at for tick in ticks}
        else:
            arguments = {"base": base, "xids": list(map(str, highest)), "seqs": list(highest.values())}
            seen = await self._connections.fetch(self._statements.ticks_of, arguments)
            found = {int(xid): tick for xid, tick, _ in seen}
            times = {tick: at for _, tick, at in seen}
            if len(found) < len(highest):
                await self._window.check(base)
                raise gap(f"a tick after {base}")
        return [found[row[XID]] for row in rows], times
