"""Now is answered while a table is written without a pause, and nothing that is written after the answer is missing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.conformance.client import NOW, Stream, after, physical
from tests.spanner.scene import CHANGES, MAIN, Scene, made, thing
from tests.spanner.server.behaviour import Behaviour

MARK = "999999"


@pytest.fixture
async def busy_scene() -> AsyncIterator[Scene]:
    """A table that is written steadily."""
    async with made(Behaviour(partitions=2)) as scene, steady_writer(scene):
        yield scene


@asynccontextmanager
async def steady_writer(scene: Scene) -> AsyncIterator[None]:
    async def write() -> None:
        number = 0
        while True:
            number += 1
            scene.put(thing(number % 50, str(number)))
            await asyncio.sleep(0.001)

    writer = asyncio.create_task(write())
    try:
        yield
    finally:
        writer.cancel()


async def until_mark(stream: Stream) -> None:
    """Read on until what was written after the start comes."""
    while MARK not in {event.key.partition_key for event in stream.events}:
        await stream.until("batch")


@pytest.mark.req("CF-04", "P1")
async def test_now_is_answered_on_a_table_that_is_written_steadily(busy_scene: Scene) -> None:
    for number in range(3):
        token = (await busy_scene.client.resolve(NOW)).continuation_token
        busy_scene.put(thing(int(MARK), str(number)))
        async with busy_scene.client.subscribe(after(token)) as stream:
            await until_mark(stream)


@pytest.mark.req("CF-04", "P1")
async def test_a_stream_from_now_opens_and_goes_live_on_a_table_that_is_written_steadily(busy_scene: Scene) -> None:
    async with busy_scene.client.subscribe(NOW) as stream:
        await stream.until("opened")
        busy_scene.put(thing(int(MARK)))
        await stream.until_live()
        await until_mark(stream)


@pytest.mark.req("CF-04")
async def test_now_is_spanners_time_and_brings_nothing_of_a_commit_just_before() -> None:
    async with made(Behaviour(partitions=2)) as scene:
        for number in range(20):
            scene.put(thing(number))
            token = (await scene.client.resolve(NOW)).continuation_token
            assert not (await scene.client.read(after(token))).events


@pytest.mark.req("CF-04", "P7")
async def test_those_who_ask_for_now_at_one_time_share_the_answer() -> None:
    async with made() as scene:
        await scene.client.read(NOW)
        shard = physical(scene.partition)
        scene.server.calls.clear()
        scene.server.stall("Statement")
        answers = [asyncio.create_task(scene.client.resolve(NOW, scope=shard)) for _ in range(20)]
        await scene.server.calls.until(lambda calls: calls.count("Statement") >= 1)
        scene.server.clear_faults()
        await asyncio.gather(*answers)
        assert scene.server.calls.count("Statement") <= 4
        assert scene.server.calls.count("Initial") <= 4


@pytest.mark.req("CF-04", "E4", "P1")
async def test_now_holds_when_partitions_change_between_the_answer_and_the_reading() -> None:
    async with made(Behaviour(partitions=2)) as scene:
        for number in range(5):
            token = (await scene.client.resolve(NOW)).continuation_token
            scene.server.merge(MAIN, CHANGES, *scene.server.alive(MAIN, CHANGES)[:2])
            scene.put(thing(number))
            scene.server.split(MAIN, CHANGES, scene.server.alive(MAIN, CHANGES)[0])
            scene.put(thing(number, "b"))
            assert len((await scene.client.read_all(after(token))).events) == 2
