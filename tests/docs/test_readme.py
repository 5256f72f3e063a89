"""The commands that the README shows do what it says."""

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.databases import PostgresForTests
from tests.docs.conftest import Library
from tests.docs.pages import ROOT, blocks
from tests.docs.test_grpcurl import TOOLS, with_buf_for_grpcurl
from tests.listening import free_port

README = ROOT / "README.md"

EXAMPLES = [*blocks(README, "python"), *blocks(ROOT / "clients/python/README.md", "python")]


def shell_block(containing: str) -> str:
    """The README's block of commands that has some words in it."""
    (found,) = (block.text for block in blocks(README, "sh") if containing in block.text)
    return found


def here(tmp_path: Path) -> Path:
    """A folder that looks like a clone after set-up."""
    directory = tmp_path / "clone"
    directory.mkdir()
    (directory / ".venv").symlink_to(sys.prefix)
    return directory


@dataclass
class Shell:
    """Commands under way, in a process group of their own."""

    process: asyncio.subprocess.Process
    said: list[str] = field(default_factory=list)

    async def line(self, containing: str) -> str:
        """The next line of output that has some words in it."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            while line := (await self.process.stdout.readline()).decode():
                self.said.append(line)
                if containing in line:
                    return line
        raise AssertionError(f"ended without {containing!r}: {self.said}")

    async def stop(self) -> None:
        """End all of it and wait until nothing is left."""
        group = [p for p in psutil.process_iter() if _group(p.pid) == self.process.pid]
        for process in group:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            await asyncio.to_thread(psutil.wait_procs, group)
            await self.process.wait()


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


@asynccontextmanager
async def shell(
    commands: str, directory: Path, environment: dict[str, str], path: Sequence[str] = ()
) -> AsyncIterator[Shell]:
    """Run commands as typed, their output together."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CHANGEFEED_")}
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", commands),
        cwd=directory,
        env={
            **inherited,
            **environment,
            "COLUMNS": "200",
            "PATH": os.pathsep.join([*path, str(Path(sys.executable).parent), os.environ["PATH"]]),
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    running = Shell(process)
    try:
        yield running
    finally:
        await running.stop()


async def test_tail_shows_what_happens_from_now_on(own_library: Library, tmp_path: Path) -> None:
    tail, _ = shell_block("changefeed tail main/documents --from now").split("\n", 1)
    async with shell(tail, here(tmp_path), {"CHANGEFEED_TARGET": own_library.target}) as running:
        await running.line("live")
        own_library.upload("Contract")
        assert "CREATE" in await running.line("Contract")


@pytest.mark.req("A3")
@pytest.mark.parametrize("tool", TOOLS)
async def test_grpcurl_shows_a_stream(tool: str, library: Library, tmp_path: Path) -> None:
    _, grpcurl = shell_block("grpcurl -plaintext").split("\n", 1)
    directory = here(tmp_path)
    path = [with_buf_for_grpcurl(directory)] if tool == "buf" else []
    async with shell(grpcurl.replace("127.0.0.1:50051", library.target), directory, {}, path) as running:
        await running.line("opened")
        for title in ("Lease", "Invoice", "Minutes"):
            await running.line(title)
        await running.line("CLOSING_REASON_MAX_EVENTS")
        assert await running.process.wait() == 0


@pytest.mark.req("SC-2", "DB-12")
async def test_use_it_on_your_database(postgres: PostgresForTests, tmp_path: Path) -> None:
    dsn = await postgres.fresh("template1")
    directory = here(tmp_path)
    target = f"127.0.0.1:{free_port()}"
    commands = re.sub(r"DSN=\S+", f"DSN='{dsn}'", shell_block("changefeed migrate"))
    environment = {"CHANGEFEED_LISTEN": target, "CHANGEFEED_TARGET": target}
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
        async with shell(commands, directory, environment) as running:
            await running.line("applied log/tables/0001")
            await running.line("watched: changefeed tail main/public.orders")
            connection.execute("INSERT INTO orders VALUES (1, 'the first')")
            assert "CREATE" in await running.line("the first")
            # Its place is kept before the next change is shown.
            connection.execute("INSERT INTO orders VALUES (2, 'more')")
            await running.line("more")
        assert (directory / "orders.place").read_text()
        connection.execute("UPDATE orders SET note = 'the second'")
        async with shell(commands, directory, environment) as running:
            await running.line("nothing to do")
            assert "UPDATE" in await running.line("the second")
            assert "the first" not in "".join(running.said)
    await postgres.drop(dsn)


@pytest.mark.req("A2")
@pytest.mark.parametrize("number", range(4))
async def test_the_python_clients_examples(number: int, library: Library, tmp_path: Path) -> None:
    example = EXAMPLES[number]
    program = tmp_path / "example.py"
    text = example.text.replace("127.0.0.1:50051", library.target).replace("postgresql://app@db/app", library.dsn)
    program.write_text(text)
    async with shell(f"python {program}", tmp_path, {}) as running:
        await running.line("go on from: ")
        assert await running.process.wait() == 0


def test_every_example_of_the_python_client_is_run() -> None:
    assert len(EXAMPLES) == 4


async def test_a_token_saved_with_the_work_counts_every_change_once(own_library: Library, tmp_path: Path) -> None:
    (example,) = [b for b in blocks(ROOT / "clients/python/README.md", "python") if "psycopg" in b.text]
    program = tmp_path / "example.py"
    text = example.text.replace("127.0.0.1:50051", own_library.target)
    program.write_text(text.replace("postgresql://app@db/app", own_library.dsn))
    titles = ["Lease", "Invoice", "Minutes"]
    for added in ("", "Contract"):
        if added:
            own_library.upload(added)
            titles.append(added)
        async with shell(f"python {program}", tmp_path, {}) as running:
            await running.line("go on from: ")
            assert await running.process.wait() == 0
        with psycopg.connect(own_library.dsn) as connection:
            found = connection.execute("SELECT item->>'title' FROM copies").fetchall()
        assert sorted(title for (title,) in found) == sorted(titles)


def test_every_target_that_is_named_exists() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in (README, ROOT / "CONTRIBUTING.md"):
        named = re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
        assert named
        assert set(named) <= set(targets), page


def test_every_command_is_run_here_or_is_set_up() -> None:
    ours = ("make demo", "make test", "changefeed tail main/documents", "changefeed migrate")
    for block in blocks(README, "sh"):
        assert any(command in block.text for command in ours), block.text
    assert shutil.which("bash")
