"""Now is answered while a shard is written without a pause, and nothing that is written after the answer is missing."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import pytest

from tests.conformance.client import BEGINNING, NOW, Stream, after, physical
from tests.dynamodb.scene import Scene
from tests.dynamodb.server.wire import WireServer
from tests.dynamodb.shop import TABLE, key

MARK = "mark"


def item(partition: str, number: int) -> dict[str, Any]:
    """One that differs from those of other numbers."""
    return {**key(partition), "number": {"N": str(number)}}


@contextmanager
def steady_writer(server: WireServer) -> Iterator[None]:
    """Write all the time, so that each GetRecords of a reader at the tip brings something."""
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.wait(0.001):
            number += 1
            server.put(TABLE, item("steady", number))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        over.set()
        writer.join()


@asynccontextmanager
async def busy_scene(server: WireServer, **options: Any) -> AsyncIterator[Scene]:
    """A table that is written steadily, and a stream that follows it."""
    # Long enough for some writes, also on a busy machine.
    server.behaviour.thinking = timedelta(milliseconds=50)
    scene = Scene(server, **options)
    await scene.write(scene.shop.create)
    await scene.serve()
    try:
        async with scene.client.subscribe(NOW) as stream:
            await stream.until_live()
            with steady_writer(server):
                await stream.until_events(1)
                yield scene
    finally:
        await scene.kill()


async def until_mark(stream: Stream) -> None:
    """Read on until what was written after the start comes."""
    while MARK not in {event.key.partition_key for event in stream.events}:
        await stream.until("batch")


@pytest.mark.req("CF-04", "P1")
@pytest.mark.parametrize("granularity", [timedelta(seconds=1), timedelta(minutes=1)])
async def test_now_is_answered_on_a_shard_that_is_written_steadily(server: WireServer, granularity: timedelta) -> None:
    async with busy_scene(server, time_granularity=granularity) as scene:
        for number in range(3):
            token = (await scene.client.resolve(NOW)).continuation_token
            server.put(TABLE, item(MARK, number))
            async with scene.client.subscribe(after(token)) as stream:
                await until_mark(stream)


@pytest.mark.req("CF-04", "P1")
async def test_a_stream_from_now_opens_and_goes_live_on_a_shard_that_is_written_steadily(server: WireServer) -> None:
    async with busy_scene(server) as scene, scene.client.subscribe(NOW) as stream:
        await stream.until("opened")
        server.put(TABLE, item(MARK, 1))
        await stream.until_live()
        await until_mark(stream)


@pytest.mark.req("CF-04", "P1")
async def test_now_holds_when_one_child_of_a_split_is_listed_before_the_other(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.client.resolve(NOW)
    scene.server.split(scene.shard)
    stream = scene.server.stream(TABLE)
    whole, halves = stream.listing, [True]
    monkeypatch.setattr(stream, "listing", lambda: whole()[:-1] if halves and halves.pop() else whole())
    token = (await scene.client.resolve(NOW)).continuation_token
    scene.server.put(TABLE, *(item(f"{number}", number) for number in range(20)))
    assert len((await scene.client.read_all(after(token))).events) == 20


@pytest.mark.req("CF-04", "P7")
async def test_those_who_ask_for_now_at_one_time_share_the_answer(server: WireServer) -> None:
    async with busy_scene(server) as scene:
        shard = physical(scene.shard)
        # Whether the stream's call or the first that asks meets it: nobody is answered until all have asked.
        server.stall("GetRecords")
        asked = server.calls.count("DescribeTable")
        answers = [asyncio.create_task(scene.client.resolve(NOW, scope=shard)) for _ in range(20)]
        await asyncio.to_thread(server.calls.wait_for, "DescribeTable", asked + 20)
        server.calls.clear()
        server.clear_faults()
        await asyncio.gather(*answers)
        # Beside them the stream goes on reading.
        assert server.calls.count("GetRecords") <= 10


@pytest.mark.req("CF-04", "P7")
async def test_a_tip_that_is_many_full_pages_behind_is_not_read_to_its_end_for_now(scene: Scene) -> None:
    shard = physical(scene.shard)
    await scene.client.read(NOW, scope=shard)
    scene.server.put(TABLE, *(item("many", number) for number in range(9_000)))
    scene.server.calls.clear()
    token = (await scene.client.resolve(NOW, scope=shard)).continuation_token
    assert scene.server.calls.count("GetRecords") <= 3
    scene.server.put(TABLE, item(MARK, 1))
    [event] = (await scene.client.read_until(after(token), 1, scope=shard)).events
    assert event.key.partition_key == MARK


@pytest.mark.req("CF-04")
async def test_the_place_of_a_reader_that_catches_up_is_not_taken_for_now(scene: Scene) -> None:
    """Empty pages may stand before what is behind it."""
    shard = physical(scene.shard)
    scene.server.put(TABLE, *(item("many", number) for number in range(2_000)))
    token = (await scene.client.read(BEGINNING, scope=shard, size=1_000)).continuation_token
    await scene.restart()
    await scene.client.read(after(token), scope=shard, size=500)
    scene.server.empty_pages(scene.shard, 1)
    token = (await scene.client.resolve(NOW, scope=shard)).continuation_token
    assert not (await scene.client.read_all(after(token), scope=shard)).events
