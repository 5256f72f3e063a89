"""Applies the SQL files under `migrations/`, in order, each once."""

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
from psycopg.rows import TupleRow

from changefeed_gateway.providers.postgres.errors import OperationError, operation_error

_FILE_NAME: Final = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
_LOCK: Final = (1667655787, 1)
"""Advisory lock: one process at a time applies."""

Connection = psycopg.AsyncConnection[TupleRow]


class MigrationSet(Enum):
    """What can be installed, in the order in which it must be."""

    LOG = "log"
    """The change log itself: all that an operator's own database needs."""
    DOCUMENTS = "documents"
    """The documents schema and its feed."""


class MigrationState(Enum):
    """Where a migration stands in a database."""

    PENDING = "pending"
    APPLIED = "applied"
    EDITED = "edited"
    """Applied, and its file has been changed since."""


class MigrationError(OperationError):
    """A migration cannot be applied; the message names its file and says what to do."""


class _Id(NamedTuple):
    set: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One SQL file."""

    set: MigrationSet
    version: int
    name: str
    sql: str

    @property
    def file(self) -> str:
        """Its path under `migrations/`."""
        return f"{self.set.value}/{self.version:04}_{self.name}.sql"

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

    Raises MigrationError for a file whose name is not `NNNN_name.sql` or whose version is taken.
    """
    root = _root()
    return [migration for chosen in MigrationSet if chosen in sets for migration in _load_set(root, chosen)]


async def migrate(dsn: str, *, documents: bool = False) -> list[Migration]:
    """Apply what is pending of the change log, and of the documents schema if asked; answers what was applied.

    Safe to call at any time and from several processes at once; each file is one transaction. Raises MigrationError,
    before anything is applied where a file that was applied is not the same any more.
    """
    wanted = load_migrations(tuple(MigrationSet) if documents else (MigrationSet.LOG,))
    async with _exclusive(dsn) as connection:
        applied = await _applied(connection)
        if edited := [m.file for m in wanted if _state(m, applied) is MigrationState.EDITED]:
            raise MigrationError(
                f"{', '.join(edited)} was edited after it had been applied: restore the file and put the change"
                " into a new one"
            )
        pending = [m for m in wanted if _state(m, applied) is MigrationState.PENDING]
        for migration in pending:
            await _apply(connection, migration)
    return pending


async def migration_status(dsn: str) -> list[MigrationStatus]:
    """What a database knows of every migration, in the order in which they are applied."""
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            applied = await _applied(connection)
    except psycopg.Error as error:
        raise _failed("the database does not answer", error) from error
    return [
        MigrationStatus(
            migration=migration,
            state=_state(migration, applied),
            applied_at=known.applied_at if (known := applied.get(_id(migration))) else None,
        )
        for migration in load_migrations()
    ]


class _Record(NamedTuple):
    checksum: str
    applied_at: datetime


def _id(migration: Migration) -> _Id:
    return _Id(migration.set.value, migration.version)


def _state(migration: Migration, applied: Mapping[_Id, _Record]) -> MigrationState:
    known = applied.get(_id(migration))
    if known is None:
        return MigrationState.PENDING
    return MigrationState.APPLIED if known.checksum == migration.checksum else MigrationState.EDITED


def _root() -> Traversable:
    """The files lie inside the installed package; in a checkout, at the top."""
    installed = files("changefeed_gateway").joinpath("migrations")
    return installed if installed.is_dir() else Path(__file__).parents[5] / "migrations"


def _load_set(root: Traversable, chosen: MigrationSet) -> list[Migration]:
    found: dict[int, Migration] = {}
    for file in root.joinpath(chosen.value).iterdir():
        if not file.name.endswith(".sql"):
            continue
        parts = _FILE_NAME.fullmatch(file.name)
        if parts is None or int(parts["version"]) in found:
            raise MigrationError(f"{chosen.value}/{file.name}: name it NNNN_name.sql, with a number of its own")
        version = int(parts["version"])
        text = file.read_text(encoding="utf-8")
        found[version] = Migration(set=chosen, version=version, name=parts["name"], sql=text)
    return [found[version] for version in sorted(found)]


@asynccontextmanager
async def _exclusive(dsn: str) -> AsyncIterator[Connection]:
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute("SELECT pg_advisory_lock(%s, %s)", _LOCK)
            yield connection
    except psycopg.Error as error:
        raise _failed("the database does not answer", error) from error


async def _applied(connection: Connection) -> dict[_Id, _Record]:
    known = await connection.execute("SELECT to_regclass('changefeed.migrations') IS NOT NULL")
    row = await known.fetchone()
    if row is None or not row[0]:
        return {}
    rows = await connection.execute("SELECT set, version, checksum, applied_at FROM changefeed.migrations")
    return {_Id(set_, version): _Record(checksum, at) async for set_, version, checksum, at in rows}


async def _apply(connection: Connection, migration: Migration) -> None:
    try:
        async with connection.transaction():
            # Waiting for a lock, DDL makes everybody behind it wait too.
            await connection.execute("SET LOCAL lock_timeout = '10s'")
            await connection.execute(migration.sql.encode())
            await connection.execute(
                "INSERT INTO changefeed.migrations (set, version, name, checksum) VALUES (%s, %s, %s, %s)",
                (migration.set.value, migration.version, migration.name, migration.checksum),
            )
    except psycopg.Error as error:
        raise _failed(migration.file, error) from error


def _failed(what: str, error: psycopg.Error) -> MigrationError:
    category = operation_error(error).category
    return MigrationError(f"{what}: {error.diag.message_primary or str(error).strip()}", category)
