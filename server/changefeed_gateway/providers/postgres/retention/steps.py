"""Carries out the steps of retention, each so that a death in its middle leaves something the next run finishes."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, ParamSpec

import psycopg
from psycopg import sql
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from changefeed_gateway.providers.postgres.connections import Connection
from changefeed_gateway.providers.postgres.retention.days import ALWAYS, NEVER, Day
from changefeed_gateway.providers.postgres.retention.plan import Action, Step

_P = ParamSpec("_P")

_SHORT_WAIT: Final = "100ms"
"""For the one that does: every writer of the feed stands behind it."""
_BESIDE_NOBODY: Final = (Action.DETACH, Action.FINALIZE, Action.DROP, Action.REPLACE)
"""Wait for everybody who uses the table, readers too; the others only for DDL and maintenance of it."""

# Who has the oldest snapshot holds up a detach without any lock on the table.
_HOLDER: Final = """
    SELECT h.who FROM (
        SELECT h.who, h.since FROM unnest(%(tables)s::text[]) t,
            changefeed.lock_holders(to_regclass('changefeed_log.' || t)) h
        WHERE %(alone)s OR h.mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')
        UNION ALL
        SELECT changefeed.session(a.pid), a.xact_start FROM pg_stat_activity a
        WHERE %(detaches)s AND a.backend_xmin IS NOT NULL AND a.datname = current_database()
            AND a.pid <> pg_backend_pid()
    ) h ORDER BY h.since LIMIT 1
"""
_FINALIZE: Final = "ALTER TABLE {} DETACH PARTITION {} FINALIZE"


async def execute(connection: Connection, feed_id: int, step: Step) -> None:
    """Do one step, on a connection in autocommit. Raises psycopg.Error."""
    parent = sql.Identifier("changefeed_log", f"{step.part.value}_{feed_id}")
    match step.action:
        case Action.TICK:
            await connection.execute("SELECT changefeed.tick(%s)", (feed_id,))
        case Action.DETACH if len(step.days) > 1 or step.cut:
            await _patiently(_detach_together, connection, parent, step)
        case Action.DETACH:
            try:
                await _alter(connection, "ALTER TABLE {} DETACH PARTITION {} CONCURRENTLY", parent, step.days[0])
            except psycopg.errors.LockNotAvailable as given_up:
                # It waits for every transaction that has used the log, a forgotten prepared one too. FINALIZE waits for
                # snapshots only: for who could still see the table.
                try:
                    await _alter(connection, _FINALIZE, parent, step.days[0])
                except psycopg.errors.ObjectNotInPrerequisiteState:
                    raise given_up from None  # The detach was not begun.
        case Action.FINALIZE:
            await _alter(connection, _FINALIZE, parent, step.days[0])
        case Action.DROP:
            async with connection.transaction():
                await _drop_detached(connection, feed_id, step.days[0])
        case Action.ATTACH:
            async with connection.transaction():
                await _attach_again(connection, feed_id, parent, step.days[0])
        case Action.CREATE:
            async with connection.transaction():
                await _create(connection, feed_id, parent, step.days)
        case Action.REPLACE:
            await _patiently(_replace, connection, feed_id, parent, step)


async def lock_problem(connection: Connection, feed_id: int, step: Step) -> str:
    """Why a step did not get its lock: its days, who holds one (never what they run), the remedy. Raises psycopg.Error.

    The transaction is named that has been open for longest, if one can still be seen.
    """
    future = [f"{step.part.value}_{feed_id}_future"] if step.action is Action.REPLACE else []
    tables = [f"{step.part.value}_{feed_id}", *(day.name for day in step.days), *future]
    detaches = step.action in (Action.DETACH, Action.FINALIZE)
    arguments = {"tables": tables, "alone": step.action in _BESIDE_NOBODY, "detaches": detaches}
    cursor = await connection.execute(_HOLDER, arguments)
    (holder,) = await cursor.fetchone() or ("",)
    what = f"{step.action.value} {', '.join(day.name for day in step.days)} gave up waiting for a lock"
    if not holder:
        return f"{what}, which is free by now: run changefeed retention run again, or leave it to the next run"
    return (
        f"{what}, held up by {holder}. End it by its application, pg_terminate_backend or ROLLBACK PREPARED; the next"
        " run goes on from here, and until then nothing is lost"
    )


async def _patiently(work: Callable[_P, Awaitable[None]], *arguments: _P.args, **named: _P.kwargs) -> None:
    """Every try stalls the writers for the time of its lock at most, so the tries lie apart."""
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(psycopg.errors.LockNotAvailable),
        wait=wait_random_exponential(multiplier=0.2, max=5.0),
        stop=stop_after_attempt(10),
        reraise=True,
    )
    await retrying(work, *arguments, **named)


async def _detach_together(connection: Connection, parent: sql.Identifier, step: Step) -> None:
    """In one transaction: no reader sees a number missing between two others."""
    async with connection.transaction():
        await connection.execute("SELECT set_config('lock_timeout', %s, true)", (_SHORT_WAIT,))
        for day in step.cut:
            await connection.execute(sql.SQL("DELETE FROM {} WHERE id <= %s").format(_table(day)), (step.upto,))
        for day in step.days:
            await _alter(connection, "ALTER TABLE {} DETACH PARTITION {}", parent, day)


async def _replace(connection: Connection, feed_id: int, parent: sql.Identifier, step: Step) -> None:
    became, *created = step.days
    future = f"{step.part.value}_{feed_id}_future"
    async with connection.transaction():
        await connection.execute("SELECT set_config('lock_timeout', %s, true)", (_SHORT_WAIT,))
        await connection.execute(
            sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(parent, sql.Identifier("changefeed_log", future))
        )
        await connection.execute(
            sql.SQL("ALTER TABLE {} RENAME TO {}").format(
                sql.Identifier("changefeed_log", future), sql.Identifier(became.name)
            )
        )
        await _attach(connection, parent, became)
        await _create(connection, feed_id, parent, created)


async def _create(connection: Connection, feed_id: int, parent: sql.Identifier, days: Sequence[Day]) -> None:
    """The tables are new, so attaching them reads nothing and needs no CHECK, which every captured row would pay for.

    No writer and no reader waits for the locks of it. Needs a transaction, in which it becomes their owner.
    """
    await connection.execute("SET LOCAL ROLE changefeed_owner")
    for day in days:
        await connection.execute(sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(_table(day), parent))
        await _attach(connection, parent, day)
    await connection.execute("SELECT changefeed.mark_days(%s)", (feed_id,))


async def _attach_again(connection: Connection, feed_id: int, parent: sql.Identifier, day: Day) -> None:
    """Attach a table unless it is not of the feed's epoch any more. Needs a transaction."""
    # What begins a new epoch locks the parent too, so the mark is true until the end.
    await connection.execute(sql.SQL("LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE").format(parent))
    if await _is_loose(connection, feed_id, day):
        await _attach(connection, parent, day)


async def _is_loose(connection: Connection, feed_id: int, day: Day) -> bool:
    """Whether a table is detached and of the feed's epoch."""
    cursor = await connection.execute(
        "SELECT FROM changefeed.day_tables(%s) WHERE name = %s AND state = 'detached' AND marked", (feed_id, day.name)
    )
    return await cursor.fetchone() is not None


async def _attach(connection: Connection, parent: sql.Identifier, day: Day) -> None:
    low = sql.SQL("MINVALUE") if day.starts == ALWAYS else sql.Literal(day.starts.isoformat())
    high = sql.SQL("MAXVALUE") if day.ends == NEVER else sql.Literal(day.ends.isoformat())
    await connection.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
            parent, _table(day), low, high
        )
    )


async def _drop_detached(connection: Connection, feed_id: int, day: Day) -> None:
    """Drop a table unless it has become another one, or a partition, since it was looked at. Needs a transaction."""
    if await _is_loose(connection, feed_id, day):
        await connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(_table(day)))
        if await _is_loose(connection, feed_id, day):
            await connection.execute(sql.SQL("DROP TABLE {}").format(_table(day)))


async def _alter(connection: Connection, statement: str, parent: sql.Identifier, day: Day) -> None:
    await connection.execute(sql.SQL(statement).format(parent, _table(day)))


def _table(day: Day) -> sql.Identifier:
    return sql.Identifier("changefeed_log", day.name)
