"""Connections to one PostgreSQL database: a bounded pool of short autocommit statements."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg.types.numeric import Int8BinaryLoader, Int8Dumper
from psycopg.types.string import ByteaBinaryLoader
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential_jitter,
)

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.shared import SharedQuestion
from changefeed_gateway.providers.postgres.errors import connection_lost, has_old_plan, is_outage
from changefeed_gateway.providers.postgres.outage import Outage
from changefeed_gateway.providers.postgres.registered import RegisteredConnection

Connection = psycopg.AsyncConnection[TupleRow]
Cursor = psycopg.AsyncCursor[TupleRow]

_T = TypeVar("_T")

_TRANSPORT: Final[dict[str, str | int]] = {
    "connect_timeout": 5,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""How a connection to a host that went away is noticed; the connection string may say otherwise."""

# It tells of each connection that it tries in vain, many a second; `Outage` tells of the database.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


class DatabaseId(NamedTuple):
    """Tells a database from every other one, also from one that takes its name and place."""

    system_identifier: int
    oid: int


_WHERE: Final = """
SELECT c.system_identifier, d.oid::bigint, pg_postmaster_start_time()
FROM pg_control_system() c, pg_database d WHERE d.datname = current_database()
"""

_SEARCH_PATH: Final = "pg_catalog, pg_temp"
"""Of our own sessions: no operator or function that somebody made in another schema takes the place of PostgreSQL's."""

_SESSION: Final[dict[str, str]] = {
    "timezone": "UTC",
    "search_path": _SEARCH_PATH,
    # A tick needs each of its statements to see what committed before it.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    # Planning a page over all days anew costs more than reading it. A plan outlives the figures it was made from: one
    # that reads a whole day while the day is small is still in use when it is not.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
}
"""Whatever the database's or the role's own defaults are."""

_WHILE_REFUSED: Final = 2.5
"""Seconds: with a try before and one after them a caller is told within five."""

_AS_SENT: Final = (("text", ByteaBinaryLoader), ("timestamptz", Int8BinaryLoader), ("xid8", Int8BinaryLoader))
_A_TURN: Final = 1_000
"""Rows made in one turn of the loop: some 2 ms."""
_MOST_AT_HAND: Final = 2
"""Most of the time one statement is under way, and two for a moment."""
_AT_HAND_FOR: Final = 60.0
"""Seconds for which a connection is kept out of the pool, which replaces those that are too old."""
_FOR_A_CONNECTION: Final = 1.0
"""Seconds to wait in the pool's queue before joining it anew: only who joins makes the pool connect again."""


class Connections:
    """A pool that outlives its server.

    Every statement is a transaction of its own, so no connection holds a snapshot between two of them.
    """

    def __init__(
        self,
        dsn: str,
        *,
        max_size: int = 8,
        application_name: str = "changefeed-gateway",
        statement_timeout: timedelta = timedelta(seconds=30),
        patience: timedelta = timedelta(seconds=10),
        pooled: bool = False,
        outage: Outage | None = None,
    ) -> None:
        """`patience` is how long a statement waits for a connection before it fails; less where nobody listens.

        `pooled` leaves nothing behind in a session: no settings, no prepared statements. So does a connection that
        turns out to lead through a pooler.
        """
        self.patience = patience
        self.outage = outage or Outage("")
        self._pooled = pooled
        self._statement_timeout = statement_timeout
        self.database: DatabaseId | None = None
        """Where the newest connection leads; a database that was made anew under its name is another one."""
        self.server_started: datetime | None = None
        """When the server of the newest connection did; another one, or the same after a restart, has another time."""
        self._options = transport_options(dsn, application_name)
        self._dsn = dsn
        self._at_hand: list[RegisteredConnection] = []
        """Those that were used last: to put one into the pool and take it out again costs a fifth of a statement."""
        self._queueing = 0
        """Those who wait for the pool."""
        self._closed = False
        self._repair = SharedQuestion[None](goes_on=True, foreseen=psycopg.Error)
        self._refusal = SharedQuestion[psycopg.Error | None](goes_on=True, foreseen=psycopg.Error)
        self._pool = AsyncConnectionPool(
            dsn,
            connection_class=RegisteredConnection,
            kwargs=self._options,
            min_size=1,
            max_size=max_size,
            configure=self._configure,
            # Its own back-off doubles without a bound: after a minute's outage it would sleep another one.
            reconnect_timeout=0.2,
            name=application_name,
            open=False,
        )

    async def open(self) -> None:
        """Start connecting, without waiting for it; idempotent."""
        # The pool's workers outlive the call that came first: its request id is not theirs.
        await asyncio.create_task(self._pool.open(wait=False), context=Context())

    async def aclose(self) -> None:
        """Close every connection; idempotent."""
        self._closed = True
        await self._repair.aclose()
        await self._refusal.aclose()
        await self._put_into_pool()
        await self._pool.close()

    async def run(
        self,
        work: Callable[[Connection], Awaitable[_T]],
        *,
        within: timedelta | None = None,
        like: Connection | None = None,
    ) -> _T:
        """Do some work that may be repeated; when its connection is lost, once more on a fresh one.

        `like` is a connection that did such work before: its session has the plans, so it is taken if it is at hand.

        Raises errors of the core: TransientFailure when no connection is to be had within `patience`, or when all of
        it takes longer than `within`.
        """
        # The server's own timeout does not help when the network swallows its answer.
        longest = self._statement_timeout.total_seconds() + 5
        try:
            if within is None or within.total_seconds() > longest:
                async with asyncio.timeout(within.total_seconds() if within else None):
                    return await self._run(partial(_in_time, work, longest), like)
            # One timer will do.
            async with asyncio.timeout(within.total_seconds()):
                return await self._run(work, like)
        except (psycopg.Error, OSError) as error:
            raise self.outage.translated(error) from error

    async def _run(self, work: Callable[[Connection], Awaitable[_T]], like: Connection | None) -> _T:
        try:
            return await self._run_once(work, like)
        except psycopg.Error as error:
            if not connection_lost(error):
                raise
        await self._repair.ask(None, self._sweep, join=True)
        return await self._run_once(work)

    async def fetch(
        self,
        statement: str,
        arguments: Mapping[str, Any],
        *,
        within: timedelta | None = None,
        as_sent: bool = False,
    ) -> list[Any]:
        """All rows of one prepared statement; errors as `run` has them.

        `as_sent`, where nobody looks into the values: texts in UTF-8, times in microseconds since 2000.
        """

        async def work(connection: Connection) -> list[Any]:
            cursor = connection.cursor(binary=True)
            if as_sent:
                load_as_sent(cursor)
            await cursor.execute(statement, arguments, prepare=True)
            rows = found = await cursor.fetchmany(_A_TURN)
            while len(found) == _A_TURN:
                # What has come is made into rows here, so many in one turn of the loop.
                await asyncio.sleep(0)
                found = await cursor.fetchmany(_A_TURN)
                rows += found
            return rows

        return await self.run(work, within=within)

    async def _run_once(self, work: Callable[[Connection], Awaitable[_T]], like: Connection | None = None) -> _T:
        connection = self._take_at_hand(like) or await self._take_out_of_pool()
        try:
            return await work(connection)
        except psycopg.errors.FeatureNotSupported as error:
            if has_old_plan(error):
                await connection.close()
            raise
        finally:
            await self._give_back(connection)

    async def _give_back(self, connection: RegisteredConnection) -> None:
        at_hand, oldest = self._at_hand, monotonic() - _AT_HAND_FOR
        if (
            len(at_hand) < _MOST_AT_HAND
            and not self._queueing
            and not self._closed
            and connection.taken_at > oldest
            and connection.pgconn.transaction_status == TransactionStatus.IDLE
        ):
            at_hand.append(connection)
        else:
            await self._pool.putconn(connection)
        if at_hand and at_hand[0].taken_at <= oldest:
            await self._pool.putconn(at_hand.pop(0))

    async def _put_into_pool(self) -> None:
        """What is at hand."""
        while (connection := self._take_at_hand()) is not None:
            await self._pool.putconn(connection)

    def _take_at_hand(self, like: Connection | None = None) -> RegisteredConnection | None:
        """The one that was asked for, or else the one that was used last."""
        at_hand = self._at_hand
        if not at_hand:
            return None
        if like is not at_hand[-1] and like in at_hand:
            at_hand.remove(like)
            return like
        return at_hand.pop()

    async def _take_out_of_pool(self) -> RegisteredConnection:
        failures, refusal = self._failures, None
        try:
            return await self._take_once()
        except PoolTimeout:
            if self._failures > failures:
                refusal = await self._refusal.ask(None, self._look_for_refusal, join=True)
                if refusal is not None and not is_outage(refusal):
                    raise refusal from None
        patience = self.patience.total_seconds()
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(PoolTimeout),
            wait=wait_exponential_jitter(multiplier=0.05, max=1.0, jitter=0.1),
            stop=stop_after_delay(patience if refusal is None else min(patience, _WHILE_REFUSED)),
            reraise=True,
        )
        try:
            return await retrying(self._take_once)
        except PoolTimeout as error:
            # What was found out says more than that the pool had none to give.
            raise refusal or error from None

    async def _take_once(self) -> RegisteredConnection:
        """A connection of the pool, unless the caller was cancelled meanwhile; or the one at hand.

        Between two tries nobody queues, and what was done with meanwhile lies at hand.

        The pool waits by asyncio.wait_for, which before Python 3.12 swallows a cancellation that comes together with
        what it waits for: a loop that is to end would go on.
        """
        if (at_hand := self._take_at_hand()) is not None:
            return at_hand
        task = asyncio.current_task()
        cancelled = task.cancelling() if task is not None else 0
        self._queueing += 1
        try:
            connection = await self._pool.getconn(timeout=_FOR_A_CONNECTION)
        finally:
            self._queueing -= 1
        connection.taken_at = monotonic()
        if task is not None and task.cancelling() > cancelled:
            await self._pool.putconn(connection)
            raise asyncio.CancelledError
        return connection

    @property
    def waited_for(self) -> bool:
        """Whether anybody waits for a connection."""
        return self._queueing > 0

    def pool_stats(self) -> Mapping[str, int]:
        """The pool's own figures (psycopg_pool's statistics)."""
        return self._pool.get_stats()

    @property
    def _failures(self) -> int:
        """How often the pool failed to connect."""
        return self._pool.get_stats().get("connections_errors", 0)

    async def _look_for_refusal(self) -> psycopg.Error | None:
        """Why the pool gets no connection; it keeps the reason to itself."""
        try:
            connection = await psycopg.AsyncConnection.connect(self._dsn, **self._options)
        except psycopg.Error as error:
            return error
        await connection.close()
        return None

    async def _sweep(self) -> None:
        """Replace what a restart left dead in the pool."""
        await self._put_into_pool()
        await self._pool.check()

    async def _configure(self, connection: Connection) -> None:
        # Sent as the smallest type that holds its value, a number would make another prepared statement for each.
        connection.adapters.register_dumper(int, Int8Dumper)
        if self._pooled or await leads_through_pooler(connection):
            connection.prepare_threshold = None
        else:
            await self._set_up_session(connection)
        cursor = await connection.execute(_WHERE)
        row = await cursor.fetchone()
        self.database = DatabaseId(*row[:2]) if row is not None else None
        self.server_started = row[2] if row is not None else None
        self.outage.over()

    async def _set_up_session(self, connection: Connection) -> None:
        milliseconds = int(self._statement_timeout.total_seconds() * 1000)
        settings = {**_SESSION, "statement_timeout": f"{milliseconds}ms"}
        await connection.execute(
            "SELECT set_config(name, setting, false) FROM unnest(%s::text[], %s::text[]) AS s (name, setting)"
            # P1: ticks are durable before anything that they bound is delivered.
            " UNION ALL SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'",
            (list(settings), list(settings.values())),
        )


def load_as_sent(cursor: Cursor) -> None:
    """Let a cursor of binary results give texts, times and transaction numbers as `Connections.fetch` does."""
    for name, loader in _AS_SENT:
        cursor.adapters.register_loader(name, loader)


async def _in_time(work: Callable[[Connection], Awaitable[_T]], seconds: float, connection: Connection) -> _T:
    async with asyncio.timeout(seconds):
        return await work(connection)


async def leads_through_pooler(connection: Connection) -> bool:
    """Whether somebody stands between: the process that was announced is not the one that answers."""
    cursor = await connection.execute("SELECT pg_backend_pid()")
    row = await cursor.fetchone()
    return row is not None and row[0] != connection.info.backend_pid


async def keep_to_own_names(connection: Connection) -> None:
    """Give the session of an operator's command the search path of our own; behind a pooler it is somebody else's too.

    Raises psycopg.Error.
    """
    if not await leads_through_pooler(connection):
        await connection.execute(f"SET search_path = {_SEARCH_PATH}".encode())


def transport_options(dsn: str, application_name: str) -> dict[str, Any]:
    """Arguments for `psycopg.AsyncConnection.connect` beside the connection string."""
    given = conninfo_to_dict(dsn)
    wanted = {"application_name": application_name, **_TRANSPORT}
    return {
        "autocommit": True,
        # Whatever the database's is: texts go on as they come.
        "client_encoding": "utf8",
        **{name: value for name, value in wanted.items() if name not in given},
    }
