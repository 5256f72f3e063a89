"""Scopes: physical partitions read by workers, logical partitions, splits and merges."""

import asyncio
import random

import grpc
import pytest

from changefeed.v1 import partition_pb2, subscribe_pb2
from tests.conformance.backend import Hook, Item
from tests.conformance.client import (
    ENTIRE,
    NOW,
    Event,
    Page,
    after,
    logical,
    physical,
    refused,
    unsupported,
)
from tests.conformance.journal import by_partition, ids
from tests.conformance.world import World

ITEM = Item("p1", "a")


@pytest.mark.req("CF-02", "CF-05")
async def test_every_listed_partition_can_be_read_and_listing_pages(world: World) -> None:
    partitions = await world.client.partitions()
    assert partitions
    assert {p.state for p in partitions} == {partition_pb2.PARTITION_STATE_ACTIVE}
    assert len({p.partition_id for p in partitions}) == len(partitions)
    assert await world.client.partitions(page_size=1) == partitions
    assert await world.client.partitions(page_size=2) == partitions
    for partition in partitions:
        page = await world.client.read(NOW, scope=physical(partition.partition_id))
        assert not page.partition_retired


@pytest.mark.req("US3.1", "P1", "P2")
async def test_workers_on_all_partitions_together_read_the_whole_feed(world: World) -> None:
    partitions = [p.partition_id for p in await world.client.partitions()]
    starts = [await world.origin(physical(p)) for p in partitions]
    whole = await world.origin()
    await world.write(40)
    readings = await asyncio.gather(
        *(world.client.read_all(start, scope=physical(p), size=5) for p, start in zip(partitions, starts, strict=True))
    )
    for partition, reading in zip(partitions, readings, strict=True):
        assert {e.partition_id for e in reading.events} <= {partition}
    union = [event for reading in readings for event in reading.events]
    world.journal.check(union)
    assert by_partition((await world.client.read_all(whole)).events) == by_partition(union)


@pytest.mark.req("US3.1")
async def test_streams_on_all_partitions_together_bring_the_whole_feed(world: World) -> None:
    partitions = [p.partition_id for p in await world.client.partitions()]
    streams = [world.client.subscribe(NOW, scope=physical(p)) for p in partitions]
    try:
        for stream in streams:
            await stream.until_live()
        anchor = await world.client.resolve(NOW)
        await world.write(20)
        wanted = by_partition((await world.client.read_all(after(anchor.continuation_token))).events)
        for partition, stream in zip(partitions, streams, strict=True):
            events = await stream.until_events(len(wanted.get(partition, [])))
            assert ids(events) == wanted.get(partition, [])
    finally:
        for stream in streams:
            await stream.__aexit__(None, None, None)


@pytest.mark.req("US3.2", "US3.3", "CF-05", "CF-09")
async def test_a_logical_partition_gives_its_own_changes_or_is_unsupported(world: World) -> None:
    key = (await world.learn(Item("partition 1", "item 1"))).key.partition_key
    scope = logical(key)
    if not await world.can("CHANGE_FEED_LOGICAL_PARTITION_SCOPE"):
        capability = "CHANGE_FEED_LOGICAL_PARTITION_SCOPE"
        await unsupported(world.client.read(NOW, scope=scope), capability)
        await unsupported(world.client.resolve(NOW, scope=scope), capability)
        await unsupported(world.client.subscribe(NOW, scope=scope).next(), capability)
        return
    start, whole = await world.client.resolve(NOW, scope=scope), await world.client.resolve(NOW)
    await world.write(40)
    everything = (await world.client.read_all(after(whole.continuation_token))).events
    mine = [e.event_id for e in everything if e.key.partition_key == key]
    assert mine
    for size in (1, 3, 0):
        reading = await world.client.read_all(after(start.continuation_token), scope=scope, size=size)
        assert ids(reading.events) == mine
    async with world.client.subscribe(after(start.continuation_token), max_events=len(mine)) as stream:
        await stream.to_the_end()
    assert ids(stream.events) == mine


@pytest.mark.req("US3.2")
async def test_a_logical_partition_that_nobody_wrote_to_is_empty(world: World) -> None:
    if not await world.can("CHANGE_FEED_LOGICAL_PARTITION_SCOPE"):
        return
    key = (await world.learn(ITEM)).key.partition_key
    page = await world.client.read(NOW, scope=logical(key + "0"))
    await world.put(ITEM)
    page = await world.client.read(after(page.continuation_token))
    assert not page.events
    assert page.continuation_token


@pytest.mark.req("CF-05")
async def test_an_unknown_partition_is_not_found(world: World) -> None:
    scope = physical("no such partition")
    answers = [
        world.client.read(NOW, scope=scope),
        world.client.resolve(NOW, scope=scope),
    ]
    for answer in answers:
        await refused(answer, "NOT_FOUND", "PARTITION_NOT_FOUND", grpc.StatusCode.NOT_FOUND)


@pytest.mark.req("US3.4", "CF-10")
@pytest.mark.needs(Hook.SPLIT)
async def test_a_worker_on_a_partition_that_splits_is_told_where_to_go_on(world: World) -> None:
    partition = (await world.learn(ITEM)).partition_id
    start = await world.client.resolve(NOW, scope=physical(partition))
    known = len(world.journal.commits)
    await world.put(ITEM)
    await world.backend.split(partition)
    await world.put(ITEM)

    reading = await world.client.read_all(after(start.continuation_token), size=1)
    last = reading.pages[-1]
    assert last.partition_retired
    assert not last.more_available
    assert not any(page.partition_retired for page in reading.pages[:-1])
    assert len(last.child_partitions) == 2
    listed = {p.partition_id: p for p in await world.client.partitions()}
    for child in last.child_partitions:
        assert list(child.parent_partition_ids) == [partition]
        assert listed[child.partition_id].state == partition_pb2.PARTITION_STATE_ACTIVE
        assert list(listed[child.partition_id].parent_partition_ids) == [partition]
    assert listed[partition].state == partition_pb2.PARTITION_STATE_RETIRED

    again = await world.client.read(after(last.continuation_token), wait=5)
    assert again.partition_retired
    assert list(again.child_partitions) != []
    assert not again.events
    children = [await world.client.read_all(after(c.continuation_token)) for c in last.child_partitions]
    world.journal.check([*reading.events, *(e for c in children for e in c.events)], since=known)


@pytest.mark.req("US3.4", "CF-10")
@pytest.mark.needs(Hook.SPLIT)
async def test_a_stream_on_a_partition_that_splits_says_so_and_ends(world: World) -> None:
    partition = (await world.learn(ITEM)).partition_id
    known = len(world.journal.commits)
    async with world.client.subscribe(NOW, scope=physical(partition)) as stream:
        await stream.until_live()
        await world.put(ITEM)
        await world.backend.split(partition)
        await world.put(ITEM)
        retired = (await stream.until("partition_retired")).partition_retired
        closing = await stream.to_the_end()
    assert retired.partition_id == partition
    assert closing.reason == subscribe_pb2.CLOSING_REASON_PARTITION_RETIRED
    events = list(stream.events)
    for child in retired.child_partitions:
        events += (await world.client.read_all(after(child.continuation_token))).events
    world.journal.check(events, since=known)
    assert (await world.client.read(after(closing.continuation_token))).partition_retired


@pytest.mark.req("CF-10")
@pytest.mark.needs(Hook.SPLIT)
async def test_a_waiting_worker_is_woken_by_a_split(world: World) -> None:
    partition = (await world.learn(ITEM)).partition_id
    token = (await world.client.read(NOW, scope=physical(partition))).continuation_token
    waiting = asyncio.create_task(world.client.read(after(token), wait=10))
    await world.backend.split(partition)
    assert (await waiting).partition_retired


@pytest.mark.req("CF-10")
@pytest.mark.needs(Hook.SPLIT, Hook.MERGE)
async def test_merged_partitions_name_one_child_with_all_its_parents(world: World) -> None:
    partition = (await world.learn(ITEM)).partition_id
    token = (await world.client.read(NOW, scope=physical(partition))).continuation_token
    await world.backend.split(partition)
    halves = (await world.client.read(after(token))).child_partitions
    await world.put(ITEM)
    await world.backend.merge(*(half.partition_id for half in halves))
    await world.put(ITEM)

    readings = [await world.client.read_all(after(half.continuation_token)) for half in halves]
    children = [child for r in readings for child in r.pages[-1].child_partitions]
    assert len({child.partition_id for child in children}) == 1
    for child in children:
        assert set(child.parent_partition_ids) == {half.partition_id for half in halves}
    merged = await world.client.read_all(after(children[0].continuation_token))
    world.journal.check([*(e for r in readings for e in r.events), *merged.events], since=1)


@pytest.mark.req("E4", "CF-10", "P1", "P2", "BX-5")
@pytest.mark.needs(Hook.SPLIT, Hook.MERGE)
async def test_a_reader_of_everything_never_sees_partitions_come_and_go(world: World) -> None:
    start = await world.origin()
    pages: list[Page] = []
    async with world.client.subscribe(start, scope=ENTIRE) as stream:
        await stream.until_live()
        for _ in range(6):
            await world.write(4)
            if len(pages) % 2:
                pages.append(await world.client.read(start, size=3))
                start = after(pages[-1].continuation_token)
            await _shuffle_partitions(world)
            await world.write(4)
            pages.append(await world.client.read(start, size=3))
            start = after(pages[-1].continuation_token)
        await stream.until_events(len(world.journal.commits))
    reading = await world.client.read_all(start)
    events = [event for page in [*pages, *reading.pages] for event in page.events]
    world.journal.check(events)
    world.journal.check(stream.events)
    assert not any(page.partition_retired or page.child_partitions for page in [*pages, *reading.pages])
    assert "partition_retired" not in stream.kinds
    assert by_partition(stream.events) == by_partition(events)


@pytest.mark.req("E4", "CF-04")
@pytest.mark.needs(Hook.SPLIT)
async def test_now_after_a_split_brings_nothing_old(world: World) -> None:
    partition = (await world.learn(ITEM)).partition_id
    await world.backend.split(partition)
    await world.write(10)
    known = len(world.journal.commits)
    page = await world.client.read(NOW)
    assert not page.events
    await world.write(5)
    world.journal.check((await world.client.read_all(after(page.continuation_token))).events, since=known)


@pytest.mark.req("US3.2", "E4")
@pytest.mark.needs(Hook.SPLIT)
async def test_a_logical_partition_outlives_its_physical_one(world: World) -> None:
    if not await world.can("CHANGE_FEED_LOGICAL_PARTITION_SCOPE"):
        return
    first = await world.learn(ITEM)
    start = await world.client.resolve(NOW, scope=logical(first.key.partition_key))
    known = len(world.journal.commits)
    await world.put(ITEM)
    await world.backend.split(first.partition_id)
    await world.put(ITEM)
    await world.delete(ITEM)
    reading = await world.client.read_all(after(start.continuation_token), size=1)
    world.journal.check(reading.events, since=known)
    assert not any(page.partition_retired for page in reading.pages)


@pytest.mark.req("US3.1", "US3.4", "P1", "P2")
@pytest.mark.needs(Hook.SPLIT, Hook.MERGE)
async def test_a_crew_that_follows_the_protocol_reads_everything_in_order(world: World) -> None:
    crew = _Crew(world)
    for partition in await world.client.partitions():
        scope = physical(partition.partition_id)
        anchor = await world.client.resolve(await world.origin(scope), scope=scope)
        crew.tokens[partition.partition_id] = anchor.continuation_token
    for _ in range(12):
        await world.write(5)
        await _shuffle_partitions(world)
        await crew.work(pages=3)
    while await crew.work(pages=10):
        pass
    assert not crew.waiting
    world.journal.check(crew.events)


class _Crew:
    """Workers that read partitions one page at a time, and start a child when all its parents are done."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tokens: dict[str, str] = {}
        self.waiting: dict[str, tuple[set[str], str]] = {}
        self.finished: set[str] = set()
        self.events: list[Event] = []
        self.dice = random.Random(4)

    async def work(self, pages: int) -> bool:
        """Read some pages of partitions chosen at random; tell whether any brought something."""
        found = False
        for _ in range(pages):
            partition = self.dice.choice(sorted(self.tokens))
            found = await self.work_on(partition) or found
        if not found:
            for partition in sorted(self.tokens):
                found = await self.work_on(partition) or found
        return found

    async def work_on(self, partition: str) -> bool:
        page = await self.world.client.read(after(self.tokens[partition]), size=2)
        self.tokens[partition] = page.continuation_token
        self.events += page.events
        if page.partition_retired:
            del self.tokens[partition]
            self.finished.add(partition)
            for child in page.child_partitions:
                if child.partition_id not in self.finished | self.tokens.keys():
                    parents = set(child.parent_partition_ids)
                    self.waiting[child.partition_id] = (parents, child.continuation_token)
            for child_id, (parents, token) in list(self.waiting.items()):
                if parents <= self.finished:
                    self.tokens[child_id] = token
                    del self.waiting[child_id]
        return bool(page.events) or page.partition_retired


async def _shuffle_partitions(world: World) -> None:
    """Split a partition; merge the halves of an earlier split."""
    partitions = await world.client.partitions()
    active = [p for p in partitions if p.state == partition_pb2.PARTITION_STATE_ACTIVE]
    siblings: dict[str, list[str]] = {}
    for partition in active:
        if len(partition.parent_partition_ids) == 1:
            siblings.setdefault(partition.parent_partition_ids[0], []).append(partition.partition_id)
    pairs = [pair for pair in siblings.values() if len(pair) == 2]
    if len(pairs) > 1:
        await world.backend.merge(*pairs[0])
    else:
        await world.backend.split(active[len(active) // 2].partition_id)
