"""The wire-level server as a process of its own, as a benchmark uses it."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from typing import Any

from azure.cosmos.aio import CosmosClient


async def test_a_process_serves_a_full_container_and_takes_commands() -> None:
    options = ["--ranges", "3", "--changes", "50", "--keys", "20", "--item-bytes", "10"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.cosmos.server", *options, stdin=PIPE, stdout=PIPE
    )
    try:
        started = await _line(process)
        name = started["container"]
        async with CosmosClient(started["url"], started["key"]) as client:
            container = client.get_database_client(started["database"]).get_container_client(name)
            found = [one async for one in container.query_items_change_feed(start_time="Beginning")]
            assert sorted(one["number"] for one in found) == list(range(30, 50))
            ranges = await _command(process, "ranges", name)
            assert len(ranges) == 3
            assert len(await _command(process, "split", name, ranges[0])) == 2
            assert len(await _command(process, "ranges", name)) == 4
            await _command(process, "upsert_many", name, 5, 5, 10)
            counts = await _command(process, "counts")
            assert counts["ReadChangeFeed"] >= 3
            assert await _command(process, "request_units") == 2 * sum(counts.values())
            assert await _command(process, "most_under_way") == dict.fromkeys(ranges, 1)
            assert await _command(process, "recreate_container", name) != found[0]["_rid"]
    finally:
        assert process.stdin is not None
        process.stdin.close()
        assert await process.wait() == 0


async def _command(process: Process, command: str, *arguments: object) -> Any:
    assert process.stdin is not None
    process.stdin.write(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")
    return await _line(process)


async def _line(process: Process) -> Any:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return json.loads(await process.stdout.readline())
