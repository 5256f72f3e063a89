"""How often and by how many the service is asked: few readers a partition, one that follows, no loop when throttled."""

import asyncio
import gc
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from functools import partial

import grpc
import pytest

from changefeed_gateway.providers.spanner.reading import Pace
from changefeed_gateway.providers.spanner.records import DataRecord
from tests.conformance.client import BEGINNING, NOW, after, physical, refusal
from tests.conformance.journal import ids
from tests.faults import ALWAYS
from tests.spanner.scene import CHANGES, MAIN, NEW_ROW, Scene, made, thing
from tests.spanner.server.behaviour import Behaviour
from tests.spanner.server.calls import Call, Calls
from tests.spanner.server.errors import throttled

ALLOWED = 10
"""Half of what the service allows to a partition, over all consumers together: two gateways may read it."""


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with made() as scene:
        yield scene


def check_readers(scene: Scene) -> None:
    assert max(scene.server.calls.most_readers().values()) <= ALLOWED
    assert not scene.server.calls.errors["Partition", "RESOURCE_EXHAUSTED"]


def following(scene: Scene) -> list[Call]:
    """The queries without an end that are being served."""
    return [c for c in scene.server.calls.under_way_now() if c.operation == "Partition" and c.end is None]


@pytest.mark.req("P7")
@pytest.mark.parametrize("scoped", [False, True])
async def test_many_live_streams_share_one_query_that_follows(scene: Scene, scoped: bool) -> None:
    scope = physical(scene.partition) if scoped else None
    streams = [scene.client.subscribe(NOW, scope=scope) for _ in range(30)]
    try:
        await asyncio.gather(*(stream.until_live() for stream in streams))
        for written in (10, 20, 30):
            for number in range(10):
                scene.put(thing(number, str(written)))
            await asyncio.gather(*(stream.until_events(written) for stream in streams))
        assert len({tuple(ids(stream.events)) for stream in streams}) == 1
        assert len(following(scene)) == 1
    finally:
        for stream in streams:
            await stream.__aexit__(None, None, None)
    check_readers(scene)


@pytest.mark.req("P7")
async def test_many_long_polls_in_different_places_share_one_query_that_follows(scene: Scene) -> None:
    tokens = []
    for _ in range(12):
        tokens.append((await scene.client.read(NOW)).continuation_token)
    assert len(set(tokens)) == 12
    polls = [asyncio.create_task(scene.client.read_until(after(token), 1)) for token in tokens for _ in range(3)]
    await scene.server.calls.until(lambda calls: any(c.end is None and c.operation == "Partition" for c in calls.log))
    scene.put(thing(99))
    readings = await asyncio.gather(*polls)
    assert {reading.events[-1].key.partition_key for reading in readings} == {"99"}
    assert sum(c.end is None and c.operation == "Partition" for c in scene.server.calls.log) == 1
    check_readers(scene)


@pytest.mark.req("P7")
async def test_many_streams_that_catch_up_keep_within_the_readers_of_a_partition(scene: Scene) -> None:
    for number in range(100):
        scene.put(thing(number))
    streams = [scene.client.subscribe(BEGINNING, size=size) for size in (1, 3, 10, 50) for _ in range(5)]
    try:
        await asyncio.gather(*(stream.until_events(100) for stream in streams))
    finally:
        for stream in streams:
            await stream.__aexit__(None, None, None)
    assert len({tuple(ids(stream.events)) for stream in streams}) == 1
    check_readers(scene)


@pytest.mark.req("E1", "P7")
async def test_an_idle_stream_asks_for_nothing(scene: Scene) -> None:
    async with scene.client.subscribe(NOW, heartbeat=0.05) as stream:
        await stream.until_live()
        await stream.until("heartbeat")
        await scene.server.calls.until(lambda calls: bool(following(scene)))
        scene.server.calls.clear()
        for _ in range(10):
            await stream.until("heartbeat")
    counts = scene.server.calls.counts()
    assert counts.get("Partition", 0) == 0
    assert sum(counts.values()) <= 1


@pytest.mark.req("E1", "P4")
async def test_heartbeats_move_the_position_of_an_idle_partition(scene: Scene) -> None:
    async with scene.client.subscribe(NOW, heartbeat=0.05) as stream:
        await stream.until_live()
        first = (await stream.until("heartbeat")).heartbeat.continuation_token
        while (await stream.until("heartbeat")).heartbeat.continuation_token == first:
            pass


@pytest.mark.req("P7")
async def test_a_query_that_nobody_reads_any_more_is_ended() -> None:
    pace = Pace(heartbeat=timedelta(milliseconds=100), linger=timedelta(milliseconds=50))
    async with made(pace=pace) as scene:
        async with scene.client.subscribe(NOW) as stream:
            await stream.until_live()
            await scene.server.calls.until(lambda calls: bool(following(scene)))
        await scene.server.calls.until(lambda calls: not following(scene))


@pytest.mark.req("P7")
async def test_of_what_a_query_brought_that_nobody_reads_any_more_nothing_is_kept() -> None:
    pace = Pace(heartbeat=timedelta(milliseconds=100), linger=timedelta(milliseconds=50))
    async with made(pace=pace) as scene:
        before = records_in_memory()
        async with scene.client.subscribe(NOW) as stream:
            await stream.until_live()
            await scene.server.calls.until(lambda calls: bool(following(scene)))
            for number in range(20):
                scene.put(thing(number))
            await stream.until_events(20)
            assert records_in_memory() >= before + 20
        await scene.server.calls.until(lambda calls: not following(scene))
        assert records_in_memory() <= before


def records_in_memory() -> int:
    gc.collect()
    return sum(isinstance(found, DataRecord) for found in gc.get_objects())


@pytest.mark.req("P1")
async def test_a_query_that_follows_is_made_anew_before_its_hour_is_over_and_loses_nothing() -> None:
    pace = Pace(heartbeat=timedelta(milliseconds=100), renewal=timedelta(milliseconds=150))
    async with made(pace=pace) as scene, scene.client.subscribe(NOW) as stream:
        await stream.until_live()
        for number in range(5):
            known = sum(c.end is None for c in scene.server.calls.log if c.operation == "Partition")
            scene.put(thing(number))
            await stream.until_events(number + 1)
            await scene.server.calls.until(partial(made_anew, known))
    assert len(set(ids(stream.events))) == 5


def made_anew(known: int, calls: Calls) -> bool:
    """Whether there were more queries without an end than some."""
    return sum(c.end is None for c in calls.log if c.operation == "Partition") > known


@pytest.mark.req("P7")
async def test_a_stream_is_not_begun_anew_each_time_that_somebody_asks_after_its_change_stream_was_altered() -> None:
    async with made(catalog_age=timedelta(0)) as scene, scene.client.subscribe(NOW) as stream:
        await stream.until_live()
        await scene.server.calls.until(lambda calls: bool(following(scene)))
        altered = scene.server.stream(MAIN, CHANGES)
        altered.definition = replace(altered.definition, options={**NEW_ROW, "retention_period": "3d"})
        for number in range(5):
            await scene.client.resolve(NOW)
            scene.put(thing(number))
            await stream.until_events(number + 1)
        assert sum(c.end is None and c.operation == "Partition" for c in scene.server.calls.log) == 1


@pytest.mark.req("P7")
async def test_a_gateway_that_closes_leaves_no_query_behind(scene: Scene) -> None:
    async with scene.client.subscribe(NOW) as stream:
        await stream.until_live()
        await scene.server.calls.until(lambda calls: bool(following(scene)))
        await scene.kill()
    await scene.server.calls.until(lambda calls: not scene.server.calls.under_way_now())


@pytest.mark.req("P7")
async def test_more_queries_than_a_connection_carries_do_not_wait_for_one_another() -> None:
    async with made(Behaviour(partitions=120)) as scene, scene.client.subscribe(NOW) as stream:
        await stream.until_live()
        await scene.server.calls.until(lambda calls: len(following(scene)) == 120)
        scene.put(thing(1))
        await stream.until_events(1)
        assert len(await scene.client.partitions()) == 120


@pytest.mark.req("SC-1")
async def test_a_listing_that_failed_goes_on_where_it_had_come() -> None:
    """Otherwise one that takes longer than its caller waits would begin again for ever."""
    async with made(Behaviour(partitions=1)) as scene:
        for _ in range(20):
            scene.server.move(MAIN, CHANGES, *scene.server.alive(MAIN, CHANGES))
        listing = asyncio.create_task(scene.client.partitions())
        await scene.server.calls.until(lambda calls: asked(scene) >= 20)
        scene.server.deny(MAIN, "Partition")
        with pytest.raises(grpc.aio.AioRpcError):
            await listing
        scene.server.clear_faults()
        before = asked(scene)
        assert len(await scene.client.partitions()) == 21
        assert asked(scene) - before < 30


def asked(scene: Scene) -> int:
    return sum(call.operation == "Partition" for call in scene.server.calls.log)


@pytest.mark.req("E3")
@pytest.mark.parametrize("operation", ["Partition", "Statement"])
async def test_a_throttled_stream_does_not_ask_in_a_loop(scene: Scene, operation: str) -> None:
    scene.put(thing(1))
    scene.server.fail(operation, throttled(), times=ALWAYS)
    found = await refusal(scene.client.subscribe(BEGINNING).until("closing"))
    assert (found.category, found.code) == ("THROTTLED", grpc.StatusCode.RESOURCE_EXHAUSTED)
    # The stream sits an outage out for two seconds.
    assert scene.server.calls.errors[operation, "RESOURCE_EXHAUSTED"] <= 60
