"""One feed's ticks: what all its readers in a process know of them, and how they ask for more."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import structlog
from psycopg import AsyncCursor
from psycopg.rows import TupleRow

from changefeed_gateway.core.errors import InvalidRequest, Reason, TransientFailure
from changefeed_gateway.core.supervision import Supervisor
from changefeed_gateway.providers.postgres.connections import Connection, Connections, load_as_sent
from changefeed_gateway.providers.postgres.cursor import Position, mark_of
from changefeed_gateway.providers.postgres.feeds import FeedDefinition
from changefeed_gateway.providers.postgres.mapping import Row, time_of
from changefeed_gateway.providers.postgres.statements import Statements
from changefeed_gateway.providers.postgres.ticks.bell import Bell, BellOrders
from changefeed_gateway.providers.postgres.ticks.live import MOST_ROWS, LivePage, LivePages
from changefeed_gateway.providers.postgres.ticks.tick import Tick, day_of
from changefeed_gateway.providers.postgres.ticks.ticker import FOR_A_TICK, Cadence, TickAnswer, Ticker
from changefeed_gateway.providers.postgres.ticks.window import TickWindow, expired, to_tick

_FEW_ROWS: Final = 4
"""P7: an answer stays in memory until the next one has come, so that of a lone change is kept and no large one."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class FeedTicks:
    """The window of known ticks and the ticker that brings new ones, of one feed."""

    def __init__(
        self,
        connections: Connections,
        definition: FeedDefinition,
        statements: Statements,
        cadence: Cadence,
        *,
        supervisor: Supervisor,
        listening: Callable[[], bool],
    ) -> None:
        """`listening` tells whether the doorbell can be heard; without it the feed is polled."""
        self.definition = definition
        """As it was looked up last; its incarnation stays the same."""
        self.window = TickWindow(connections, statements)
        self._bell = Bell(self.can_hear)
        self.ticker = Ticker(self._ask, cadence, supervisor, f"ticks of {definition.name}", self._bell)
        self.live = LivePages()
        self.generation = 0
        """Grows with every `forget`: what was learnt in an earlier one may not be so any more."""
        self._connections = connections
        self._statements = statements
        self._listening = listening
        self._server_started = connections.server_started
        self._asked_by: AsyncCursor[TupleRow] | None = None
        """What the last question was asked by: it knows how to write arguments and to read rows."""

    def can_hear(self) -> bool:
        """Whether a change rings the doorbell, and the doorbell is heard."""
        return self.definition.doorbell == "notify" and not self.definition.standby and self._listening()

    def forget(self) -> None:
        """Know nothing any more: the database may have other ticks under these numbers, or none."""
        self.window.forget()
        self.ticker.forget()
        self.live.clear()
        self.generation += 1

    def notice_other_server(self) -> None:
        """What was read from a server that has ended since may not be what its successor has."""
        started = self._connections.server_started
        if started != self._server_started:
            self._server_started = started
            self.forget()

    async def time_of(self, position: Position) -> datetime:
        """When the tick was made of whose batch a position holds a part. Raises as `TickWindow.between`."""
        return (await self.window.tick(position.batch)).at

    async def check_mark(self, position: Position, mark: int) -> Tick:
        """The tick of whose batch a position holds a part. Raises as `TickWindow.between`.

        P6: raises InvalidRequest when it is not the one of that number which the position's reader knew.
        """
        tick = await self.window.tick(position.batch)
        if mark_of(tick.at) != mark:
            raise _lost("is of a history that the database does not have")
        return tick

    async def check_same(self, tick: Tick) -> None:
        """P6: raise InvalidRequest when a tick is not the one of its number any more, as its time tells."""
        # Nearly always the very one.
        if self.window.known(tick.id) is not tick and mark_of((await self.window.tick(tick.id)).at) != mark_of(tick.at):
            raise _lost("is of a history that the database does not have")

    async def with_numbers(self, number: int | None) -> Tick:
        """A tick with every change up to a number that has committed before the call.

        Without a question where the newest one is known to have them. None: no number is known.
        """
        self.notice_other_server()
        return (number is not None and self.ticker.with_numbers(number)) or await self.ticker.refresh()

    def beyond(self) -> InvalidRequest | TransientFailure:
        """The error for a position behind the newest tick."""
        if self.definition.standby:
            return TransientFailure(
                "this standby has not yet received the history up to the position: try again",
                retry_after=timedelta(seconds=1),
            )
        return _lost("lies beyond the newest change")

    async def aclose(self) -> None:
        """Stop making ticks; idempotent."""
        await self.ticker.aclose()

    async def _ask(self) -> TickAnswer:
        """Ask for a tick, and for what follows the newest one that is known here while somebody waits for that.

        A standby makes none: its snapshots lack the transactions under way. Its primary's ticks are as good.
        """
        standby = self.definition.standby
        if self.window.tables is None:
            # Before the tick is known, which it would forget.
            await self.window.renew(None)
        orders, page, generation = self._bell.orders(), self._page_to_bring(), self.generation
        asked_on = None if self._asked_by is None else self._asked_by.connection
        rows = await self._connections.run(partial(self._put, orders, page), within=FOR_A_TICK, like=asked_on)
        ticks = [_tick_as_sent(row) for row in rows if row[0] is not None]
        newest = ticks[-1]
        *_, quiet, armed = rows[len(ticks) - 1][:9]
        self._bell.obeyed(orders, armed=bool(armed))
        self.notice_other_server()
        known = self.ticker.newest
        if known is not None and newest.id <= known.id and newest != known:
            _log.warning("the database lost ticks", feed=self.definition.name, tick=newest.id)
            self.forget()
        self.window.add(ticks)
        if page is None or known is None or newest.id == known.id or generation != self.generation:
            self.live.clear()
        elif len(rows) > len(ticks) == newest.id - known.id:
            # After the row that says that all of it is there.
            self.live.keep(LivePage(known, ticks, [_change_as_sent(row) for row in rows[len(ticks) + 1 :]]))
        if standby:
            return TickAnswer(newest, False)
        return TickAnswer(newest, quiet and self.can_hear(), time_of(rows[0][-1]), numbers_complete=bool(quiet))

    def _page_to_bring(self) -> dict[str, object] | None:
        """What the database needs to know to bring what follows the newest tick; None where that is not known here."""
        base = self.ticker.newest
        if base is None or self.definition.standby or not self.live.wanted or self.window.known(base.id) != base:
            return None
        before = self.window.known(base.id - 1)
        if before is None or before.day is None or (table := self.window.log_table(day_of(before.day))) is None:
            return None
        return {
            "base": base.id,
            "base_xmax": str(base.xmax),
            "base_xip": f"{{{','.join(map(str, base.xip))}}}",
            "known": base.last_seq,
            "after": before.last_seq,
            "floor": before.day,
            "day": table,
            "most": MOST_ROWS,
        }

    async def _put(self, orders: BellOrders, page: dict[str, object] | None, connection: Connection) -> list[Any]:
        statements = self._statements
        told = {"arm": orders.arm, "answered": orders.answered}
        cursor, self._asked_by = self._asked_by, None
        if cursor is None or cursor.connection is not connection:
            cursor = connection.cursor(binary=True)
            load_as_sent(cursor)
        if self.definition.standby:
            await cursor.execute(statements.newest_tick, prepare=True)
            rows = [(*row, False, False) for row in await cursor.fetchall()]
        else:
            await cursor.execute(
                statements.tick if page is None else statements.live, told | (page or {}), prepare=True
            )
            rows = await cursor.fetchall()
        if not rows:
            raise expired()
        if len(rows) <= _FEW_ROWS:
            self._asked_by = cursor
        return rows


def _tick_as_sent(row: tuple[Any, ...]) -> Tick:
    number, at, last_seq, xid, snapshot, topology, day = row[:7]
    return to_tick((number, time_of(at), last_seq, xid.decode(), snapshot.decode(), topology, day))


def _change_as_sent(row: tuple[Any, ...]) -> Row:
    seq, xid, *rest = row[9:20]
    return (seq, int(xid), *rest)


def _lost(what: str) -> InvalidRequest:
    return InvalidRequest(
        f"the position {what}: the database was restored or failed over and lost the history that the token came from;"
        " start from a snapshot, or from now and read the source after that",
        reason=Reason.TOKEN_RESOURCE_RECREATED,
    )
