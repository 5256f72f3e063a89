"""Dumps of a database, and restores of them, by PostgreSQL's own programs."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg import sql

from tests.databases import PostgresForTests


@asynccontextmanager
async def dumped(server: PostgresForTests, dsn: str) -> AsyncIterator[str]:
    """A dump in the custom format; answers its path."""
    with tempfile.TemporaryDirectory() as place:
        path = f"{place}/dump"
        status, said = await run(server, "pg_dump", "--format=custom", f"--file={path}", dsn)
        assert status == 0, said
        yield path


async def run(server: PostgresForTests, program: str, *arguments: str) -> tuple[int, str]:
    """Run one of the server's programs; answers its exit status and what it complained of."""
    process = await asyncio.create_subprocess_exec(
        str(server.server.binaries / program), *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    return process.returncode or 0, said.decode()


async def restore(server: PostgresForTests, dump: str, name: str, *options: str) -> str:
    """Make a database and restore a dump into it, as an operator does; answers its connection string."""
    await server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    dsn = server.dsn(name)
    status, said = await run(server, "pg_restore", "--exit-on-error", *options, "-d", dsn, dump)
    assert status == 0, said
    return dsn
