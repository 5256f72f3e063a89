"""ReadChanges: what a page says, where it starts, and that every token resumes."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from changefeed.v1 import change_event_pb2
from tests.conformance.backend import Item
from tests.conformance.client import (
    BEGINNING,
    INCLUDE,
    NOW,
    OMIT,
    REQUIRE,
    after,
    at_time,
    invalid,
    logical,
    physical,
    unsupported,
)
from tests.conformance.journal import by_partition, check_suffix, ids, tells_every_change
from tests.conformance.world import World

ITEMS = [Item("p1", "a"), Item("p2", "b"), Item("p3", "c")]


@pytest.mark.req("US1.1", "CF-01", "CF-03", "SC-1")
async def test_three_documents_written_to_an_empty_collection_are_three_creates(world: World) -> None:
    start = await world.origin()
    empty = await world.client.read(start)
    assert not empty.events
    for item in ITEMS:
        await world.put(item)

    page = await world.client.read(after(empty.continuation_token))
    world.journal.check(page.events)
    if tells_every_change(world.backend):
        assert {e.change_type for e in page.events} == {change_event_pb2.CHANGE_TYPE_CREATE}
    assert not (await world.client.read(after(page.continuation_token))).events


@pytest.mark.req("CF-01", "CF-03", "CF-11")
async def test_an_event_and_its_page_say_all_they_should(world: World) -> None:
    start = await world.origin()
    await world.put(ITEMS[0])
    capabilities = await world.client.capabilities()
    page = await world.client.read(start)
    [event] = page.events
    assert event.event_id
    assert event.provider == page.diagnostics.provider == world.backend.provider_id
    assert event.address.connection == world.client.address.connection
    assert event.address.collection == world.client.address.collection
    assert event.address.database, "the database is filled in"
    assert event.key.partition_key
    assert event.key.components
    assert event.sequence
    assert event.origin == change_event_pb2.ORIGIN_APPLICATION
    assert event.partition_id in {p.partition_id for p in await world.client.partitions()}
    assert event.item_state == capabilities.item_state
    assert event.HasField("commit_timestamp") == bool(capabilities.commit_time)
    if capabilities.commit_time:
        committed = event.commit_timestamp.ToDatetime(UTC)
        assert abs(committed - datetime.now(UTC)) < timedelta(minutes=1) + world.backend.time_granularity
    assert page.diagnostics.operation == "ReadChanges"
    assert page.diagnostics.request_id
    assert page.diagnostics.provider_calls >= 1
    assert page.diagnostics.duration.ToTimedelta() < timedelta(seconds=10)
    assert list(page.warnings) == list(capabilities.warnings)
    assert not page.partition_retired


@pytest.mark.req("US1.2")
async def test_a_saved_token_gives_only_what_was_committed_after_it(world: World) -> None:
    await world.write(10)
    saved = (await world.client.read_all(NOW)).token
    known = len(world.journal.commits)
    await world.write(10)
    reading = await world.client.read_all(after(saved))
    world.journal.check(reading.events, since=known)


@pytest.mark.req("CF-01", "P1", "P2", "SC-1")
@pytest.mark.parametrize("size", [1, 7, 50, 1000])
async def test_pages_of_any_size_bring_everything_in_the_same_order(world: World, size: int) -> None:
    start = await world.origin()
    await world.write(60)
    reading = await world.client.read_all(start, size=size)
    assert all(len(page.events) <= size for page in reading.pages)
    world.journal.check(reading.events)
    other = await world.client.read_all(start, size=11)
    assert by_partition(reading.events) == by_partition(other.events)


@pytest.mark.req("P4", "US2.1")
async def test_every_token_of_a_reading_resumes_exactly_behind_it(world: World) -> None:
    start = await world.origin()
    await world.write(24)
    reading = await world.client.read_all(start, size=3)
    for number, page in enumerate(reading.pages):
        rest = await world.client.read_all(after(page.continuation_token))
        expected = [event for later in reading.pages[number + 1 :] for event in later.events]
        assert by_partition(rest.events) == by_partition(expected)


@pytest.mark.req("US2.1", "SC-2", "P1")
async def test_read_all_acknowledge_half_forget_and_resume(world: World) -> None:
    start = await world.origin()
    await world.write(40)
    reading = await world.client.read_all(start, size=4)
    half = len(reading.pages) // 2
    acknowledged = [event for page in reading.pages[:half] for event in page.events]
    saved = reading.pages[half - 1].continuation_token

    await world.restart()
    await world.write(10)
    rest = await world.client.read_all(after(saved), size=7)
    world.journal.check([*acknowledged, *rest.events])


@pytest.mark.req("P3", "CF-07")
async def test_event_ids_are_the_same_in_every_scope_mode_and_process(world: World) -> None:
    key = (await world.learn(Item("partition 1", "item 1"))).key.partition_key
    scopes = [physical(p.partition_id) for p in await world.client.partitions()]
    if await world.can("CHANGE_FEED_LOGICAL_PARTITION_SCOPE"):
        scopes.append(logical(key))
    start = await world.origin()
    starts = [(scope, await world.origin(scope)) for scope in scopes]
    await world.write(20)
    everything = (await world.client.read_all(start)).events
    assert len(set(ids(everything))) == len(everything)
    assert set(ids((await world.client.read_all(start, mode=OMIT, size=3)).events)) == set(ids(everything))
    for scope, scope_start in starts:
        mine = [
            event.event_id
            for event in everything
            if scope in (physical(event.partition_id), logical(event.key.partition_key))
        ]
        assert ids((await world.client.read_all(scope_start, scope=scope)).events) == mine
    await world.restart()
    assert set(ids((await world.client.read_all(start)).events)) == set(ids(everything))


@pytest.mark.req("P2")
async def test_concurrent_readers_see_one_order(world: World) -> None:
    start = await world.origin()
    await world.write(40)
    readings = await asyncio.gather(*(world.client.read_all(start, size=size) for size in (1, 3, 5, 20, 100)))
    assert all(by_partition(r.events) == by_partition(readings[0].events) for r in readings)


@pytest.mark.req("CF-04", "P1")
async def test_now_never_misses_what_is_committed_after_the_answer(world: World) -> None:
    await world.write(10)
    for _ in range(5):
        known = len(world.journal.commits)
        anchors = [
            (await world.client.read(NOW)).continuation_token,
            (await world.client.resolve(NOW)).continuation_token,
        ]
        await world.write(2)
        for anchor in anchors:
            world.journal.check((await world.client.read_all(after(anchor))).events, since=known)


@pytest.mark.req("CF-04")
async def test_now_brings_nothing_old(world: World) -> None:
    await world.write(10)
    page = await world.client.read(NOW)
    assert not page.events
    assert not page.more_available


@pytest.mark.req("CF-04")
async def test_beginning_is_the_oldest_retained_change_or_unsupported(world: World) -> None:
    await world.write(10)
    if not await world.can("CHANGE_FEED_BEGINNING"):
        await unsupported(world.client.read(BEGINNING), "CHANGE_FEED_BEGINNING")
        await unsupported(world.client.resolve(BEGINNING), "CHANGE_FEED_BEGINNING")
        await unsupported(world.client.subscribe(BEGINNING).next(), "CHANGE_FEED_BEGINNING")
        return
    reading = await world.client.read_all(BEGINNING)
    world.journal.check(reading.events)
    resolved = await world.client.resolve(BEGINNING)
    assert ids((await world.client.read_all(after(resolved.continuation_token))).events) == ids(reading.events)


@pytest.mark.req("CF-04", "CF-09")
async def test_a_time_brings_everything_committed_from_then_on_or_is_unsupported(world: World) -> None:
    start = await world.origin()
    await world.write(12)
    if not await world.can("CHANGE_FEED_POINT_IN_TIME"):
        now = Timestamp()
        now.GetCurrentTime()
        await unsupported(world.client.read(at_time(now)), "CHANGE_FEED_POINT_IN_TIME")
        await unsupported(world.client.resolve(at_time(now)), "CHANGE_FEED_POINT_IN_TIME")
        await unsupported(world.client.subscribe(at_time(now)).next(), "CHANGE_FEED_POINT_IN_TIME")
        return
    events = (await world.client.read_all(start)).events
    for chosen in events[::4]:
        reading = await world.client.read_all(at_time(chosen.commit_timestamp))
        time = chosen.commit_timestamp.ToDatetime()
        from_then_on = {e.event_id for e in events if e.commit_timestamp.ToDatetime() >= time}
        assert from_then_on <= set(ids(reading.events))
        check_suffix(reading.events, events)


@pytest.mark.req("CF-04")
async def test_a_time_in_the_future_is_refused(world: World) -> None:
    if not await world.can("CHANGE_FEED_POINT_IN_TIME"):
        return
    future = Timestamp()
    future.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    found = await invalid(world.client.read(at_time(future)), "FIELD_INVALID")
    assert found.fields == ["start_position.at_time"]


@pytest.mark.req("E1", "P4")
async def test_an_idle_feed_answers_empty_pages_whose_tokens_resume(world: World) -> None:
    await world.write(5)
    token = (await world.client.read_all(NOW)).token
    for _ in range(5):
        page = await world.client.read(after(token))
        assert not page.events
        assert not page.more_available
        token = page.continuation_token
    await world.put(ITEMS[0])
    assert len((await world.client.read_all(after(token))).events) == 1


@pytest.mark.req("E1")
async def test_a_long_poll_waits_without_spinning(world: World) -> None:
    started = asyncio.get_running_loop().time()
    page = await world.client.read(NOW, wait=0.4)
    assert asyncio.get_running_loop().time() - started >= 0.39
    assert not page.events
    partitions = len(await world.client.partitions())
    assert page.diagnostics.provider_calls <= 4 * partitions
    await world.put(ITEMS[0])
    assert len((await world.client.read_all(after(page.continuation_token))).events) == 1


@pytest.mark.req("E1")
async def test_a_long_poll_ends_with_the_first_change(world: World) -> None:
    token = (await world.client.read(NOW)).continuation_token
    started = asyncio.get_running_loop().time()
    waiting = asyncio.create_task(world.client.read_until(after(token), 1))
    await world.put(ITEMS[0])
    reading = await waiting
    assert [world.backend.item_of(e.key) for e in reading.events] == [ITEMS[0]]
    assert len(reading.pages) <= 2
    assert asyncio.get_running_loop().time() - started < 5


@pytest.mark.req("E1")
async def test_a_long_poll_answers_before_the_callers_deadline(world: World) -> None:
    await world.client.read(NOW)  # connected: the first call of all may take longer than that
    page = await world.client.read(NOW, wait=10, deadline=0.6)
    assert not page.events
    assert page.continuation_token


@pytest.mark.req("CF-11", "CF-03")
async def test_items_come_as_the_mode_asks(world: World) -> None:
    start = await world.origin()
    await world.put(ITEMS[0], "ünï\"\\\n\U0001f389 'text'")
    await world.put(ITEMS[1])
    await world.delete(ITEMS[1])
    state = (await world.client.capabilities()).item_state

    reading = await world.client.read_all(start, mode=INCLUDE)
    world.journal.check(reading.events)
    first = next(e for e in reading.events if world.backend.item_of(e.key) == ITEMS[0])
    assert first.item_state == state
    deleted = [e for e in reading.events if e.change_type == change_event_pb2.CHANGE_TYPE_DELETE]
    told = [change_event_pb2.ITEM_STATE_NOT_APPLICABLE] if await world.can("CHANGE_FEED_DELETES") else []
    assert [e.item_state for e in deleted] == told

    omitted = (await world.client.read_all(start, mode=OMIT)).events
    assert not any(e.new_item_json for e in omitted)
    for event in omitted:
        expected = (
            change_event_pb2.ITEM_STATE_NOT_APPLICABLE
            if event.change_type == change_event_pb2.CHANGE_TYPE_DELETE
            else change_event_pb2.ITEM_STATE_OMITTED
        )
        assert event.item_state == expected


@pytest.mark.req("CF-11", "CF-09")
async def test_required_items_come_or_the_collection_says_that_it_has_none(world: World) -> None:
    start = await world.origin()
    await world.put(ITEMS[0])
    await world.put(ITEMS[1])
    await world.delete(ITEMS[1])
    if not await world.can("CHANGE_FEED_NEW_ITEM_STATE"):
        await unsupported(world.client.read(start, mode=REQUIRE), "CHANGE_FEED_NEW_ITEM_STATE")
        await unsupported(world.client.subscribe(start, mode=REQUIRE).next(), "CHANGE_FEED_NEW_ITEM_STATE")
        return
    reading = await world.client.read_all(start, mode=REQUIRE)
    world.journal.check(reading.events)


@pytest.mark.req("CF-03")
async def test_awkward_keys_survive(world: World) -> None:
    start = await world.origin()
    items = [
        Item("p/1", "a b"),
        Item('["p"]', "[1,2]"),
        Item("ключ", "\U0001f511"),
        Item("p1", 'quote"quote'),
        Item("p1", "a%2Fb\\c"),
    ]
    for item in items:
        await world.put(item)
    reading = await world.client.read_all(start)
    world.journal.check(reading.events)
    if await world.can("CHANGE_FEED_LOGICAL_PARTITION_SCOPE"):
        for event in reading.events:
            scope = logical(event.key.partition_key)
            token = (await world.client.resolve(NOW, scope=scope)).continuation_token
            await world.put(world.backend.item_of(event.key))
            assert [e.key for e in (await world.client.read_all(after(token))).events] == [event.key]


@pytest.mark.req("P4")
async def test_tokens_say_when_they_are_expected_to_expire(world: World) -> None:
    capabilities = await world.client.capabilities()
    known = capabilities.HasField("retention")
    start = await world.origin()
    empty = await world.client.read(start)
    await world.write(6)
    pages = [empty, *(await world.client.read_all(start, size=2)).pages, await world.client.read(NOW)]
    resolved = [await world.client.resolve(start), await world.client.resolve(NOW)]
    times = [page.token_expire_time if page.HasField("token_expire_time") else None for page in pages]
    times += [answer.token_expire_time if answer.HasField("token_expire_time") else None for answer in resolved]
    if not known:
        assert times == [None] * len(times)
        return
    now = datetime.now(UTC)
    for time in times:
        assert time is not None
        assert now < time.ToDatetime(UTC) < now + capabilities.retention.ToTimedelta() + timedelta(hours=25)


@pytest.mark.req("P1")
async def test_a_watermark_promises_nothing_that_was_not_delivered(world: World) -> None:
    start = await world.origin()
    await world.write(20)
    delivered: set[str] = set()
    everything = (await world.client.read_all(start)).events
    for page in (await world.client.read_all(start, size=3)).pages:
        delivered |= set(ids(page.events))
        if page.HasField("watermark"):
            before = {e.event_id for e in everything if e.commit_timestamp.ToDatetime() < page.watermark.ToDatetime()}
            assert before <= delivered
