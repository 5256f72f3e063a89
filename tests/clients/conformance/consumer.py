"""One run of a client's program, as its driver sees it: a process that prints lines of JSON, and can be killed."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Json = dict[str, Any]

_LONGEST_LINE = 64_000_000


class Consumer:
    """A process that was started."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, *, is_example: bool) -> None:
        self.process = process
        self._is_example = is_example
        self.deliveries: list[Json] = []
        self.reconnects: list[Json] = []
        self.errors: list[Json] = []
        self.ended = False
        self._log = log
        self._changed = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, command: Sequence[str], log: Path, environment: dict[str, str], *, is_example: bool = False
    ) -> "Consumer":
        """Run a program; what it says to people goes into the log. All that an example says is for people."""
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=errors, limit=_LONGEST_LINE, env=environment
            )
        return cls(process, log, is_example=is_example)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until what was said satisfies a condition. Raises AssertionError when the program ends before."""
        while not condition():
            self._changed.clear()
            if self._reading.done():
                await self._reading
                raise AssertionError(f"the program ended: {self.errors or self._log.read_text()}")
            waiting = asyncio.create_task(self._changed.wait())
            await asyncio.wait({waiting, self._reading}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()

    async def finish(self) -> None:
        """Wait for the program's own end."""
        await self._reading
        assert await self.process.wait() == 0, self._log.read_text()

    async def kill(self) -> None:
        """End it as a crash does."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            # A killed program may leave part of a line.
            self._take(json.loads(line) if line.endswith(b"\n") and not self._is_example else {})
            self._changed.set()

    def _take(self, said: Json) -> None:
        match said:
            case {"delivery": delivery}:
                self.deliveries.append(delivery)
            case {"reconnect": reconnect}:
                self.reconnects.append(reconnect)
            case {"error": error}:
                self.errors.append(error)
            case {"end": True}:
                self.ended = True
            case _:
                assert not said, f"no line of a program: {said}"

    @property
    def finished_snapshots(self) -> int:
        """How often the end of a snapshot was told."""
        return sum(bool(delivery["snapshot"] and delivery["snapshot"]["finished"]) for delivery in self.deliveries)

    @property
    def events(self) -> list[Json]:
        """Everything delivered, in order."""
        return [event for delivery in self.deliveries for event in delivery["events"]]
