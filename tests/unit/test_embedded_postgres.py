"""The embedded server: starts, is shared, stops with its last user, survives what kills a gateway."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from changefeed_gateway.providers.postgres.embedded.host import EmbeddedServerError
from changefeed_gateway.providers.postgres.embedded.server import EmbeddedPostgres
from tests.databases import server_directory

USER = """
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from changefeed_gateway.providers.postgres.embedded.server import EmbeddedPostgres
from tests.databases import server_directory
server = EmbeddedPostgres(Path(sys.argv[1]))
server.start()
print("started", flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    with server_directory() as name:
        directory = Path(name) / "state" / "postgres"
        yield directory
        process = postmaster(directory)
        if process is not None:  # a test failed before its server stopped
            process.send_signal(signal.SIGQUIT)
            psutil.wait_procs([process], timeout=10)


def postmaster(directory: Path) -> psutil.Process | None:
    try:
        process = psutil.Process(int((directory / "postmaster.pid").read_text().split()[0]))
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return process if process.name() == "postgres" else None


def number_of(server: EmbeddedPostgres) -> int:
    with psycopg.connect(server.dsn) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS starts (n serial)")
        row = connection.execute("INSERT INTO starts DEFAULT VALUES RETURNING n").fetchone()
    assert row is not None
    return int(row[0])


async def user_of(directory: Path) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", USER, str(directory)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    while b"started" not in await process.stdout.readline():
        assert process.returncode is None
    return process


async def test_data_outlive_the_server(directory: Path) -> None:
    for expected in (1, 2):
        async with EmbeddedPostgres(directory) as server:
            assert number_of(server) == expected
            assert postmaster(directory) is not None
        assert postmaster(directory) is None
        # Another test's server, which its last user stopped, may be there as a zombie without a command line.
        children = [child.as_dict(["cmdline"], ad_value=[]) for child in psutil.Process().children(recursive=True)]
        assert not [child for child in children if str(directory) in " ".join(child["cmdline"])]


async def test_the_last_user_stops_the_server(directory: Path) -> None:
    async with EmbeddedPostgres(directory) as first:
        other = await user_of(directory)
        assert number_of(first) == 1
    assert postmaster(directory) is not None
    await other.communicate(b"")
    assert postmaster(directory) is None


async def test_what_a_killed_user_left_is_taken_over(directory: Path) -> None:
    killed = await user_of(directory)
    left = postmaster(directory)
    killed.kill()
    await killed.wait()
    assert left is not None
    assert left.is_running()
    async with EmbeddedPostgres(directory) as server:
        assert postmaster(directory) == left
        assert number_of(server) == 1
    assert postmaster(directory) is None


async def test_the_trace_of_a_dead_server_is_no_obstacle(directory: Path) -> None:
    async with EmbeddedPostgres(directory) as server:
        number_of(server)
    # The number of a process that is no server, as after a restart of the machine.
    (directory / "postmaster.pid").write_text(f"{os.getpid()}\n{directory}\n0\n5432\n{directory}\n\n1 1\nready\n")
    async with EmbeddedPostgres(directory) as server:
        assert number_of(server) == 2


async def test_only_its_user_may_connect(directory: Path) -> None:
    async with EmbeddedPostgres(directory) as server:
        assert os.stat(directory).st_mode & 0o077 == 0
        with psycopg.connect(server.dsn) as connection:
            row = connection.execute(
                "SELECT current_setting('listen_addresses'), current_setting('max_prepared_transactions')"
            ).fetchone()
    assert row is not None
    assert row[0] == ""
    assert int(row[1]) > 0


async def test_a_directory_with_a_long_name(directory: Path) -> None:
    async with EmbeddedPostgres(directory.parent / ("long" * 30) / "postgres") as server:
        assert number_of(server) == 1
        elsewhere = str(conninfo_to_dict(server.dsn)["host"])
        assert os.stat(elsewhere).st_mode & 0o077 == 0
    with pytest.raises(FileNotFoundError):
        os.stat(elsewhere)


async def test_a_start_that_fails_says_where_to_look(directory: Path) -> None:
    server = EmbeddedPostgres(directory, parameters={"max_connections": "none"})
    with pytest.raises(EmbeddedServerError, match=r"server\.log"):
        await asyncio.to_thread(server.start)
    assert postmaster(directory) is None


async def test_a_cancelled_start_leaves_nothing(directory: Path) -> None:
    async def use() -> None:
        async with EmbeddedPostgres(directory):
            raise AssertionError("cancelled before")

    task = asyncio.create_task(use())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert postmaster(directory) is None
