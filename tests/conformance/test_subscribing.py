"""Subscribe: anchored, gapless from catch-up to live, alive when idle, and resumable from every message."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest

from changefeed.v1 import change_event_pb2, subscribe_pb2
from tests.conformance.backend import Item
from tests.conformance.client import INCLUDE, NOW, OMIT, Event, after, logical, refused
from tests.conformance.journal import by_partition, check_suffix, ids
from tests.conformance.world import World
from tests.gateway import QUICK

ITEM = Item("p1", "a")


@pytest.mark.req("A1", "P1", "P2", "SC-1")
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_stream_catches_up_and_goes_on_live(world: World, size: int) -> None:
    start = await world.origin()
    await world.write(20)
    async with world.client.subscribe(start, size=size) as stream:
        await stream.until_live()
        assert stream.kinds[:2] == ["opened", "state_changed"]
        world.journal.check(stream.events)
        for _ in range(5):
            await world.write(3)
            await stream.until_events(len(world.journal.commits))
        world.journal.check(stream.events)
    assert by_partition(stream.events) == by_partition((await world.client.read_all(start)).events)


@pytest.mark.req("A1")
async def test_opened_says_what_is_in_force(world: World) -> None:
    capabilities = await world.client.capabilities()
    async with world.client.subscribe(NOW, heartbeat=0.001) as stream:
        opened = (await stream.until("opened")).opened
    assert opened.heartbeat_interval.ToTimedelta() == QUICK.min_heartbeat
    assert opened.provider == world.backend.provider_id
    assert opened.request_id
    assert list(opened.warnings) == list(capabilities.warnings)
    assert opened.HasField("token_expire_time") == capabilities.HasField("retention")
    async with world.client.subscribe(NOW, heartbeat=86_400) as stream:
        opened = (await stream.until("opened")).opened
    assert opened.heartbeat_interval.ToTimedelta() == QUICK.max_heartbeat


@pytest.mark.req("CF-04", "P1")
async def test_what_is_committed_after_opened_is_delivered(world: World) -> None:
    await world.write(5)
    for _ in range(5):
        known = len(world.journal.commits)
        async with world.client.subscribe(NOW) as stream:
            await stream.until("opened")
            await world.write(2)
            await stream.until_events(2)
        world.journal.check(stream.events, since=known)


@pytest.mark.req("P4")
async def test_the_token_of_opened_resumes_a_stream_that_broke_before_its_first_event(world: World) -> None:
    await world.write(5)
    async with world.client.subscribe(NOW) as stream:
        await stream.until("opened")
    known = len(world.journal.commits)
    await world.write(5)
    world.journal.check((await world.client.read_all(after(stream.token))).events, since=known)


@pytest.mark.req("E1")
async def test_an_empty_feed_is_live_at_once(world: World) -> None:
    start = await world.origin()
    async with world.client.subscribe(start) as stream:
        await stream.until_live()
    assert stream.kinds == ["opened", "state_changed", "state_changed"]


@pytest.mark.req("E1", "P4")
async def test_heartbeats_come_when_nothing_else_does_and_resume(world: World) -> None:
    await world.write(5)
    async with world.client.subscribe(NOW, heartbeat=0.05) as stream:
        for _ in range(3):
            heartbeat = (await stream.until("heartbeat")).heartbeat
            retention = (await world.client.capabilities()).HasField("retention")
            assert heartbeat.HasField("token_expire_time") == retention
    known = len(world.journal.commits)
    await world.write(3)
    world.journal.check((await world.client.read_all(after(heartbeat.continuation_token))).events, since=known)


@pytest.mark.req("BX-3")
async def test_every_batch_forecasts_when_its_token_expires(world: World) -> None:
    retention = (await world.client.capabilities()).HasField("retention")
    async with world.client.subscribe(await world.origin(), size=1) as stream:
        await stream.until_live()
        await world.write(5)
        for _ in range(5):
            batch = (await stream.until("batch")).batch
            assert batch.HasField("token_expire_time") == retention


@pytest.mark.req("E1")
async def test_the_stream_of_an_idle_logical_partition_is_live_and_moves(world: World) -> None:
    if not await world.can("CHANGE_FEED_LOGICAL_PARTITION_SCOPE"):
        return
    key = (await world.learn(ITEM)).key.partition_key
    async with world.client.subscribe(NOW, scope=logical(key), heartbeat=0.05) as stream:
        await stream.until_live()
        await world.put(Item("another", "b"))
        await stream.until("heartbeat")
        assert not stream.events
        await world.put(ITEM)
        [event] = await stream.until_events(1)
        assert world.backend.item_of(event.key) == ITEM


@pytest.mark.req("A3", "P4")
async def test_max_events_ends_a_stream_exactly_there(world: World) -> None:
    start = await world.origin()
    await world.write(20)
    async with world.client.subscribe(start, size=4, max_events=10) as stream:
        closing = await stream.to_the_end()
    assert closing.reason == subscribe_pb2.CLOSING_REASON_MAX_EVENTS
    assert len(stream.events) == 10
    assert closing.continuation_token == stream.token
    rest = await world.client.read_all(after(closing.continuation_token))
    world.journal.check([*stream.events, *rest.events])


@pytest.mark.req("A3")
async def test_max_events_counts_live_changes_too(world: World) -> None:
    async with world.client.subscribe(NOW, max_events=2) as stream:
        await stream.until_live()
        await world.write(3)
        closing = await stream.to_the_end()
    assert closing.reason == subscribe_pb2.CLOSING_REASON_MAX_EVENTS
    assert len(stream.events) == 2


@pytest.mark.req("P4", "P1")
async def test_every_batch_resumes_exactly_behind_it(world: World) -> None:
    start = await world.origin()
    await world.write(20)
    passed: list[Event] = []
    tokens: list[tuple[str, int]] = []
    async with world.client.subscribe(start, size=3) as stream:
        while len(passed) < len(world.journal.commits):
            batch = (await stream.until("batch")).batch
            assert len(batch.events) <= 3
            passed += batch.events
            tokens.append((batch.continuation_token, len(passed)))
    for token, count in tokens:
        rest = await world.client.read_all(after(token))
        assert sorted(ids(rest.events)) == sorted(ids(passed[count:]))
        check_suffix(rest.events, passed)


@pytest.mark.req("P4")
async def test_tokens_of_pages_and_streams_are_interchangeable(world: World) -> None:
    start = await world.origin()
    await world.write(30)
    events: list[Event] = []
    while len(events) < len(world.journal.commits):
        page = await world.client.read(start, size=4)
        events += page.events
        async with world.client.subscribe(after(page.continuation_token), size=3, max_events=3) as stream:
            if len(events) == len(world.journal.commits):
                break
            await stream.until("batch")
            await stream.until_events(min(3, len(world.journal.commits) - len(events)))
        events += stream.events
        start = after(stream.token)
    world.journal.check(events)


@pytest.mark.req("US2.1", "SC-2", "P1", "BX-2")
async def test_a_gateway_that_dies_loses_nothing(world: World) -> None:
    start = await world.origin()
    delivered: list[Event] = []
    for _ in range(3):
        await world.write(6)
        async with world.client.subscribe(start, size=4) as stream:
            await stream.until("batch")
            await world.restart()
            delivered += stream.events
            start = after(stream.token)
    reading = await world.client.read_all(start)
    world.journal.check([*delivered, *reading.events])


@pytest.mark.req("P4")
async def test_a_draining_gateway_closes_its_streams_in_order_and_answers_its_long_polls(world: World) -> None:
    await world.write(5)
    old = world.client
    polling = asyncio.create_task(old.read(NOW, wait=10))
    async with old.subscribe(NOW) as stream:
        await stream.until_live()
        draining = asyncio.create_task(world.gateway.drain())
        closing = await stream.to_the_end()
        page = await polling
        await draining
    assert closing.reason == subscribe_pb2.CLOSING_REASON_DRAINING
    assert closing.reconnect_after.ToTimedelta() >= timedelta(0)

    await world.restart()
    known = len(world.journal.commits)
    await world.write(5)
    for token in (closing.continuation_token, page.continuation_token):
        # Another process may find `now` by the time alone, and give what was committed shortly before.
        world.journal.check((await world.client.read_all(after(token))).events, since=known, at_least=True)


@pytest.mark.req("P4")
async def test_an_old_stream_is_asked_to_reconnect(world: World) -> None:
    await world.restart(limits=replace(QUICK, max_stream_age=timedelta(milliseconds=200)))
    async with world.client.subscribe(NOW, heartbeat=0.05) as stream:
        closing = await stream.to_the_end()
    assert closing.reason == subscribe_pb2.CLOSING_REASON_MAX_AGE
    await world.put(ITEM)
    assert len((await world.client.read_all(after(closing.continuation_token))).events) == 1


@pytest.mark.req("P6")
async def test_a_feed_that_is_dropped_while_it_streams_ends_the_stream_in_order(world: World) -> None:
    async with world.client.subscribe(NOW, heartbeat=0.05) as stream:
        await stream.until_live()
        await world.backend.recreate()
        closing = await stream.to_the_end()
    assert closing.reason == subscribe_pb2.CLOSING_REASON_FEED_DROPPED
    resumed = world.client.subscribe(after(closing.continuation_token)).next()
    await refused(resumed, "INVALID_REQUEST", "TOKEN_RESOURCE_RECREATED", grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.req("CF-11")
async def test_streams_leave_items_out_when_asked(world: World) -> None:
    start = await world.origin()
    await world.put(ITEM)
    async with world.client.subscribe(start, mode=OMIT) as stream:
        await stream.until_live()
        await world.put(ITEM)
        events = await stream.until_events(2)
    assert {e.item_state for e in events} == {change_event_pb2.ITEM_STATE_OMITTED}
    assert not any(e.new_item_json for e in events)


@pytest.mark.req("P2", "P7")
async def test_many_streams_in_different_places_see_the_same_changes(world: World) -> None:
    start = await world.origin()
    await world.write(10)
    streams = [
        world.client.subscribe(start, size=size, mode=mode) for size in (1, 2, 5, 100) for mode in (OMIT, INCLUDE)
    ]
    stalled = world.client.subscribe(start)
    await stalled.until("opened")
    total = 40
    try:
        reading = asyncio.gather(*(stream.until_events(total) for stream in streams))
        while len(world.journal.commits) < total:
            await world.write(2)
        results = await reading
    finally:
        for stream in (*streams, stalled):
            await stream.__aexit__(None, None, None)
    for events in results:
        world.journal.check(events)
        assert by_partition(events) == by_partition(results[0])
