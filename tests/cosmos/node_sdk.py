"""The Node SDK, unmodified, as a process that a test tells what to do."""

import asyncio
import json
import shutil
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.cosmos.server.wire import DATABASE, WireServer

SDK = Path(__file__).parents[2] / ".cosmos-node"
PROGRAM = Path(__file__).parent / "node" / "subject.mjs"
PATIENCE = 60
"""Seconds for an answer."""

PIPE_BYTES = 16 * 1024 * 1024


class Refused(Exception):
    """What the SDK throws."""

    def __init__(self, code: int | None, sub_status: int | None, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.sub_status = sub_status


class Drained(NamedTuple):
    """What a reader got until nothing followed."""

    documents: list[dict[str, Any]]
    continuation: str


class NodeSdk:
    """One client, of one container."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def do(self, command: str, **options: Any) -> Any:
        """Carry a command of node/subject.mjs out. Raises Refused."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"command": command, **options}).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            answer = json.loads(await self._process.stdout.readline())
        if "error" in answer:
            raise Refused(answer["error"]["code"], answer["error"]["substatus"], answer["error"]["message"])
        return answer["result"]

    async def drain(self) -> Drained:
        """Read on until nothing follows."""
        return Drained(**await self.do("drain"))


@asynccontextmanager
async def running_node_sdk(server: WireServer, container: str) -> AsyncIterator[NodeSdk]:
    """Run one. Raises RuntimeError when it cannot be started."""
    if (node := shutil.which("node")) is None or not (SDK / ".stamp").exists():
        raise RuntimeError("the Node SDK is not set up: install Node with npm, run make .cosmos-node/.stamp")
    process = await asyncio.create_subprocess_exec(
        *(node, PROGRAM, SDK, server.url, server.key, DATABASE, container), stdin=PIPE, stdout=PIPE, limit=PIPE_BYTES
    )
    try:
        yield NodeSdk(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        assert await process.wait() == 0
