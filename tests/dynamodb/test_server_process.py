"""The wire-level server as a process of its own, as a benchmark uses it."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from typing import Any

from tests.dynamodb.shop import Shop


async def test_a_process_serves_a_full_table_and_takes_commands() -> None:
    options = ["--shards", "3", "--records", "50", "--keys", "20", "--item-bytes", "10"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.dynamodb.server", *options, stdin=PIPE, stdout=PIPE
    )
    started = await _line(process)
    shop = Shop(started["url"], started["table"])

    def read_everything() -> list[str]:
        records = (record for shard in shop.shards() for record in shop.read(shop.iterator(shard["ShardId"])))
        return [record["dynamodb"]["NewImage"]["number"]["N"] for record in records]

    try:
        assert await asyncio.to_thread(lambda: shop.arn) == started["stream"]
        assert sorted(map(int, await asyncio.to_thread(read_everything))) == list(range(50))
        shards = await _command(process, "open_shards", started["table"])
        assert len(shards) == 3
        assert len(await _command(process, "split", shards[0])) == 2
        assert len(await _command(process, "open_shards", started["table"])) == 4
        assert (await _command(process, "counts"))["GetRecords"] >= 3
        assert await _command(process, "most_readers") == dict.fromkeys(shards, 1)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        assert await process.wait() == 0


async def _command(process: Process, command: str, *arguments: str) -> Any:
    assert process.stdin is not None
    process.stdin.write(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")
    return await _line(process)


async def _line(process: Process) -> Any:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return json.loads(await process.stdout.readline())
