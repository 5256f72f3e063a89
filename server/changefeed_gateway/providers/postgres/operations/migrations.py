"""Applies the SQL files under `migrations/`, and says what a database has of them."""

import asyncio
import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from changefeed_gateway.core.errors import Category
from changefeed_gateway.providers.postgres.connections import keep_to_own_names
from changefeed_gateway.providers.postgres.errors import operation_error
from changefeed_gateway.providers.postgres.operations.migration_files import (
    Migration,
    MigrationError,
    MigrationSet,
    load_migrations,
)

_LOCK: Final = (1667655787, 1)
"""Advisory lock: one process at a time applies."""
_LONGEST_MIGRATION: Final = "10min"
"""How long another one's is waited for; any login of the database could hold that lock."""


class _Tries(NamedTuple):
    """How the tables of others are locked, who stand behind each try."""

    bound: str
    """Of a try."""
    times: int
    pause: float
    """Seconds between two, on average."""


_ONE_TABLE: Final = _Tries("3s", 5, 1.0)
"""Longer than `deadlock_timeout`, after which PostgreSQL lets pass who has read the table and goes on to write it."""
_SEVERAL: Final = _Tries("250ms", 60, 0.05)
"""Shorter than `deadlock_timeout`, after which PostgreSQL ends one of those who wait for each other, which might be one
of these."""

Connection = psycopg.AsyncConnection[TupleRow]


_REGROUPED: Final = {MigrationSet.LOG: 2, MigrationSet.DOCUMENTS: 1}
"""Before the first release steps were regrouped: up to these, they make the tables that the earlier ones had made."""


_CORRECTED: Final = {
    "log/tables/0004_buckets.sql": "ac70f9799e67189ae88570e4d24a0c217c5d67fce3a65a3f8023bed2a528aa51",
    "log/tables/0005_day_floor.sql": "208015f0e579efbb3fb5c7ba48e254dbc1d314645c16aae442927e3180785423",
    "log/tables/0007_own_hash.sql": "f6af527b2be9f57242c184e365fb51c60b5778ba6dd0eff3daa66da7e9fa20f8",
}
"""Before the first release these steps were corrected, for tables that were dropped while they were watched and for
publications of all tables: the checksums of before, for databases to which they had been applied."""


class MigrationState(Enum):
    """Where a migration stands in a database."""

    PENDING = "pending"
    APPLIED = "applied"
    EDITED = "edited"
    """Applied, and the file of the step has been changed since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationStatus:
    """One migration and what a database knows of it."""

    migration: Migration
    state: MigrationState
    applied_at: datetime | None


async def migrate(dsn: str, *, documents: bool = False) -> list[Migration]:
    """Apply what is pending of the change log, and of the documents schema if asked or there; answers what was applied.

    Safe to call at any time and from several processes at once; all of it is one transaction. Raises MigrationError
    where something cannot be applied, or a step that was applied is not the same any more: nothing is changed then.
    """
    async with _exclusive(dsn) as connection:
        known = await _known(connection)
        sets = [s for s in MigrationSet if s is MigrationSet.LOG or documents or s in {id_.set for id_ in known}]
        wanted = load_migrations(sets)
        if edited := [m.file for m in wanted if _state(m, known) is MigrationState.EDITED]:
            raise MigrationError(
                f"{', '.join(edited)} was edited after it had been applied: restore the file and put the change"
                " into a new one"
            )
        pending = [m for m in wanted if _state(m, known) is MigrationState.PENDING]
        if pending:
            await _apply(connection, pending, regrouped=_regrouped(known))
    return pending


async def migration_status(dsn: str) -> list[MigrationStatus]:
    """What a database knows of every migration, in the order in which they are applied."""
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await keep_to_own_names(connection)
            known = await _known(connection)
    except psycopg.Error as error:
        raise _failed("the database does not answer", error) from error
    return [
        MigrationStatus(
            migration=migration,
            state=_state(migration, known),
            applied_at=record.applied_at if (record := known.get(_id(migration))) else None,
        )
        for migration in load_migrations()
    ]


class _Id(NamedTuple):
    set: MigrationSet
    version: int | None
    topic: str | None


class _Record(NamedTuple):
    name: str
    checksum: str
    applied_at: datetime


def _id(migration: Migration) -> _Id:
    return _Id(migration.set, migration.version, migration.name if migration.version is None else None)


def _state(migration: Migration, known: Mapping[_Id, _Record]) -> MigrationState:
    if _regrouped(known):
        # Versions of that time were others' steps.
        there = _Id(migration.set, 1, None) in known
        return MigrationState.APPLIED if there and _replaces(migration) else MigrationState.PENDING
    record = known.get(_id(migration))
    if record is None:
        return MigrationState.PENDING
    if record.checksum in (migration.checksum, _CORRECTED.get(migration.file)):
        return MigrationState.APPLIED
    return MigrationState.PENDING if migration.version is None else MigrationState.EDITED


def _regrouped(known: Mapping[_Id, _Record]) -> bool:
    """Whether the database has the last state before the first steps were regrouped: the same tables."""
    return (record := known.get(_Id(MigrationSet.LOG, 13, None))) is not None and record.name == "days"


def _replaces(migration: Migration) -> bool:
    """Whether a step stands for regrouped ones."""
    return migration.version is not None and migration.version <= _REGROUPED[migration.set]


@asynccontextmanager
async def _exclusive(dsn: str) -> AsyncIterator[Connection]:
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            # Whatever the database's default is: a step that waits for a lock sees what was committed meanwhile.
            await connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
            await keep_to_own_names(connection)
            await _lock_out_others(connection)
            yield connection
    except psycopg.Error as error:
        raise _failed("the database does not answer", error) from error


async def _lock_out_others(connection: Connection) -> None:
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = '{_LONGEST_MIGRATION}'".encode())
            # Of the session: it outlives this transaction.
            await connection.execute("SELECT pg_advisory_lock(%s, %s)", _LOCK)
    except psycopg.errors.LockNotAvailable as error:
        raise MigrationError(
            f"another session has held the lock of migrations for {_LONGEST_MIGRATION}: see pg_locks, locktype"
            f" advisory, classid {_LOCK[0]}, objid {_LOCK[1]}, and end it if it is no migration",
            Category.TRANSIENT_FAILURE,
        ) from error


async def _known(connection: Connection) -> dict[_Id, _Record]:
    known: dict[_Id, _Record] = {}
    for table, columns in (("migrations", "version, NULL, name"), ("functions", "NULL, topic, topic")):
        if await _is_there(connection, f"changefeed.{table}"):
            query = sql.SQL("SELECT set, {}, checksum, applied_at FROM changefeed.{}")
            rows = await connection.execute(query.format(sql.SQL(columns), sql.Identifier(table)))
            async for set_, version, topic, *record in rows:
                known[_Id(MigrationSet(set_), version, topic)] = _Record(*record)
    return known


async def _apply(connection: Connection, pending: Sequence[Migration], *, regrouped: bool) -> None:
    at = "the tables that are captured"
    try:
        async with connection.transaction():
            # Waiting for a lock, DDL makes everybody behind it wait too.
            await connection.execute("SET LOCAL lock_timeout = '10s'")
            # A function may call what a later file has.
            await connection.execute("SET LOCAL check_function_bodies = off")
            await _lock_users_out(connection, pending)
            at = "the steps of before"
            if regrouped:
                await _record_as_regrouped(connection)
            for migration in pending:
                at = migration.file
                await connection.execute(migration.sql.encode())
                await _record(connection, migration)
            at = "changefeed.end_migration"
            await connection.execute("SELECT changefeed.end_migration()")
    except psycopg.Error as error:
        raise _failed(at, error) from error


async def _lock_users_out(connection: Connection, pending: Sequence[Migration]) -> None:
    """Lock the tables that are captured before all else, as their writers do: first the table, then the log.

    Of several, all or none: where somebody uses them, they are let go of and tried again, so nobody waits for ever.
    """
    locks = await _locks(connection, {migration.set for migration in pending if migration.version is not None})
    together = sql.SQL("DO {}").format(sql.Literal(f"BEGIN {'; '.join(locks)}; END"))
    tries = _SEVERAL if len(locks) > 1 else _ONE_TABLE
    for left in reversed(range(tries.times)) if locks else ():
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL statement_timeout = '{tries.bound}'".encode())
                await connection.execute(together)
                await connection.execute("SET LOCAL statement_timeout TO DEFAULT")
            return
        except psycopg.errors.QueryCanceled:
            if not left:
                raise MigrationError(
                    f"a transaction that does not end, or writers without a pause, keep it from {', '.join(locks)}: try"
                    " again when they have ended",
                    Category.TRANSIENT_FAILURE,
                ) from None
        await asyncio.sleep(tries.pause * random.uniform(0, 2))  # noqa: S311 - spread, not secrecy


async def _locks(connection: Connection, steps: Collection[MigrationSet]) -> list[str]:
    locks: list[str] = []
    if MigrationSet.DOCUMENTS in steps and await _is_there(connection, "documents.files"):
        # An index of it is dropped, for which those who only read must wait as well.
        locks.append("LOCK TABLE documents.files IN ACCESS EXCLUSIVE MODE")
    if MigrationSet.LOG in steps:
        tables = await _captured_tables(connection)
        locks += [f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE" for table in tables]
    return locks


async def _captured_tables(connection: Connection) -> list[str]:
    if not await _is_there(connection, "changefeed.feeds"):
        return []
    found = await connection.execute(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p') AND has_table_privilege(c.oid, 'UPDATE, DELETE, TRUNCATE')"
        " AND (c.oid IN (SELECT f.source FROM changefeed.feeds f)"
        " OR n.nspname = 'documents' AND c.relname IN ('files', 'file_versions', 'file_tags', 'runs')) ORDER BY c.oid"
    )
    return [table async for (table,) in found]


async def _is_there(connection: Connection, table: str) -> bool:
    found = await connection.execute("SELECT to_regclass(%s) IS NOT NULL", (table,))
    return await found.fetchone() == (True,)


async def _record(connection: Connection, migration: Migration) -> None:
    if migration.version is None:
        await connection.execute(
            "INSERT INTO changefeed.functions (set, topic, checksum) VALUES (%s, %s, %s) ON CONFLICT (set, topic)"
            " DO UPDATE SET checksum = excluded.checksum, applied_at = clock_timestamp()",
            (migration.set.value, migration.name, migration.checksum),
        )
    else:
        await connection.execute(
            "INSERT INTO changefeed.migrations (set, version, name, checksum) VALUES (%s, %s, %s, %s)",
            (migration.set.value, migration.version, migration.name, migration.checksum),
        )


async def _record_as_regrouped(connection: Connection) -> None:
    there = await connection.execute("DELETE FROM changefeed.migrations RETURNING set")
    sets = [MigrationSet(set_) for set_ in {row[0] for row in await there.fetchall()}]
    for migration in load_migrations(sets):
        if _replaces(migration):
            await _record(connection, migration)


def _failed(what: str, error: psycopg.Error) -> MigrationError:
    category = operation_error(error).category
    return MigrationError(f"{what}: {error.diag.message_primary or str(error).strip()}", category)
