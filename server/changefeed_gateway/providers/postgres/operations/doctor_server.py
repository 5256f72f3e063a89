"""Examines what feeds depend on outside of their own tables: transactions, sequences, roles, settings."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from changefeed_gateway.core.finding import Finding

Connection = psycopg.AsyncConnection[TupleRow]

OLD: Final = timedelta(minutes=15)
"""Age of an open or prepared transaction from which its changes are felt to be missing and days cannot be dropped."""
_FEWEST_NUMBERS: Final = 2**62
"""Numbers left in a sequence below which there is time, but something is wrong: it had twice as many."""

_OLDEST: Final = """
    SELECT a.pid, a.state, clock_timestamp() - a.xact_start FROM pg_stat_activity a
    WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_backend_pid() ORDER BY a.xact_start LIMIT 1
"""

_PREPARED: Final = """
    SELECT p.gid, clock_timestamp() - p.prepared FROM pg_prepared_xacts p ORDER BY p.prepared LIMIT 1
"""

_SEQUENCES: Final = """
    SELECT f.name, s.schemaname || '.' || s.sequencename, s.max_value - coalesce(s.last_value, 0), s.cache_size,
        s.cycle OR s.increment_by <> 1
    FROM changefeed.feeds f
    JOIN pg_sequences s ON s.schemaname = 'changefeed_log' AND s.sequencename = format('seq_%s', f.feed_id)
    ORDER BY f.feed_id
"""

_ROLE: Final = """
    SELECT current_user::text, pg_has_role('changefeed_reader', 'usage'), pg_has_role('changefeed_owner', 'usage'),
        pg_has_role('pg_read_all_stats', 'usage')
    WHERE to_regrole('changefeed_owner') IS NOT NULL AND to_regrole('changefeed_reader') IS NOT NULL
"""

_CAPTURE: Final = """
    SELECT o.rolbypassrls FROM pg_roles o WHERE o.rolname = 'changefeed_capture'
"""

_HIDDEN: Final = """
    SELECT c.oid::regclass::text, c.relrowsecurity AND NOT o.rolbypassrls,
        has_table_privilege(o.oid, c.oid, 'select') AND has_schema_privilege(o.oid, c.relnamespace, 'usage')
    FROM changefeed.feeds f JOIN pg_class c ON c.oid = f.source, pg_roles o
    WHERE o.rolname = 'changefeed_capture' ORDER BY 1
"""


async def transactions(connection: Connection) -> AsyncIterator[Finding]:
    """The oldest open transaction that may have written, and the oldest prepared one. Raises psycopg.Error."""
    row = await (await connection.execute(_OLDEST)).fetchone()
    pid, state, age = row or (0, "", timedelta(0))
    healthy = age is None or age < OLD
    since = "since when is hidden from this role" if age is None else f"{state}, open for {rounded(age)}"
    yield Finding(
        subject="oldest transaction",
        healthy=healthy,
        detail=f"pid {pid}, {since}" if row else "none is open",
        remedy=""
        if healthy
        else f"end it, or SELECT pg_terminate_backend({pid}): what it wrote is not delivered before",
    )
    row = await (await connection.execute(_PREPARED)).fetchone()
    gid, age = row or ("", timedelta(0))
    healthy = age < OLD
    command = sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)).as_string()
    yield Finding(
        subject="prepared transactions",
        healthy=healthy,
        detail=f"the oldest, {gid}, was prepared {rounded(age)} ago" if row else "none",
        remedy="" if healthy else f"have its coordinator end it, or {command}: it keeps days from being dropped",
    )


async def sequences(connection: Connection) -> AsyncIterator[Finding]:
    """Whether each feed's numbers last, and are drawn one by one. Raises psycopg.Error."""
    for feed, name, left, cache, odd in await (await connection.execute(_SEQUENCES)).fetchall():
        if cache != 1 or odd:
            detail, remedy = (
                f"CACHE {cache}",
                f"ALTER SEQUENCE {name} CACHE 1 INCREMENT 1 NO CYCLE: order depends on it",
            )
        elif left < _FEWEST_NUMBERS:
            detail = f"{left} numbers left"
            remedy = "unwatch the table and watch it again: the new feed begins at 1, readers start anew"
        else:
            detail, remedy = f"{left} numbers left, CACHE 1", ""
        yield Finding(subject=f"sequence of {feed}", healthy=not remedy, detail=detail, remedy=remedy)


async def role(connection: Connection) -> Finding | None:
    """What this login may do; None where no migration has made the roles. Raises psycopg.Error."""
    if (row := await (await connection.execute(_ROLE)).fetchone()) is None:
        return None
    user, reader, owner, stats = row
    may = "reads, makes ticks and runs retention" if owner else "reads and makes ticks; retention is left to others"
    if not stats:
        may += "; how long transactions of others are open is hidden from it (pg_read_all_stats shows it)"
    fit = reader or owner
    return Finding(
        subject="role",
        healthy=fit,
        detail=f"{user} {may}" if fit else f"{user} is no member of changefeed_reader",
        remedy="" if fit else f"GRANT changefeed_reader TO {sql.Identifier(user).as_string()}",
    )


async def readable(connection: Connection) -> AsyncIterator[Finding]:
    """What capture may read, and the watched tables that it may not read whole. Raises psycopg.Error."""
    row = await (await connection.execute(_CAPTURE)).fetchone()
    policies = "passes by policies" if row and row[0] else "is held to policies (no BYPASSRLS)"
    detail = f"changefeed_capture appends to logs, reads watched tables, and {policies}"
    yield Finding(subject="role of capture", healthy=True, detail=detail)
    for table, hidden, may_read in await (await connection.execute(_HIDDEN)).fetchall():
        if hidden:
            detail, remedy = (
                "a policy may hide rows from capture",
                "ALTER ROLE changefeed_capture BYPASSRLS, as a superuser",
            )
        elif not may_read:
            detail = "capture may not read it"
            remedy = f"GRANT SELECT ON {table} TO changefeed_capture, and USAGE on its schema"
        else:
            continue
        yield Finding(subject=f"role of {table}", healthy=False, detail=detail, remedy=remedy)


async def replication_role(connection: Connection) -> Finding:
    """Whether sessions begin with triggers that do not fire. Raises psycopg.Error."""
    cursor = await connection.execute("SELECT current_setting('session_replication_role')")
    (role,) = await cursor.fetchone() or ("",)
    healthy = role != "replica"
    return Finding(
        subject="replication role",
        healthy=healthy,
        detail=f"{role}: {'capture fires' if healthy else 'capture fires only for feeds watched with always'}",
        remedy="" if healthy else "set session_replication_role to origin where writers connect, or watch with always",
    )


def rounded(age: timedelta) -> timedelta:
    """An age in whole seconds, for people."""
    return timedelta(seconds=round(age.total_seconds()))
