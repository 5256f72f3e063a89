"""Snapshot and stream under one token: the items that exist, then every change, without a gap between the two."""

from collections.abc import Sequence

import grpc
import pytest

from changefeed.v1 import change_event_pb2, subscribe_pb2
from changefeed_gateway.core.model import ItemState
from tests.conformance.backend import Hook, Item
from tests.conformance.client import (
    OMIT,
    SNAPSHOT,
    Client,
    Event,
    Page,
    Reading,
    Scope,
    after,
    invalid,
    logical,
    physical,
    refused,
    unsupported,
)
from tests.conformance.consumer import Store, consume
from tests.conformance.journal import ids
from tests.conformance.world import World

CAPABILITY = "CHANGE_FEED_SNAPSHOT"
SCOPED = {
    "physical": "CHANGE_FEED_SNAPSHOT_PHYSICAL_PARTITION_SCOPE",
    "logical": "CHANGE_FEED_SNAPSHOT_LOGICAL_PARTITION_SCOPE",
}


async def to_the_end(client: Client, start: object = SNAPSHOT, *, scope: Scope | None = None, size: int = 0) -> Reading:
    """Read a snapshot until it is finished."""
    reading = Reading()
    while True:
        page = await client.read(start, scope=scope, size=size)  # type: ignore[arg-type]
        reading.pages.append(page)
        reading.events += page.events
        if page.snapshot.finished:
            return reading
        start = after(page.continuation_token)


def contents(world: World, events: Sequence[Event]) -> dict[Item, str]:
    """What a snapshot brought, each item once."""
    found = {world.backend.item_of(event.key): world.backend.content_of(event.new_item_json) for event in events}
    assert len(found) == len(events), "an item came twice"
    return found


def has_items(world: World) -> bool:
    """Whether events carry items."""
    return world.backend.item_state is not ItemState.UNAVAILABLE


async def is_exact(world: World) -> bool:
    """Whether the collection promises that nothing is taken back."""
    answer = await world.client.capabilities()
    return any(each.name == CAPABILITY and each.detail.startswith("exact") for each in answer.capabilities)


async def mirror(world: World, store: Store, *, size: int, pages: int | None = None) -> None:
    """Follow a snapshot and what comes after it, as a consumer does."""
    if not store.token:
        store.token = (await world.client.resolve(SNAPSHOT)).continuation_token
    await consume(world.client, store, pages=pages, size=size)


def check_mirror(world: World, store: Store) -> None:
    assert len(store.items) == len(world.journal.items)
    if has_items(world):
        held = [world.backend.content_of(item or "") for item in store.items.values()]
        assert sorted(held) == sorted(world.journal.items.values()), "each content was written once"


@pytest.mark.req("CF-12", "P5")
async def test_a_collection_without_snapshots_refuses_one_by_the_capability_s_name(world: World) -> None:
    if await world.can(CAPABILITY):
        return
    await unsupported(world.client.read(SNAPSHOT), CAPABILITY)
    await unsupported(world.client.resolve(SNAPSHOT), CAPABILITY)
    await unsupported(world.client.subscribe(SNAPSHOT).next(), CAPABILITY)


@pytest.mark.req("CF-12", "P2", "P3", "P4")
async def test_a_snapshot_brings_every_item_once_says_how_far_it_is_and_where_it_ends(world: World) -> None:
    if not await world.can(CAPABILITY):
        return
    for number in range(7):
        await world.put(Item(f"partition {number % 3}", f"item {number}"))
    await world.delete(Item("partition 0", "item 3"))
    reading = await to_the_end(world.client, size=2)
    last = reading.pages[-1]
    assert all(page.more_available for page in reading.pages)
    assert not last.events
    assert last.snapshot.items == 6
    assert [page.snapshot.finished for page in reading.pages[:-1]] == [False] * (len(reading.pages) - 1)
    items, counted = [e for e in reading.events if e.change_type == change_event_pb2.CHANGE_TYPE_SNAPSHOT], 0
    for page in reading.pages:
        counted += sum(event.change_type == change_event_pb2.CHANGE_TYPE_SNAPSHOT for event in page.events)
        assert page.snapshot.items == counted
    assert {world.backend.item_of(event.key) for event in items} == set(world.journal.items)
    assert len(set(ids(items))) == 6
    assert all(not event.sequence and event.key.partition_key for event in items)
    if has_items(world):
        assert contents(world, items) == world.journal.items
        assert {event.item_state for event in items} == {change_event_pb2.ITEM_STATE_INCLUDED}
    # What is read again from a token is the same again, from another gateway too.
    await world.restart()
    again = await world.client.read(after(reading.pages[0].continuation_token), size=2)
    assert ids(again.events) == ids(reading.pages[1].events)
    assert (await world.client.read(after(reading.pages[-2].continuation_token))).snapshot.finished
    late = (await world.client.read_all(after(last.continuation_token))).events
    assert not late or not await is_exact(world)
    # Where it converges, the last changes before the start may come again.
    world.journal.check(late, since=len(world.journal.commits), at_least=True)


@pytest.mark.req("CF-12", "BX-6", "P1")
@pytest.mark.parametrize("size", [1, 3])
async def test_a_mirror_from_a_snapshot_equals_its_source_whatever_is_written(world: World, size: int) -> None:
    if not await world.can(CAPABILITY):
        return
    for number in range(9):
        await world.put(Item(f"partition {number % 4}", f"item {number}"))
    store = Store()
    for step in range(4):
        await mirror(world, store, size=size, pages=3)
        await world.put(Item(f"partition {step}", f"item {step}"))
        await world.put(Item("partition 3", f"new {step}"))
        if world.can_delete:
            await world.delete(Item(f"partition {(8 - step) % 4}", f"item {8 - step}"))
        if step == 1:
            await world.restart()
    await mirror(world, store, size=size)
    check_mirror(world, store)


@pytest.mark.req("CF-12", "P4")
async def test_a_stream_from_a_snapshot_says_its_states_and_that_it_is_whole(world: World) -> None:
    if not await world.can(CAPABILITY):
        return
    for number in range(5):
        await world.put(Item("partition", f"item {number}"))
    async with world.client.subscribe(SNAPSHOT, size=2) as stream:
        finished = (await stream.until("snapshot_finished")).snapshot_finished
        assert finished.snapshot.items == 5
        assert finished.snapshot.finished
        batches = [kind for kind in stream.kinds if kind == "batch"]
        await stream.until_live()
        assert stream.kinds[: len(batches) + 4] == [
            "opened",
            "state_changed",
            *batches,
            "snapshot_finished",
            "state_changed",
        ]
        await world.put(Item("partition", "later"))
        [event] = (await stream.until("batch")).batch.events
        assert event.change_type != change_event_pb2.CHANGE_TYPE_SNAPSHOT
    async with world.client.subscribe(after(stream.token), size=2) as again:
        await again.until_live()
    async with world.client.subscribe(SNAPSHOT, size=2) as states:
        state = (await states.until("state_changed")).state_changed.state
        assert state == subscribe_pb2.SUBSCRIPTION_STATE_SNAPSHOT
        batch = (await states.until("batch")).batch
    # A stream that breaks in the middle goes on, by pages too.
    rest = await to_the_end(world.client, after(batch.continuation_token))
    assert batch.snapshot.items + len(_items(rest)) == 6
    assert batch.snapshot.items == len(batch.events)


@pytest.mark.req("CF-12", "P5")
async def test_a_snapshot_of_a_part_brings_that_part_or_is_refused(world: World) -> None:
    if not await world.can(CAPABILITY):
        return
    event = await world.learn(Item("partition 1", "item 0"))
    for number in range(1, 6):
        await world.put(Item(f"partition {number % 3}", f"item {number}"))
    scopes = {"physical": physical(event.partition_id), "logical": logical(event.key.partition_key)}
    for kind, scope in scopes.items():
        if not await world.can(SCOPED[kind]):
            scope_itself = kind == "physical" or await world.can("CHANGE_FEED_LOGICAL_PARTITION_SCOPE")
            lacking = SCOPED[kind] if scope_itself else "CHANGE_FEED_LOGICAL_PARTITION_SCOPE"
            await unsupported(world.client.read(SNAPSHOT, scope=scope), lacking)
            continue
        found = {
            world.backend.item_of(item.key) for item in _items(await to_the_end(world.client, scope=scope, size=1))
        }
        mine = {item for item in world.journal.items if item.partition == "partition 1"}
        assert found >= mine
        if kind == "logical":
            assert found == mine


@pytest.mark.req("CF-12")
async def test_an_empty_collection_and_a_reader_without_items_have_snapshots_too(world: World) -> None:
    if not await world.can(CAPABILITY):
        return
    empty = await to_the_end(world.client)
    assert not empty.events
    assert empty.pages[-1].snapshot.items == 0
    await world.put(Item("partition", "item"))
    [event] = (await world.client.read_until(after(empty.token), 1)).events
    assert event.change_type != change_event_pb2.CHANGE_TYPE_SNAPSHOT
    page: Page = await world.client.read(SNAPSHOT, mode=OMIT)
    assert [event.item_state for event in page.events] == [change_event_pb2.ITEM_STATE_OMITTED]


@pytest.mark.req("CF-12", "P6")
@pytest.mark.needs(Hook.TRIM)
async def test_a_snapshot_whose_changes_were_trimmed_is_expired_and_the_remedy_is_another_one(world: World) -> None:
    if not await world.can(CAPABILITY):
        return
    for number in range(4):
        await world.put(Item("partition", f"item {number}"))
    token = (await world.client.resolve(SNAPSHOT)).continuation_token
    assert (await world.client.inspect(token)).usable
    await world.put(Item("partition", "item 1"))
    await world.backend.trim()
    found = await refused(
        world.client.resolve(after(token)), "CHECKPOINT_EXPIRED", "CHECKPOINT_EXPIRED", grpc.StatusCode.OUT_OF_RANGE
    )
    assert "snapshot" in found.message
    assert len(_items(await to_the_end(world.client))) == 4


@pytest.mark.req("CF-12", "P6")
async def test_a_snapshot_of_a_collection_that_was_made_anew_is_refused(world: World) -> None:
    if not await world.can(CAPABILITY):
        return
    await world.put(Item("partition", "item"))
    token = (await world.client.read(SNAPSHOT, size=1)).continuation_token
    await world.backend.recreate()
    await invalid(world.client.read(after(token)), "TOKEN_RESOURCE_RECREATED")


def _items(reading: Reading) -> list[Event]:
    return [event for event in reading.events if event.change_type == change_event_pb2.CHANGE_TYPE_SNAPSHOT]
