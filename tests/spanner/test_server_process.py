"""The wire-level server as a process of its own, as a benchmark uses it."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from typing import Any

from tests.spanner.histories import read_everything
from tests.spanner.sdk import bare_database, mutation


async def test_a_process_serves_a_full_table_and_takes_commands() -> None:
    options = ["--postgres", "--partitions", "3", "--records", "50", "--keys", "20", "--row-bytes", "10"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.spanner.server", *options, stdin=PIPE, stdout=PIPE
    )
    try:
        said = await _line(process)
        path = f"projects/{said['project']}/instances/{said['instance']}/databases/{said['database']}"
        async with bare_database(said["host"], path, postgres=True) as database:
            tokens = await _command(process, "alive")
            left, _ = await _command(process, "split", tokens[0])
            merged = await _command(process, "merge", left, tokens[1])
            await _command(process, "write", mutation("insert", "things", {"id": "77", "number": "50"}))
            reading = await read_everything(database, "changes", said["start"], await database.now())
            assert len(tokens) == 3
            assert merged in reading.parents
            numbers = [int(m["new_values"]["number"]) for _, record in reading.data for m in record["mods"]]
            assert sorted(numbers) == list(range(51))
            assert (await _command(process, "counts"))["Partition"] == 6
            assert set((await _command(process, "most_readers")).values()) == {1}
    finally:
        assert process.stdin is not None
        process.stdin.close()
        assert await process.wait() == 0


async def _command(process: Process, command: str, *arguments: Any) -> Any:
    assert process.stdin is not None
    process.stdin.write(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")
    return await _line(process)


async def _line(process: Process) -> Any:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return json.loads(await process.stdout.readline())
