"""Requests at and beyond the limits, and items near the size of a message."""

from collections.abc import Awaitable
from dataclasses import replace

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from changefeed.v1 import change_event_pb2, partition_pb2, read_changes_pb2, subscribe_pb2
from changefeed_gateway.core.model import ItemState
from tests.conformance.backend import Item
from tests.conformance.client import NOW, REQUIRE, Event, Start, after, invalid, physical, refused
from tests.conformance.journal import ids, tells_every_change
from tests.conformance.world import World
from tests.gateway import QUICK

ITEM = Item("p1", "a")


@pytest.mark.req("CF-11")
async def test_page_sizes_have_a_default_and_a_limit(world: World) -> None:
    await world.restart(limits=replace(QUICK, default_page_size=3, max_page_size=7))
    start = await world.origin()
    await world.create(20)
    for asked, most in ((0, 3), (5, 5), (7, 7), (8, 7), (2**31 - 1, 7)):
        reading = await world.client.read_all(start, size=asked)
        assert max(len(page.events) for page in reading.pages) <= most
        world.journal.check(reading.events)
        async with world.client.subscribe(start, size=asked, max_events=20) as stream:
            while len(stream.events) < 20:
                assert len((await stream.until("batch")).batch.events) <= most


@pytest.mark.req("CF-11")
async def test_numbers_below_zero_are_refused(world: World) -> None:
    address, stub = world.client.address, world.client.stub
    calls: dict[str, Awaitable[object]] = {
        "max_page_size": stub.ReadChanges(
            read_changes_pb2.ReadChangesRequest(address=address, start_position=NOW, max_page_size=-1)
        ),
        "max_wait": stub.ReadChanges(
            read_changes_pb2.ReadChangesRequest(address=address, start_position=NOW, max_wait=Duration(seconds=-1))
        ),
        "page_size": stub.ListPhysicalPartitions(
            partition_pb2.ListPhysicalPartitionsRequest(address=address, page_size=-1)
        ),
        "max_batch_size": stub.Subscribe(
            subscribe_pb2.SubscribeRequest(address=address, start_position=NOW, max_batch_size=-1)
        ).read(),
        "max_events": stub.Subscribe(
            subscribe_pb2.SubscribeRequest(address=address, start_position=NOW, max_events=-1)
        ).read(),
    }
    for field, call in calls.items():
        found = await invalid(call, "FIELD_INVALID")
        assert found.fields == [field]
        assert found.metadata["retryable"] == "false"


@pytest.mark.req("CF-04", "CF-11")
async def test_a_request_without_a_start_is_refused(world: World) -> None:
    for answer in (
        world.client.read(Start()),
        world.client.resolve(Start()),
        world.client.subscribe(Start()).next(),
    ):
        found = await invalid(answer, "START_REQUIRED")
        assert found.fields == ["start_position"]


@pytest.mark.req("CF-11")
async def test_a_request_without_an_address_or_with_an_unknown_mode_is_refused(world: World) -> None:
    stub = world.client.stub
    found = await invalid(stub.ReadChanges(read_changes_pb2.ReadChangesRequest(start_position=NOW)), "FIELD_INVALID")
    assert found.fields == ["address.connection"]
    request = read_changes_pb2.ReadChangesRequest(address=world.client.address, start_position=NOW)
    request.new_item_state_mode = 99  # type: ignore[assignment]
    assert (await invalid(stub.ReadChanges(request), "FIELD_INVALID")).fields == ["new_item_state_mode"]


@pytest.mark.req("P5", "P7")
async def test_items_of_a_megabyte_come_in_messages_below_four(world: World) -> None:
    size = min(1_000_000, world.backend.largest_content)
    count = 5_000_000 // size
    start = await world.origin()
    for number in range(count):
        await world.put(Item("p1", f"large {number}"), f"{number}" + "x" * (size - 10))
    # The client refuses messages above 4 MiB.
    reading = await world.client.read_all(start)
    world.journal.check(reading.events)
    async with world.client.subscribe(start, max_events=count) as stream:
        await stream.to_the_end()
    assert ids(stream.events) == ids(reading.events)


@pytest.mark.req("P4", "P7")
async def test_messages_are_cut_by_their_bytes_whatever_they_are_made_of(world: World) -> None:
    await world.restart(limits=replace(QUICK, max_message_bytes=3_000))
    start = await world.origin()
    await world.create(60)
    reading = await world.client.read_all(start)
    world.journal.check(reading.events)
    passed: list[Event] = []
    async with world.client.subscribe(start, max_events=60) as stream:
        batches = [m.batch async for m in stream.messages() if m.WhichOneof("content") == "batch"]
    world.journal.check(stream.events)
    for events in [page.events for page in reading.pages] + [batch.events for batch in batches]:
        assert sum(event.ByteSize() for event in events) <= 3_000
    for batch in batches:
        passed += batch.events
        rest = await world.client.read_all(after(batch.continuation_token))
        assert sorted(ids(rest.events)) == sorted(ids(stream.events[len(passed) :]))


@pytest.mark.req("P5", "CF-03")
async def test_an_item_larger_than_a_message_is_named_and_the_feed_goes_on(world: World) -> None:
    await world.restart(limits=replace(QUICK, max_item_bytes=10_000))
    start = await world.origin()
    await world.put(ITEM)
    await world.put(Item("p1", "large"), "x" * 20_000)
    await world.put(Item("p1", "small"))
    reading = await world.client.read_all(start)
    async with world.client.subscribe(start, max_events=3) as stream:
        await stream.to_the_end()
    for events in (reading.events, list(stream.events)):
        world.journal.check(events)
        [large] = [e for e in events if world.backend.item_of(e.key).name == "large"]
        assert large.event_id
        if await world.can("CHANGE_FEED_NEW_ITEM_STATE"):
            assert large.item_state == change_event_pb2.ITEM_STATE_TOO_LARGE


@pytest.mark.req("CF-11", "P5")
async def test_a_required_item_that_is_too_large_stops_with_a_way_around(world: World) -> None:
    if not await world.can("CHANGE_FEED_NEW_ITEM_STATE"):
        return
    await world.restart(limits=replace(QUICK, max_item_bytes=10_000))
    scope = physical((await world.learn(ITEM)).partition_id)
    start = after((await world.client.resolve(NOW, scope=scope)).continuation_token)
    # Where only the last version of an item is told, each change is one of its own.
    same = tells_every_change(world.backend)
    first, large, *others = [ITEM if same else Item(ITEM.partition, f"item {number}") for number in range(7)]
    await world.put(first)
    await world.put(large, "x" * 20_000)
    for item in others:
        await world.put(item)
    everything = (await world.client.read_all(start)).events

    page = await world.client.read(start, mode=REQUIRE)
    if world.backend.item_state is ItemState.INCLUDED_CURRENT:
        # The large item is gone by now: every change carries the one that replaced it.
        assert ids(page.events) == ids(everything)
        return
    assert ids(page.events) == ids(everything[:1])
    stopped = world.client.read(after(page.continuation_token), mode=REQUIRE)
    await _steps_over(world, stopped, everything[1].event_id, ids(everything[2:]))
    # Small batches: the gateway has read on behind the item when it has to stop at it.
    async with world.client.subscribe(start, mode=REQUIRE, size=2) as stream:
        await stream.until_events(1)
        await _steps_over(world, stream.until("batch"), everything[1].event_id, ids(everything[2:]))


async def _steps_over(world: World, stopped: Awaitable[object], event_id: str, rest: list[str]) -> None:
    found = await refused(
        stopped, "UNSUPPORTED_CAPABILITY", "NEW_ITEM_STATE_UNAVAILABLE", grpc.StatusCode.UNIMPLEMENTED
    )
    assert found.metadata["event_id"] == event_id
    reading = await world.client.read_all(after(found.metadata["continuation_token"]), mode=REQUIRE)
    assert ids(reading.events) == rest
