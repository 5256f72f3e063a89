"""Applies the SQL files under `migrations/`.

A set has two folders. `tables/` is its history: steps in the order of their numbers, each once. `functions/` is what it
is today: each file is applied again whenever its text has changed.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from importlib.abc import Traversable
from importlib.resources import files
from pathlib import Path
from typing import Final, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from changefeed_gateway.providers.postgres.errors import OperationError, operation_error

_STEP: Final = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
_TOPIC: Final = re.compile(r"[a-z0-9_]+\.sql")
_LOCK: Final = (1667655787, 1)
"""Advisory lock: one process at a time applies."""

Connection = psycopg.AsyncConnection[TupleRow]


class MigrationSet(Enum):
    """What can be installed, in the order in which it must be."""

    LOG = "log"
    """The change log itself: all that an operator's own database needs."""
    DOCUMENTS = "documents"
    """The documents schema and its feed."""


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


class MigrationError(OperationError):
    """A migration cannot be applied; the message names its file and says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One SQL file."""

    set: MigrationSet
    name: str
    """Of a step without its number; of a file of functions its topic."""
    version: int | None
    """The number of a step; None for functions."""
    sql: str

    @property
    def file(self) -> str:
        """Its path under `migrations/`."""
        if self.version is None:
            return f"{self.set.value}/functions/{self.name}.sql"
        return f"{self.set.value}/tables/{self.version:04}_{self.name}.sql"

    @property
    def checksum(self) -> str:
        """SHA-256 of its text, hexadecimal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationStatus:
    """One migration and what a database knows of it."""

    migration: Migration
    state: MigrationState
    applied_at: datetime | None


def load_migrations(sets: Sequence[MigrationSet] = tuple(MigrationSet)) -> list[Migration]:
    """Read the files of some sets, in the order in which they are applied.

    Raises MigrationError for a file that is not named as its folder demands, or whose version is taken.
    """
    root = _root()
    return [migration for chosen in MigrationSet if chosen in sets for migration in _load_set(root, chosen)]


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


def _root() -> Traversable:
    """The files lie inside the installed package; in a checkout, at the top."""
    installed = files("changefeed_gateway").joinpath("migrations")
    return installed if installed.is_dir() else Path(__file__).parents[5] / "migrations"


def _load_set(root: Traversable, chosen: MigrationSet) -> list[Migration]:
    folder = root.joinpath(chosen.value)
    steps: dict[int, Migration] = {}
    for name, text in _files(folder.joinpath("tables")):
        parts = _STEP.fullmatch(name)
        if parts is None or int(parts["version"]) in steps:
            raise MigrationError(f"{chosen.value}/tables/{name}: name it NNNN_name.sql, with a number of its own")
        version = int(parts["version"])
        steps[version] = Migration(set=chosen, version=version, name=parts["name"], sql=text)
    functions: list[Migration] = []
    for name, text in _files(folder.joinpath("functions")):
        if not _TOPIC.fullmatch(name):
            raise MigrationError(f"{chosen.value}/functions/{name}: name it by its topic, topic.sql")
        functions.append(Migration(set=chosen, version=None, name=name.removesuffix(".sql"), sql=text))
    return [*(steps[version] for version in sorted(steps)), *functions]


def _files(folder: Traversable) -> list[tuple[str, str]]:
    found = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    return sorted((file.name, file.read_text(encoding="utf-8")) for file in found)


@asynccontextmanager
async def _exclusive(dsn: str) -> AsyncIterator[Connection]:
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            # Whatever the database's default is: a step that waits for a lock sees what was committed meanwhile.
            await connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
            await connection.execute("SELECT pg_advisory_lock(%s, %s)", _LOCK)
            yield connection
    except psycopg.Error as error:
        raise _failed("the database does not answer", error) from error


async def _known(connection: Connection) -> dict[_Id, _Record]:
    known: dict[_Id, _Record] = {}
    for table, columns in (("migrations", "version, NULL, name"), ("functions", "NULL, topic, topic")):
        there = await connection.execute("SELECT to_regclass(%s) IS NOT NULL", (f"changefeed.{table}",))
        if await there.fetchone() == (True,):
            query = sql.SQL("SELECT set, {}, checksum, applied_at FROM changefeed.{}")
            rows = await connection.execute(query.format(sql.SQL(columns), sql.Identifier(table)))
            async for set_, version, topic, *record in rows:
                known[_Id(MigrationSet(set_), version, topic)] = _Record(*record)
    return known


async def _apply(connection: Connection, pending: Sequence[Migration], *, regrouped: bool) -> None:
    at = "the steps of before"
    try:
        async with connection.transaction():
            # Waiting for a lock, DDL makes everybody behind it wait too.
            await connection.execute("SET LOCAL lock_timeout = '10s'")
            # A function may call what a later file has.
            await connection.execute("SET LOCAL check_function_bodies = off")
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
