"""A real PostgreSQL for tests: one server a process, one database a test, copied from a migrated template."""

import itertools
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from changefeed_gateway.providers.postgres.embedded.server import EmbeddedPostgres
from changefeed_gateway.providers.postgres.operations.migrations import migrate

LOG = "template_log"
"""Template that holds the change log only."""
DOCUMENTS = "template_documents"
"""Template that holds the documents schema and its feed too."""


BINARIES = Path(os.environ["POSTGRES_BINARIES"]) if "POSTGRES_BINARIES" in os.environ else None
"""Programs of the server to test with; without, those of the embedded one."""

PARAMETERS = {"max_connections": "300", "fsync": "off", "full_page_writes": "off", "max_wal_size": "256MB"}
"""A test's database need not outlive the machine, and its server lies in memory."""

_MEMORY = Path("/dev/shm")
_ROOM = 4 * 2**30
"""Bytes that the servers of a run need, and more."""


def server_directory() -> TemporaryDirectory[str]:
    """A directory for the data of servers, gone at the end: in memory where there is room for it.

    A database is 300 files, made and removed for every test. ext4 gives the number of a file that was removed to no
    other for a minute, and looks at each that it keeps back whenever it makes a file: one database then takes ten
    times as long.
    """
    # Not below pytest's folder, which each session closes to other users: run by root, the server is one of them.
    return TemporaryDirectory(prefix="changefeed-tests-", dir=_MEMORY if _has_room(_MEMORY) else None)


def _has_room(place: Path) -> bool:
    if not os.access(place, os.W_OK):
        return False
    return min(shutil.disk_usage(place).free, psutil.virtual_memory().available) >= _ROOM


async def settle(template: str) -> None:
    """Let a first session write what makes the next ones begin faster: copies have it too."""
    await (await psycopg.AsyncConnection.connect(template)).close()


class PostgresForTests:
    """A running server and the databases on it."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server = server
        self._numbers = itertools.count(1)

    async def execute(self, *statements: sql.SQL | sql.Composed) -> None:
        """Run statements in the maintenance database, each in a transaction of its own."""
        async with await psycopg.AsyncConnection.connect(self.server.dsn, autocommit=True) as connection:
            for statement in statements:
                await connection.execute(statement)

    def dsn(self, database: str) -> str:
        """Connection string of a database on this server."""
        return make_conninfo(self.server.dsn, dbname=database)

    async def make_templates(self) -> None:
        """Migrate once; every test copies."""
        for template, documents in ((LOG, False), (DOCUMENTS, True)):
            await self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(template)))
            await migrate(self.dsn(template), documents=documents)
            await settle(self.dsn(template))

    async def fresh(self, template: str = DOCUMENTS) -> str:
        """A new database; answers its connection string."""
        name = f"test_{next(self._numbers)}"
        copy = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
        await self.execute(copy.format(sql.Identifier(name), sql.Identifier(template)))
        return self.dsn(name)

    async def drop(self, dsn: str) -> None:
        """Remove a database, its sessions with it."""
        name = sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]))
        await self.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))


@asynccontextmanager
async def running_postgres(binaries: Path | None = BINARIES) -> AsyncIterator[PostgresForTests]:
    """A server in a directory of its own, gone at the end."""
    with server_directory() as directory:
        async with EmbeddedPostgres(Path(directory) / "data", parameters=PARAMETERS, binaries=binaries) as server:
            postgres = PostgresForTests(server)
            await postgres.make_templates()
            yield postgres
