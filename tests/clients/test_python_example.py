"""The example of the Python client: killed at any moment it misses nothing, and it stops where that is impossible."""

import asyncio
import os
import sys
from pathlib import Path

from changefeed_gateway.providers.memory.provider import MemoryProvider
from changefeed_gateway.providers.memory.store import MemoryStore
from tests.conftest import StartGateway

EXAMPLE = Path(__file__).parents[2] / "clients/python/examples/follow.py"


async def start(target: str, place: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLE), "main/documents", str(place)),
        env={**os.environ, "CHANGEFEED_TARGET": target},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def lines(process: asyncio.subprocess.Process, count: int) -> list[str]:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        return [(await process.stdout.readline()).decode() for _ in range(count)]


async def test_it_goes_on_after_a_kill(start_gateway: StartGateway, tmp_path: Path) -> None:
    store = MemoryStore()
    documents = store.create("documents")
    gateway = await start_gateway({"main": MemoryProvider(store)})
    found: list[str] = []
    for round_ in range(3):
        documents.put("w", f"{round_}", {"round": round_})
        example = await start(gateway.target, tmp_path / "place.json")
        while not any(f'"round":{round_}' in line for line in found):
            found += await lines(example, 1)
        example.kill()
        await example.communicate()
    assert {line.split()[1] for line in found} == {"w/0", "w/1", "w/2"}


async def test_it_stops_on_an_expired_checkpoint(start_gateway: StartGateway, tmp_path: Path) -> None:
    store = MemoryStore()
    documents = store.create("documents")
    documents.put("w", "one", {})
    gateway = await start_gateway({"main": MemoryProvider(store)})
    example = await start(gateway.target, tmp_path / "place.json")
    await lines(example, 1)
    documents.put("w", "two", {})
    await lines(example, 1)  # so the first one's place has been saved
    example.kill()
    await example.communicate()
    documents.put("w", "three", {})
    documents.trim()
    example = await start(gateway.target, tmp_path / "place.json")
    _, err = await example.communicate()
    assert example.returncode == 1
    assert b"CHECKPOINT_EXPIRED" in err
    assert b"start over" in err


async def test_it_does_not_begin_anew_on_a_damaged_place(tmp_path: Path) -> None:
    for content in ("", "{}", "[]", '{"token": "t"}'):
        (tmp_path / "place.json").write_text(content)
        example = await start("127.0.0.1:1", tmp_path / "place.json")
        _, err = await example.communicate()
        assert example.returncode == 1
        assert b"holds no place" in err
