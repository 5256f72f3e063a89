"""The SDKs of other languages, unmodified, each as a process that a test tells what to do."""

import asyncio
import json
import shutil
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.cosmos.server.wire import DATABASE, WireServer

_HERE = Path(__file__).parent
_CLONE = _HERE.parents[1]

PATIENCE = 120
"""Seconds for an answer; a virtual machine takes half a minute to begin."""

PIPE_BYTES = 16 * 1024 * 1024


class Refused(Exception):
    """What an SDK throws."""

    def __init__(self, code: int | None, sub_status: int | None, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.sub_status = sub_status


class Drained(NamedTuple):
    """What a reader got until nothing followed."""

    documents: list[dict[str, Any]]
    continuation: str


class OtherSdk:
    """One client, of one container."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def do(self, command: str, **options: Any) -> Any:
        """Carry a command out, of those that its program knows. Raises Refused."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"command": command, **options}).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            answer = json.loads(await self._process.stdout.readline())
        if "error" in answer:
            raise Refused(answer["error"]["code"], answer["error"]["substatus"], answer["error"]["message"])
        return answer.get("result")

    async def drain(self, **options: Any) -> Drained:
        """Read on until nothing follows."""
        return Drained(**await self.do("drain", **options))


@asynccontextmanager
async def running_node_sdk(server: WireServer, container: str) -> AsyncIterator[OtherSdk]:
    """Run node/subject.mjs. Raises RuntimeError when it cannot be started."""
    command = [_found("node", ".cosmos-node"), f"{_HERE}/node/subject.mjs", f"{_CLONE}/.cosmos-node"]
    async with _running(command, server, container) as sdk:
        yield sdk


@asynccontextmanager
async def running_java_sdk(server: WireServer, container: str) -> AsyncIterator[OtherSdk]:
    """Run java/Subject.java. Raises RuntimeError when it cannot be started."""
    java = _found("java", ".cosmos-java")
    without_tls = "-DCOSMOS.HTTP_CONNECTION_WITHOUT_TLS_ALLOWED=true"
    command = [java, without_tls, "-cp", f"{_CLONE}/.cosmos-java/*", f"{_HERE}/java/Subject.java"]
    async with _running(command, server, container) as sdk:
        yield sdk


@asynccontextmanager
async def _running(command: list[str], server: WireServer, container: str) -> AsyncIterator[OtherSdk]:
    process = await asyncio.create_subprocess_exec(
        *command, server.url, server.key, DATABASE, container, stdin=PIPE, stdout=PIPE, limit=PIPE_BYTES
    )
    try:
        yield OtherSdk(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        assert await process.wait() == 0


def _found(program: str, folder: str) -> str:
    path = shutil.which(program)
    if path is None or not (_CLONE / folder / ".stamp").exists():
        raise RuntimeError(f"{program} is not set up: install it, run make {folder}/.stamp")
    return path
