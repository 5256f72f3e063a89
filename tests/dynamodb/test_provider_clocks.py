"""The service's clocks differ and fall back: nothing is skipped for it, and nothing called expired."""

import asyncio
from datetime import timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conformance.client import BEGINNING, NOW, PATIENCE, Event, Stream, after, at_time, physical, refused
from tests.conformance.journal import ids
from tests.dynamodb.scene import Scene
from tests.dynamodb.server.errors import invalid
from tests.dynamodb.server.wire import WireServer

FALLS = st.lists(st.integers(-9, 9), min_size=2, max_size=4)
"""Seconds by which the service's clock jumps between a now and the next write."""


def fall(scene: Scene, seconds: float) -> None:
    """Set the service's clock, and so the time of each record to come."""
    scene.server.account.clock.advance(timedelta(seconds=seconds))


def set_clock(scene: Scene, moment: float) -> None:
    """Show a time, however long the test took so far."""
    fall(scene, moment - scene.server.account.clock.now())


def is_last(event: Event) -> bool:
    return (event.key.partition_key, event.key.sort_key) == ("last", "2")


async def check_streams(scene: Scene, tokens: list[str]) -> None:
    """Streams from several places, the last one before the end: all see the same, and what is written while they do."""
    streams: list[Stream] = []
    begun = scene.server.account.clock.now()
    try:
        for token in reversed(tokens):
            streams.append(scene.client.subscribe(after(token)))
            await streams[-1].until_live()
            await streams[-1].until_events(len(streams))
        for number in range(3):
            set_clock(scene, begun - 9)
            await scene.write(scene.shop.put, "last", number)
        for stream in streams:
            async with asyncio.timeout(PATIENCE):
                while not stream.events or not is_last(stream.events[-1]):
                    await stream.until("batch")
        order = ids(streams[-1].events)
        for position, stream in enumerate(streams):
            got = ids(stream.events)
            # What was written within ten seconds before a now that another process found may come too.
            assert len(got) >= 4 + position
            assert got == order[-len(got) :]
    finally:
        for stream in streams:
            await stream.__aexit__(None, None, None)


@pytest.mark.req("P1", "P2")
@settings(max_examples=3)
@given(falls=FALLS)
@example(falls=[9, -9])
async def test_streams_that_share_a_tail_skip_nothing_when_times_fall_back(falls: list[int]) -> None:
    """Each place was found by another process, which had not seen the times before."""
    with WireServer() as server:
        scene = Scene(server)
        await scene.write(scene.shop.create)
        tokens, begun = [], server.account.clock.now()
        try:
            for number, seconds in enumerate(falls):
                await scene.restart()
                set_clock(scene, begun)
                tokens.append((await scene.client.resolve(NOW)).continuation_token)
                set_clock(scene, begun + seconds)
                await scene.write(scene.shop.put, "first", number)
            await check_streams(scene, tokens)
        finally:
            await scene.kill()


@pytest.mark.req("P1", "P2")
async def test_a_stream_that_joins_a_tail_begun_after_the_clock_fell_back_skips_nothing(scene: Scene) -> None:
    await scene.write(scene.shop.put, "a", 1)
    begun_before = (await scene.client.read_all(BEGINNING)).pages[-1].continuation_token
    await scene.restart()
    begun_at_now = (await scene.client.resolve(NOW)).continuation_token
    fall(scene, -3600)
    await scene.write(scene.shop.put, "a", 2)
    async with (
        scene.client.subscribe(after(begun_at_now)) as first,
        scene.client.subscribe(after(begun_before)) as second,
    ):
        for stream in (first, second):
            await stream.until_live()
            await stream.until_events(1)
        for number in (3, 4):
            await scene.write(scene.shop.put, "a", number)
        for stream in (first, second):
            # Heartbeats go on where a change is skipped.
            async with asyncio.timeout(PATIENCE):
                assert [event.key.sort_key for event in await stream.until_events(3)] == ["2", "3", "4"]


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
