"""How often and by how many the service is asked: two readers a shard, few calls when idle, no loop when throttled."""

import asyncio
import time

import grpc
import pytest

from tests.conformance.client import BEGINNING, NOW, after, physical, refusal
from tests.conformance.journal import ids
from tests.dynamodb.gateway import LONGEST_PAUSE
from tests.dynamodb.scene import Scene
from tests.dynamodb.server.errors import throttled
from tests.faults import ALWAYS

ALLOWED = 2
"""Readers that the service allows to a shard, over all consumers together."""


async def write_many(scene: Scene, count: int, *, since: int = 0) -> None:
    """Write so many new items, numbered from one on."""

    def write() -> None:
        for number in range(since, since + count):
            scene.shop.put(f"p{number}", number, text={"S": "x" * 100})

    await scene.write(write)


def check_calls(scene: Scene) -> None:
    """At most two calls to a shard at one time, so that the service never complained."""
    assert max(scene.server.calls.most_under_way().values()) <= ALLOWED
    assert not scene.server.calls.errors["GetRecords", "LimitExceededException"]


def check_readers(scene: Scene) -> None:
    """At most two readers a shard, from the first call of each to its last."""
    check_calls(scene)
    assert max(scene.server.calls.most_readers().values()) <= ALLOWED


@pytest.mark.req("P7")
@pytest.mark.parametrize("scoped", [False, True])
async def test_many_live_streams_share_two_readers_a_shard(thinking_scene: Scene, scoped: bool) -> None:
    scene = thinking_scene
    scope = physical(scene.shard) if scoped else None
    streams = [scene.client.subscribe(NOW, scope=scope) for _ in range(20)]
    try:
        await asyncio.gather(*(stream.until_live() for stream in streams))
        for written in (10, 20, 30):
            await write_many(scene, 10, since=written - 10)
            await asyncio.gather(*(stream.until_events(written) for stream in streams))
        assert len({tuple(ids(stream.events)) for stream in streams}) == 1
    finally:
        for stream in streams:
            await stream.__aexit__(None, None, None)
    check_readers(scene)


@pytest.mark.req("P7")
async def test_many_streams_that_catch_up_share_two_readers_a_shard(thinking_scene: Scene) -> None:
    scene = thinking_scene
    await write_many(scene, 300)
    streams = [scene.client.subscribe(BEGINNING, size=size) for size in (1, 3, 10, 50) for _ in range(5)]
    try:
        await asyncio.gather(*(stream.until_events(300) for stream in streams))
    finally:
        for stream in streams:
            await stream.__aexit__(None, None, None)
    assert len({tuple(ids(stream.events)) for stream in streams}) == 1
    check_calls(scene)


@pytest.mark.req("P7")
async def test_many_long_polls_share_two_readers_a_shard(thinking_scene: Scene) -> None:
    scene = thinking_scene
    token = (await scene.client.read(NOW)).continuation_token
    polls = [asyncio.create_task(scene.client.read_until(after(token), 1)) for _ in range(30)]
    await asyncio.to_thread(scene.server.calls.wait_for, "GetRecords", 5)
    await scene.write(scene.shop.put, "a", 1)
    readings = await asyncio.gather(*polls)
    assert len({tuple(ids(reading.events)) for reading in readings}) == 1
    check_calls(scene)


@pytest.mark.req("P7")
async def test_a_service_that_hangs_is_asked_by_two_readers_a_shard(thinking_scene: Scene) -> None:
    scene = thinking_scene
    await write_many(scene, 10)
    tokens = [page.continuation_token for page in (await scene.client.read_all(BEGINNING, size=1)).pages[:10]]
    scene.server.stall("GetRecords")
    scene.server.calls.clear()
    readings = [asyncio.create_task(scene.client.read(after(token))) for token in tokens]
    await asyncio.to_thread(scene.server.calls.wait_for, "DescribeTable", len(tokens))
    await asyncio.to_thread(scene.server.calls.wait_for, "GetRecords", 1)
    scene.server.clear_faults()
    assert sorted([len((await reading).events) for reading in readings]) == list(range(10))
    check_calls(scene)


@pytest.mark.req("E1", "P7")
async def test_an_idle_stream_asks_seldom_and_of_each_shard_alike(slow_scene: Scene) -> None:
    scene = slow_scene
    async with scene.client.subscribe(NOW) as stream:
        await stream.until_live()
        # Until the pauses have reached their longest.
        await asyncio.to_thread(scene.server.calls.wait_for, "GetRecords", 8)
        scene.server.calls.clear()
        started = time.monotonic()
        await asyncio.to_thread(scene.server.calls.wait_for, "GetRecords", 6)
        elapsed = time.monotonic() - started
    # Slowness of the machine makes this longer, never shorter.
    assert elapsed >= 5 * LONGEST_PAUSE.total_seconds() / 2
    counts = scene.server.calls.counts()
    assert counts.keys() <= {"GetRecords", "DescribeStream", "DescribeTable"}
    assert sum(counts.values()) - counts["GetRecords"] <= 1


@pytest.mark.req("E1", "P7")
async def test_a_hundred_idle_streams_ask_no_more_than_one(slow_scene: Scene) -> None:
    scene = slow_scene
    streams = [scene.client.subscribe(NOW) for _ in range(100)]
    try:
        await asyncio.gather(*(stream.until_live() for stream in streams))
        await asyncio.to_thread(scene.server.calls.wait_for, "GetRecords", 16)
        scene.server.calls.clear()
        started = time.monotonic()
        await asyncio.to_thread(scene.server.calls.wait_for, "GetRecords", 6)
        elapsed = time.monotonic() - started
    finally:
        for stream in streams:
            await stream.__aexit__(None, None, None)
    assert elapsed >= 5 * LONGEST_PAUSE.total_seconds() / 2


@pytest.mark.req("E3")
@pytest.mark.parametrize("operation", ["GetRecords", "GetShardIterator", "DescribeStream"])
async def test_a_throttled_stream_does_not_ask_in_a_loop(scene: Scene, operation: str) -> None:
    await scene.write(scene.shop.put, "a", 1)
    scene.server.fail(operation, throttled(), times=ALWAYS)
    stream = scene.client.subscribe(BEGINNING)
    found = await refusal(stream.until("closing"))
    assert (found.category, found.code) == ("THROTTLED", grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert found.retry_delay
    # The stream sits an outage out for two seconds.
    assert scene.server.calls.errors[operation, "ThrottlingException"] <= 40
