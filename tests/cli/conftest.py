"""The command line as a user runs it: processes of its own, against a gateway that the tests can feed."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from changefeed_gateway.api.server import GatewayServer
from changefeed_gateway.api.wire.records import encode_changes
from changefeed_gateway.cli import main
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import CapabilityName
from changefeed_gateway.core.router import Router
from changefeed_gateway.core.token import TokenCodec, TokenKey
from changefeed_gateway.providers.memory.collection import CollectionOptions
from changefeed_gateway.providers.memory.provider import MemoryProvider
from changefeed_gateway.providers.memory.store import MemoryStore
from tests.databases import server_directory
from tests.preloaded import start_command


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """The JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def token(self) -> str:
        """The token that the last line shows."""
        return self.out.split()[-1]


class CommandLine:
    """Runs `changefeed` in a directory of its own."""

    def __init__(self, directory: Path, target: str = "127.0.0.1:1") -> None:
        self.directory = directory
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CHANGEFEED_")},
            "CHANGEFEED_TARGET": target,
            "COLUMNS": "200",
        }

    async def start(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        out: int = asyncio.subprocess.PIPE,
        err: int = asyncio.subprocess.PIPE,
    ) -> asyncio.subprocess.Process:
        """Start a command; its standard output and error are pipes unless told otherwise."""
        return await start_command(
            *arguments,
            directory=self.directory,
            environment={**self.environment, **(environment or {})},
            out=out,
            err=err,
        )

    async def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Result:
        """Run a command to its end."""
        process = await self.start(*arguments, environment=environment)
        return await finished(process)


class CommandLineHere(CommandLine):
    """The same without processes, which take a second each: for commands that end by themselves."""

    async def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Result:
        """Run a command to its end."""
        return await asyncio.to_thread(self.run_now, *arguments, environment=environment)

    def run_now(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Result:
        """Run a command to its end, where no loop runs."""
        cleared = {name: None for name in os.environ if name.startswith("CHANGEFEED_")}
        variables: Mapping[str, str | None] = {**cleared, **self.environment, **(environment or {})}
        ended = CliRunner().invoke(main.app_for(arguments), arguments, env=variables)
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return Result(ended.exit_code, ended.stdout, ended.stderr)


async def finished(process: asyncio.subprocess.Process) -> Result:
    """Wait for a command's end."""
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Result(process.returncode, out.decode(), err.decode())


class MemoryGateway:
    """A gateway over collections that a test writes to itself."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.documents = self.store.create("documents", CollectionOptions(partitions=2))
        self.store.create("plain", CollectionOptions(unsupported=frozenset({CapabilityName.LOGICAL_PARTITION_SCOPE})))
        self.target = "127.0.0.1:0"
        self._provider = MemoryProvider(self.store)

    async def start(self) -> None:
        """Listen, the second time on the same port."""
        self._router = Router(
            providers={"mem": self._provider},
            tokens=TokenCodec([TokenKey(key_id="test", secret=b"0123456789abcdef")]),
            limits=Limits(),
            encoder=encode_changes,
        )
        self._server = GatewayServer(self._router)
        port = await self._server.start(self.target)
        self.target = f"127.0.0.1:{port}"

    async def abort(self) -> None:
        """End without a word to those who read."""
        await self._server.abort()
        await self._router.aclose()

    async def stop(self, grace: timedelta = timedelta(0)) -> None:
        """Drain, and stop."""
        await self._server.drain(grace)
        await self._router.aclose()


@pytest.fixture
async def memory_gateway() -> AsyncIterator[MemoryGateway]:
    gateway = MemoryGateway()
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture
def directory() -> Iterator[Path]:
    """A working directory, below which an embedded server may keep its data."""
    with server_directory() as name:
        yield Path(name)


@pytest.fixture
def changefeed(directory: Path, memory_gateway: MemoryGateway) -> CommandLine:
    """The command line, pointed at the memory gateway."""
    return CommandLine(directory, memory_gateway.target)


@pytest.fixture
def here(directory: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLineHere:
    """The command line without processes, where no gateway listens."""
    monkeypatch.chdir(directory)
    # It would hold for the other tests of this process.
    for command in ("main", "serve"):
        monkeypatch.setattr(f"changefeed_gateway.cli.{command}.configure_logging", lambda settings: None)
    return CommandLineHere(directory)


@pytest.fixture
def detached(directory: Path) -> CommandLine:
    """The command line where no gateway listens."""
    return CommandLine(directory)
