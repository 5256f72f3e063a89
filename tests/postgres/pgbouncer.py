"""A real PgBouncer in transaction mode before the test's server."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from changefeed_gateway.providers.postgres.embedded.host import find_service_user
from tests.listening import free_port

_ROOT = Path(__file__).parents[2] / ".pgbouncer"

_SETTINGS = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
server_round_robin = 1
ignore_startup_parameters = extra_float_digits
"""


@asynccontextmanager
async def running_pgbouncer(dsn: str) -> AsyncIterator[str]:
    """Connection string of the same database through PgBouncer."""
    parts = conninfo_to_dict(dsn)
    listen = free_port()
    with TemporaryDirectory(prefix="pgbouncer-") as directory:
        config = _write(Path(directory), _SETTINGS.format(**parts, listen=listen))
        process = await asyncio.create_subprocess_exec(
            *_command(config), env={**os.environ, "LD_LIBRARY_PATH": _libraries()}, stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        while b"process up" not in (line := await process.stderr.readline()):
            assert line, "PgBouncer ended: run make .pgbouncer/.stamp"
        draining = asyncio.create_task(process.stderr.read())
        try:
            pooled = make_conninfo(dsn, host="127.0.0.1", port=listen)
            async with await psycopg.AsyncConnection.connect(pooled, autocommit=True) as connection:
                await connection.execute("SELECT")
            yield pooled
        finally:
            process.terminate()
            await process.wait()
            await draining


def _write(directory: Path, settings: str) -> Path:
    directory.chmod(0o755)  # for the user as whom it runs
    config = directory / "pgbouncer.ini"
    config.write_text(settings)
    return config


def _command(config: Path) -> list[str]:
    program = [str(_ROOT / "usr/sbin/pgbouncer"), str(config)]
    user = find_service_user(config.parent)
    return program if user is None else user.running(*program)


def _libraries() -> str:
    """Where the libraries are that the machine lacks."""
    return os.pathsep.join(map(str, (_ROOT / "usr/lib").glob("*-linux-gnu")))
