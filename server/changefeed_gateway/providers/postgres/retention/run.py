"""Retention of a database's feeds: runs, looks, and the gateway's own loop."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import psycopg
import structlog
from psycopg import sql

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import Category
from changefeed_gateway.core.supervision import Done
from changefeed_gateway.providers.postgres.connections import (
    Connection,
    keep_to_own_names,
    leads_through_pooler,
    transport_options,
)
from changefeed_gateway.providers.postgres.errors import OperationError, of_outage, operation_error
from changefeed_gateway.providers.postgres.retention.days import FeedDays, Part, days_ahead
from changefeed_gateway.providers.postgres.retention.facts import read_after, read_days
from changefeed_gateway.providers.postgres.retention.obstacles import Obstacle, obstacles
from changefeed_gateway.providers.postgres.retention.plan import REFILL_BELOW, Step, next_step, plan
from changefeed_gateway.providers.postgres.retention.steps import execute, lock_problem

_WAIT: Final = "10s"
"""For locks that hold nobody up while they are waited for."""
_MOST_STEPS: Final = 500

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedRetention:
    """A feed's retention, as a run left it or as it was looked at."""

    feed: str
    facts: FeedDays | None = None
    steps: tuple[Step, ...] = ()
    """Done by a run, or planned."""
    obstacles: tuple[Obstacle, ...] = ()
    problem: str = ""
    """Why a run ended early; empty when it did not."""
    busy: bool = False
    """Another run was at work on it, so nothing was done."""
    last_run: datetime | None = None
    last_problem: str = ""

    @property
    def days_ahead(self) -> int:
        """Whole days after today that have a table, both of the log and of the ticks."""
        return min(days_ahead(self.facts, part) for part in Part) if self.facts else 0


class RetentionRuns:
    """What the runs of one gateway came to. Made inside the loop that it serves."""

    def __init__(self) -> None:
        self.succeeded = self.failed = 0
        self._since = monotonic()

    @property
    def age(self) -> float:
        """Seconds since the last run that ended well, or since the first could begin."""
        return monotonic() - self._since

    def note(self, *, well: bool) -> None:
        """Count a run."""
        if well:
            self.succeeded += 1
            self._since = monotonic()
        else:
            self.failed += 1


async def run(dsn: str) -> list[FeedRetention]:
    """Do what is due, feed by feed; what fails for one is reported and leaves the others alone.

    May be called at any time and from several processes at once. Raises OperationError when the database does not
    answer, the change log is not installed, or the login is no member of changefeed_owner.
    """
    async with _connected(dsn) as connection, aclosing(_Guard(dsn)) as guard:
        await _refuse_unfit(connection)
        return [await _run_feed(guard, connection, feed_id, name) for feed_id, name in await _feeds(connection)]


async def run_due(dsn: str) -> list[FeedRetention]:
    """As `run`, for the feeds alone in which there is something to do or to say; one statement finds them.

    The others' runs are noted as done.
    """
    async with _connected(dsn) as connection, aclosing(_Guard(dsn)) as guard:
        await _refuse_unfit(connection)
        cursor = await connection.execute("SELECT changefeed.feeds_due(%s)", (REFILL_BELOW,))
        due = {feed_id async for (feed_id,) in cursor}
        await connection.execute(
            "INSERT INTO changefeed.retention_runs SELECT f.feed_id, clock_timestamp(), 0, NULL FROM changefeed.feeds f"
            " WHERE f.feed_id <> ALL (%s) ON CONFLICT (feed_id) DO UPDATE"
            " SET ran_at = excluded.ran_at, steps = excluded.steps, problem = excluded.problem",
            (list(due),),
        )
        return [
            await _run_feed(guard, connection, feed, name) for feed, name in await _feeds(connection) if feed in due
        ]


async def examine(dsn: str) -> list[FeedRetention]:
    """What every feed holds, what a run would do, and what is in its way; changes nothing. Raises OperationError."""
    async with _connected(dsn) as connection:
        found = []
        for feed_id, name in await _feeds(connection):
            facts = await read_days(connection, feed_id)
            cursor = await connection.execute(
                "SELECT ran_at, problem FROM changefeed.retention_runs WHERE feed_id = %s", (feed_id,)
            )
            ran_at, problem = await cursor.fetchone() or (None, None)
            found.append(
                FeedRetention(
                    feed=name,
                    facts=facts,
                    steps=tuple(plan(facts)),
                    obstacles=tuple(obstacles(facts)),
                    last_run=ran_at,
                    last_problem=problem or "",
                )
            )
        return found


async def set_retention(dsn: str, feed: str, retention: timedelta) -> None:
    """How long a feed's history is kept. Raises OperationError for less than a day or more than 366."""
    async with _connected(dsn) as connection:
        await connection.execute("SELECT changefeed.set_retention(%s, %s)", (feed, retention))


async def keep_running(dsn: str, interval: timedelta, runs: RetentionRuns, done: Done) -> None:
    """Run again and again, at times that replicas do not share; ends by being cancelled.

    What is in a run's way is said by the log and by doctor, so `done` is called after every run.
    """
    pause = min(interval.total_seconds(), 10.0)
    while True:
        await asyncio.sleep(pause * random.uniform(0.1, 1.0))  # noqa: S311 - so that replicas differ, no secret
        pause = interval.total_seconds()
        try:
            found = await run_due(dsn)
        except OperationError as error:
            if not of_outage(error):
                _log.warning("no retention run for now", problem=str(error))
            well = False
        else:
            well = not any(feed.problem for feed in found)
        runs.note(well=well)
        pause = pause if well else min(pause, 60.0)
        done()


# --- One feed


async def _run_feed(guard: "_Guard", connection: Connection, feed_id: int, name: str) -> FeedRetention:
    done: list[Step] = []
    facts: FeedDays | None = None
    problem = ""
    try:
        # A copy begins anew before its days are judged by what they were in the original.
        await connection.execute("SELECT changefeed.adopt_log(%s)", (feed_id,))
        async with guard.exclusively(feed_id) as granted:
            if not granted:
                return FeedRetention(feed=name, busy=True)
            facts = await read_days(connection, feed_id)
            while len(done) < _MOST_STEPS and (step := next_step(facts)) is not None:
                await _do(connection, feed_id, step)
                days = [day.name for day in step.days]
                _log.info("retention", feed=name, action=step.action.value, days=days, reason=step.reason)
                done.append(step)
                facts = await read_after(connection, facts, step)
    except (psycopg.Error, OperationError) as error:
        facts = None
        problem = str(operation_error(error) if isinstance(error, psycopg.Error) else error)
        _log.warning("retention stopped", feed=name, problem=problem)
        if connection.closed:
            return FeedRetention(feed=name, steps=tuple(done), problem=problem)
    return await _report(connection, feed_id, name, done, problem, facts)


async def _do(connection: Connection, feed_id: int, step: Step) -> None:
    try:
        await execute(connection, feed_id, step)
    except psycopg.errors.LockNotAvailable as error:
        problem = await lock_problem(connection, feed_id, step)
        raise OperationError(problem, Category.TRANSIENT_FAILURE) from error


async def _report(
    connection: Connection, feed_id: int, name: str, done: Sequence[Step], problem: str, facts: FeedDays | None
) -> FeedRetention:
    """`facts` are read anew where a step has failed, which may have done a part of it."""
    try:
        await connection.execute(
            "INSERT INTO changefeed.retention_runs VALUES (%s, clock_timestamp(), %s, nullif(%s, ''))"
            " ON CONFLICT (feed_id) DO UPDATE"
            " SET ran_at = excluded.ran_at, steps = excluded.steps, problem = excluded.problem",
            (feed_id, len(done), problem),
        )
        facts = facts or await read_days(connection, feed_id)
    except psycopg.Error as error:
        return FeedRetention(feed=name, steps=tuple(done), problem=problem or str(operation_error(error)))
    except OperationError as error:
        return FeedRetention(feed=name, steps=tuple(done), problem=problem or str(error))
    found = tuple(obstacles(facts))
    for obstacle in found:
        if obstacle.alarm:
            _log.warning("retention needs a look", feed=name, day=obstacle.day, reason=obstacle.reason)
    return FeedRetention(feed=name, facts=facts, steps=tuple(done), obstacles=found, problem=problem)


class _Guard:
    """Keeps other runs from a feed, by a lock in an open transaction of a connection of its own.

    A lock of the session would be lost, or left behind, in a transaction pooler. One connection serves all feeds.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: Connection | None = None

    @asynccontextmanager
    async def exclusively(self, feed_id: int) -> AsyncIterator[bool]:
        """Whether no other run works on a feed, for as long as the context lasts. Raises psycopg.Error."""
        if self._connection is None or self._connection.closed:
            options = transport_options(self._dsn, "changefeed-retention")
            self._connection = await psycopg.AsyncConnection.connect(self._dsn, **options)
            await keep_to_own_names(self._connection)
        async with self._connection.transaction():
            yield await _locked(self._connection, feed_id)

    async def aclose(self) -> None:
        """Let go of what is held; idempotent."""
        if self._connection is not None:
            await self._connection.close()


async def _locked(guard: Connection, feed_id: int) -> bool:
    await guard.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    table = sql.Identifier("changefeed_log", f"lock_retention_{feed_id}")
    try:
        # Takes no snapshot, which FINALIZE would wait for.
        await guard.execute(sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE NOWAIT").format(table))
    except psycopg.errors.LockNotAvailable:
        return False
    return True


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[Connection]:
    """A connection that acts as the owner of the change log."""
    try:
        async with await psycopg.AsyncConnection.connect(
            dsn, **transport_options(dsn, "changefeed-retention")
        ) as connection:
            await keep_to_own_names(connection)
            await connection.execute(
                "SELECT set_config('lock_timeout', %s, false), set_config('statement_timeout', '0', false),"
                " set_config('timezone', 'UTC', false),"
                " set_config('default_transaction_isolation', 'read committed', false)",
                (_WAIT,),
            )
            cursor = await connection.execute("SELECT pg_is_in_recovery()")
            if (await cursor.fetchone() or (True,))[0]:
                raise OperationError("this server is a standby: retention runs on the primary")
            yield connection
    except psycopg.Error as error:
        raise operation_error(error) from error


async def _refuse_unfit(connection: Connection) -> None:
    if await leads_through_pooler(connection):
        raise OperationError("retention needs a direct connection: through a pooler its DDL and settings meet others")
    cursor = await connection.execute("SELECT current_user, pg_has_role('changefeed_owner', 'usage')")
    user, owner = await cursor.fetchone() or ("", False)
    if not owner:
        raise OperationError(
            f"{user} may not run retention: grant changefeed_operator to {user}, or set retention_interval to 0s and"
            " let an operator call changefeed retention run",
            Category.AUTHORIZATION_FAILED,
        )


async def _feeds(connection: Connection) -> list[tuple[int, str]]:
    cursor = await connection.execute("SELECT feed_id, name FROM changefeed.feeds ORDER BY feed_id")
    return await cursor.fetchall()
