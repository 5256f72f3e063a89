"""The examples of the Python client: killed at any moment they miss nothing, and they stop where that is impossible."""

import asyncio
import json
import os
import sqlite3
import sys
from pathlib import Path

import pytest

from changefeed_gateway.providers.memory.provider import MemoryProvider
from changefeed_gateway.providers.memory.store import MemoryStore
from tests.conftest import StartGateway

EXAMPLES = Path(__file__).parents[2] / "clients/python/examples"


async def start(target: str, place: Path, example: str = "follow.py") -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / example), "main/documents", str(place)),
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


@pytest.mark.req("CF-12")
async def test_a_mirror_begins_with_what_is_there_and_is_the_same_after_kills(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    store = MemoryStore()
    documents = store.create("documents")
    gateway = await start_gateway({"main": MemoryProvider(store)})
    for number in range(1_500):
        documents.put("w", f"{number}", {"n": number})
    documents.trim()  # only a snapshot brings them by now
    for round_ in range(3):
        mirror = await start(gateway.target, tmp_path / "mirror.db", "mirror.py")
        documents.delete("w", f"{round_}")
        documents.put("w", f"new {round_}", {"round": round_})
        while json.dumps(["w", f"new {round_}"]) not in mirrored(tmp_path / "mirror.db"):
            assert await lines(mirror, 1) != [""]
        mirror.kill()
        await mirror.communicate()
    held = {key: documents.item(key)[0] for key in documents.present()}
    assert mirrored(tmp_path / "mirror.db") == {
        json.dumps([component.value for component in key.components]): item for key, item in held.items()
    }


def mirrored(file: Path) -> dict[str, str]:
    database = sqlite3.connect(file)
    try:
        return dict(database.execute("select key, item from items").fetchall())
    except sqlite3.OperationalError:  # it has not made its tables yet
        return {}
    finally:
        database.close()
