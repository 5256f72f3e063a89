"""The service's clocks differ and fall back: nothing is skipped for it, and nothing called expired."""

import asyncio
from datetime import timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.client import BEGINNING, NOW, after, at_time, physical, refused
from tests.conformance.journal import ids
from tests.dynamodb.scene import Scene
from tests.dynamodb.server.errors import invalid
from tests.dynamodb.server.wire import WireServer

FALLS = st.lists(st.integers(-9, 9), min_size=4, max_size=8)
"""Seconds that the service's clock moves before each write."""


def fall(scene: Scene, seconds: float) -> None:
    """Set the service's clock, and so the time of each record to come."""
    scene.server.account.clock.advance(timedelta(seconds=seconds))


async def follow_from_everywhere(scene: Scene, moves: list[int]) -> None:
    """Streams that begin after each write, so that each tail was begun by another one, see the same."""
    starts, streams = [BEGINNING, NOW], []
    for number, move in enumerate(moves):
        fall(scene, move)
        await scene.write(scene.shop.put, "a", number)
        starts.append(after((await scene.client.resolve(NOW)).continuation_token))
        for start in starts[-2:]:
            streams.append((scene.client.subscribe(start), start))
            await streams[-1][0].until_live()
    fall(scene, -20)
    last = len(moves)
    await scene.write(scene.shop.put, "a", last)
    try:
        for stream, _ in streams:
            while not stream.events or stream.events[-1].key.sort_key != str(last):
                await stream.until("batch")
        order = ids(streams[0][0].events)
        for stream, _ in streams:
            assert ids(stream.events) == order[len(order) - len(stream.events) :]
    finally:
        for stream, _ in streams:
            await stream.__aexit__(None, None, None)


@pytest.mark.req("P1", "P2")
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(moves=FALLS)
async def test_streams_that_share_a_tail_skip_nothing_when_times_fall_back(moves: list[int]) -> None:
    with WireServer() as server:
        scene = Scene(server)
        await scene.write(scene.shop.create)
        await scene.serve()
        try:
            await follow_from_everywhere(scene, moves)
        finally:
            await scene.kill()


@pytest.mark.req("P1", "P2")
async def test_a_stream_that_joins_a_tail_begun_after_the_clock_fell_back_skips_nothing(scene: Scene) -> None:
    await scene.write(scene.shop.put, "a", 1)
    begun_before = (await scene.client.read_all(BEGINNING)).token
    token = (await scene.client.resolve(NOW)).continuation_token
    await scene.restart()
    fall(scene, -9)
    async with scene.client.subscribe(after(token)) as first:
        await scene.write(scene.shop.put, "a", 2)
        await first.until_live()
        await first.until_events(1)
        # From the same place, but past a record that is younger than the next ones.
        async with scene.client.subscribe(after(begun_before)) as second:
            await second.until_live()
            await second.until_events(1)
            for number in (3, 4):
                await scene.write(scene.shop.put, "a", number)
            await first.until_events(3)
            assert [event.key.sort_key for event in await second.until_events(3)] == ["2", "3", "4"]


@pytest.mark.req("P1")
@pytest.mark.parametrize("at_timestamp", [False, True])
async def test_now_in_another_process_loses_no_change_whose_time_fell_back(
    server: WireServer, at_timestamp: bool
) -> None:
    scene = Scene(server, at_timestamp=at_timestamp)
    await scene.write(scene.shop.create)
    await scene.serve()
    try:
        token = (await scene.client.resolve(NOW)).continuation_token
        await scene.restart()
        for number, move in enumerate([-5, 30, -20]):
            fall(scene, move)
            await scene.write(scene.shop.put, "a", number)
        events = (await scene.client.read_until(after(token), 3)).events
        assert [event.key.sort_key for event in events] == ["0", "1", "2"]
    finally:
        await scene.kill()


async def test_a_time_that_one_host_has_not_reached_yet_is_asked_for_again(timed_scene: Scene) -> None:
    """Another host's clock said so a moment before: no capability is missing for it."""
    scene = timed_scene
    moment = Timestamp(seconds=int(scene.server.account.clock.now()))
    await scene.client.read(NOW)
    scene.server.fail("GetShardIterator", invalid("Timestamp cannot be in the future."))
    found = await refused(
        scene.client.resolve(at_time(moment), scope=physical(scene.shard)),
        "TRANSIENT_FAILURE",
        "PROVIDER_UNAVAILABLE",
        grpc.StatusCode.UNAVAILABLE,
    )
    assert found.retry_delay
    assert (await scene.client.resolve(at_time(moment), scope=physical(scene.shard))).continuation_token


@pytest.mark.req("P6")
async def test_one_answer_with_a_wrong_date_ages_no_position(scene: Scene) -> None:
    token = (await scene.client.read(BEGINNING)).continuation_token
    fall(scene, 30 * 3600)
    await scene.client.capabilities()
    fall(scene, -30 * 3600)
    scene.server.expire_iterators()
    await asyncio.sleep(0)
    await scene.write(scene.shop.put, "a", 1)
    assert len((await scene.client.read_until(after(token), 1)).events) == 1
