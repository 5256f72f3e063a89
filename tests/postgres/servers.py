"""Copies of a running server: streaming standbys and physical clones."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg

from changefeed_gateway.providers.postgres.embedded.host import find_service_user
from changefeed_gateway.providers.postgres.embedded.server import EmbeddedPostgres
from tests.databases import PostgresForTests, server_directory


@asynccontextmanager
async def standby_of(primary: PostgresForTests, dsn: str) -> AsyncIterator[str]:
    """A streaming standby; answers the connection string of the same database there."""
    async with _copy_of(primary.server, dsn, "-R") as copy:
        yield copy


@asynccontextmanager
async def clone_of(original: PostgresForTests, dsn: str) -> AsyncIterator[str]:
    """A physical copy that goes its own way; answers the connection string of the same database there."""
    async with _copy_of(original.server, dsn) as copy:
        yield copy


@asynccontextmanager
async def _copy_of(server: EmbeddedPostgres, dsn: str, *options: str) -> AsyncIterator[str]:
    with server_directory() as place:
        directory = Path(place) / "data"
        process = await asyncio.to_thread(_start_copy, server, directory, *options)
        try:
            copy = psycopg.conninfo.make_conninfo(dsn, host=str(directory))
            await _until_connectable(copy)
            yield copy
        finally:
            process.send_signal(signal.SIGINT)
            await asyncio.to_thread(process.wait, 20)


def _start_copy(server: EmbeddedPostgres, directory: Path, *options: str) -> subprocess.Popen[bytes]:
    copy = [
        str(server.binaries / "pg_basebackup"),
        "-d",
        server.dsn,
        "-D",
        str(directory),
        "-c",
        "fast",
        "-X",
        "stream",
    ]
    subprocess.run([*copy, *options], check=True, capture_output=True)
    (directory / ".s.PGSQL.5432.lock").unlink()
    command = [str(server.binaries / "postgres"), "-D", str(directory), "-k", str(directory), "-h", ""]
    command += ["-c", "max_connections=300", "-c", "max_prepared_transactions=32"]
    if user := find_service_user(server.data_directory):
        for path in (directory.parent, directory, *directory.rglob("*")):
            os.chown(path, user.uid, user.gid)
        command = user.running(*command)
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


async def _until_connectable(dsn: str) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await (await psycopg.AsyncConnection.connect(dsn)).close()
            except psycopg.OperationalError:
                await asyncio.sleep(0.05)
            else:
                return
