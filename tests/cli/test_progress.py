"""How far a snapshot is: on a terminal, and nowhere else."""

import asyncio
import os
import pty
import re
import signal
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

from tests.cli.conftest import CommandLine, MemoryGateway

pytestmark = pytest.mark.req("CF-12", "CF-13")

DOCUMENTS: Final = "mem/documents"
ITEMS: Final = 2_000
BAR: Final = re.compile(r"snapshot.* 2,000 items, [\d,]+/s +of about 2,000 +(\d+:\d\d:\d\d|-:--:--)")
CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


class Terminal:
    """A terminal of 200 columns, and what is written to it."""

    def __init__(self) -> None:
        self._master, self.end = pty.openpty()
        termios.tcsetwinsize(self.end, (40, 200))
        self.text = ""

    async def until(self, words: str) -> None:
        """Read on until words stand there."""
        async with asyncio.timeout(30):
            while words not in self.text and await self._read():
                pass
        assert words in self.text

    async def to_the_end(self) -> str:
        """All that is written until nobody has it open any more."""
        async with asyncio.timeout(30):
            while await self._read():
                pass
        return self.text

    async def _read(self) -> bool:
        try:
            data = await asyncio.to_thread(os.read, self._master, 65_536)
        except OSError:  # how Linux says that nobody has the other end open
            return False
        self.text += data.decode()
        return bool(data)

    def close(self) -> None:
        os.close(self._master)


@asynccontextmanager
async def started(
    changefeed: CommandLine, *arguments: str, out: bool = False
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Terminal]]:
    """A command whose standard error is a terminal; `out`: its output too, which is a pipe otherwise."""
    terminal = Terminal()
    pipe = terminal.end if out else asyncio.subprocess.PIPE
    process = await changefeed.start(*arguments, environment={"TERM": "xterm"}, out=pipe, err=terminal.end)
    os.close(terminal.end)
    try:
        yield process, terminal
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
        terminal.close()


def fill(gateway: MemoryGateway) -> None:
    for number in range(ITEMS):
        gateway.documents.put(f"w{number % 3}", f"d{number}", {"n": number})


@pytest.mark.parametrize(
    "arguments",
    [
        ("mirror", DOCUMENTS, "copy.db", "--once"),
        ("read", DOCUMENTS, "--from", "snapshot"),
        ("tail", DOCUMENTS, "--from", "snapshot", "--max-events", str(ITEMS + 1)),
    ],
)
async def test_a_terminal_shows_how_far_a_snapshot_is(
    changefeed: CommandLine, memory_gateway: MemoryGateway, arguments: tuple[str, ...]
) -> None:
    fill(memory_gateway)
    async with started(changefeed, *arguments) as (process, terminal):
        assert process.stdout is not None
        reading = asyncio.create_task(process.stdout.read())
        if arguments[0] == "tail":
            await terminal.until("live")
            memory_gateway.documents.put("w", "last", {})
        shown = await terminal.to_the_end()
        out = (await reading).decode()
    assert BAR.search(CONTROL.sub("", shown)), shown
    assert shown.rindex(SHOW) > shown.rindex(HIDE)
    assert "\x1b" not in out
    assert out.count("SNAPSHOT") == (0 if arguments[0] == "mirror" else ITEMS)


async def test_an_interrupt_takes_the_bar_away(changefeed: CommandLine, memory_gateway: MemoryGateway) -> None:
    fill(memory_gateway)
    arguments = ("read", DOCUMENTS, "--from", "snapshot", "--page-size", "1")
    async with started(changefeed, *arguments) as (process, terminal):
        assert process.stdout is not None
        reading = asyncio.create_task(process.stdout.read())
        await terminal.until("of about 2,000")
        process.send_signal(signal.SIGINT)
        shown = await terminal.to_the_end()
        await reading
        assert await process.wait() == 130
    assert shown.rindex(SHOW) > shown.rindex(HIDE)


async def test_where_the_items_are_shown_there_is_no_bar(
    changefeed: CommandLine, memory_gateway: MemoryGateway
) -> None:
    fill(memory_gateway)
    async with started(changefeed, "read", DOCUMENTS, "--from", "snapshot", out=True) as (_, terminal):
        shown = await terminal.to_the_end()
    assert shown.count("SNAPSHOT") == ITEMS
    assert "of about" not in shown


async def test_without_a_terminal_there_is_nothing_of_it(
    changefeed: CommandLine, memory_gateway: MemoryGateway
) -> None:
    fill(memory_gateway)
    ended = await changefeed.run("mirror", DOCUMENTS, "copy.db", "--once", environment={"TERM": "xterm"})
    assert ended.code == 0
    assert "\x1b" not in ended.err
    assert "of about" not in ended.err
    assert ended.err.count("\n") == 4, "new, converges, whole, live"
