"""A gateway in a process of its own, which can be killed at any moment."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import grpc
import yaml

from changefeed_client.client import OPTIONS
from tests.listening import free_port
from tests.preloaded import start_command

_PATIENCE = 90
"""Seconds that a start or an end may take where everything else runs too."""


class GatewayProcess:
    """`changefeed serve` on a fixed port, started again as often as needed."""

    def __init__(
        self, directory: Path, dsn: str, *, settings: dict[str, object] | None = None, files: int | None = None
    ) -> None:
        """`files` is how many it may have open; as many as this process unless given."""
        self.target = f"127.0.0.1:{free_port()}"
        self.starts = 0
        self._directory = directory
        self._files = files
        self._file = directory / "changefeed.yaml"
        self._file.write_text(
            yaml.safe_dump(
                {
                    "listen": self.target,
                    "state_directory": str(directory / "state"),
                    "shutdown_grace": "5s",
                    "connections": {"main": {"provider": "postgres", "dsn": dsn}},
                    "tokens": {"keys": [{"id": "test", "secret": "0123456789abcdef0123456789abcdef"}]},
                    "logging": {"format": "json", "level": "warning"},
                    **(settings or {}),
                }
            )
        )
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> Path:
        """What it has written since its last start."""
        return self._directory / f"gateway-{self.starts}.log"

    @property
    def running(self) -> bool:
        """Whether it was started and not ended since."""
        return self._process is not None

    async def start(self) -> None:
        """Start and wait until it serves."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CHANGEFEED_")}
        self.starts += 1
        with self.log.open("wb") as log:
            self._process = await start_command(
                *("serve", "--config", str(self._file)),
                directory=self._directory,
                environment=environment,
                out=log.fileno(),
                err=log.fileno(),
                files=self._files,
            )
        async with asyncio.timeout(_PATIENCE), self.channel() as channel:
            ready = asyncio.ensure_future(channel.channel_ready())
            ended = asyncio.ensure_future(self._process.wait())
            try:
                await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
                if not ready.done():
                    raise RuntimeError(self.log.read_text())
            finally:
                # Before the channel closes: a task that waits for a closed one fails where nobody hears it.
                ready.cancel()
                ended.cancel()
                await asyncio.wait({ready, ended})

    def channel(self) -> grpc.aio.Channel:
        """A channel with a connection of its own."""
        return grpc.aio.insecure_channel(self.target, options=OPTIONS)

    async def kill(self) -> None:
        """End it without warning."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """Ask it to end; answers its exit code."""
        return await self._end(signal.SIGTERM)

    async def wait(self) -> int:
        """Wait until it has ended by itself; answers its exit code."""
        assert self._process is not None
        async with asyncio.timeout(_PATIENCE):
            return await self._process.wait()

    async def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        async with asyncio.timeout(_PATIENCE):
            return await process.wait()
