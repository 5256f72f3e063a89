"""The memory provider against the words of `core.provider.Provider`, without anything above it."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from changefeed_gateway.core.errors import (
    CheckpointExpired,
    FeedNotProvisioned,
    InvalidRequest,
    NotFound,
    TransientFailure,
    UnsupportedCapability,
)
from changefeed_gateway.core.model import (
    Address,
    After,
    AtTime,
    Beginning,
    CapabilityName,
    ChangeType,
    Cursor,
    Feed,
    ItemState,
    LogicalPartition,
    Now,
    Page,
    PageRead,
    PartitionId,
    PartitionState,
    PhysicalPartition,
    Scope,
    Start,
)
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.providers.memory.collection import CollectionOptions, MemoryCollection
from changefeed_gateway.providers.memory.mapping import bucket_of, key_of
from changefeed_gateway.providers.memory.provider import MemoryProvider
from changefeed_gateway.providers.memory.store import MemoryStore

ADDRESS = Address(connection="here", database="", collection="things")
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """A clock that goes where it is told."""

    def __init__(self) -> None:
        self.time = EPOCH

    def __call__(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> datetime:
        self.time += timedelta(seconds=seconds)
        return self.time


class Fixture:
    """One collection, its provider and an open feed."""

    def __init__(self, provider: MemoryProvider, collection: MemoryCollection, clock: ManualClock, feed: Feed) -> None:
        self.provider = provider
        self.collection = collection
        self.clock = clock
        self.feed = feed

    async def read(
        self,
        scope: Scope,
        start: Start,
        *,
        size: int = 1000,
        wait: float = 0,
        items: bool = True,
        max_bytes: int = 1_000_000,
        max_item_bytes: int = 1_000_000,
    ) -> Page:
        return await self.provider.read_page(
            self.feed,
            PageRead(
                scope=scope,
                start=start,
                max_changes=size,
                max_bytes=max_bytes,
                max_item_bytes=max_item_bytes,
                items=items,
                max_wait=timedelta(seconds=wait),
            ),
        )

    async def partitions(self) -> list[PartitionId]:
        return [p.partition_id for p in await self.provider.list_partitions(self.feed)]


async def make(options: CollectionOptions | None = None) -> Fixture:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    collection = store.create("things", options or CollectionOptions(partitions=1))
    provider = MemoryProvider(store)
    return Fixture(provider, collection, clock, await provider.open_feed(ADDRESS))


def ids(page: Page) -> list[str]:
    return [change.key.components[1].value for change in page.changes]


def value_in(buckets: Callable[[int], bool]) -> str:
    return next(f"group-{n}" for n in range(1000) if buckets(bucket_of(f"group-{n}")))


FIRST = PhysicalPartition(PartitionId("partition-0001"))


async def test_it_is_a_provider() -> None:
    fixture = await make()
    provider: Provider = fixture.provider
    assert provider.provider_id == "memory"


async def test_create_update_delete_and_the_delete_of_nothing() -> None:
    fixture = await make()
    fixture.collection.put("g", "a", {"n": 1})
    fixture.collection.put("g", "a", {"n": 2})
    assert fixture.collection.delete("g", "a")
    assert not fixture.collection.delete("g", "a")
    page = await fixture.read(FIRST, Beginning())
    assert [c.change_type for c in page.changes] == [ChangeType.CREATE, ChangeType.UPDATE, ChangeType.DELETE]
    assert [c.item for c in page.changes] == ['{"n":1}', '{"n":2}', None]
    assert page.changes[2].item_state is ItemState.NOT_APPLICABLE
    assert len({c.event_id for c in page.changes}) == 3


@pytest.mark.parametrize("size", [1, 2, 7])
async def test_every_cursor_of_a_page_resumes_and_cursors_ascend(size: int) -> None:
    fixture = await make()
    for n in range(7):
        fixture.collection.put("g", str(n), {})
    start: Start = Beginning()
    passed: list[Cursor] = []
    seen: list[str] = []
    while True:
        page = await fixture.read(FIRST, start, size=size)
        seen += ids(page)
        passed += [page.start, *page.cursors, page.cursor]
        start = After(page.cursor)
        for position, cursor in enumerate(page.cursors):
            rest = await fixture.read(FIRST, After(cursor))
            assert ids(rest) == [str(n) for n in range(len(seen) - len(page.changes) + position + 1, 7)]
        if not page.more_available:
            break
    assert seen == [str(n) for n in range(7)]
    assert passed == sorted(passed)


async def test_the_cursor_of_an_idle_partition_moves() -> None:
    fixture = await make(CollectionOptions(partitions=2))
    low, high = value_in(lambda b: b < 128), value_in(lambda b: b >= 128)
    fixture.collection.put(low, "a", {})
    idle = PhysicalPartition(PartitionId("partition-0002"))
    before = await fixture.read(idle, Beginning())
    fixture.collection.put(low, "b", {})
    after = await fixture.read(idle, After(before.cursor))
    assert not before.changes
    assert not after.changes
    assert after.cursor > before.cursor
    fixture.collection.trim()
    fixture.collection.put(high, "c", {})
    assert ids(await fixture.read(idle, After(after.cursor))) == ["c"]
    with pytest.raises(CheckpointExpired):
        await fixture.read(idle, After(before.cursor))


async def test_now_is_resolved_before_the_answer() -> None:
    fixture = await make()
    fixture.collection.put("g", "old", {})
    page = await fixture.read(FIRST, Now(), size=0)
    fixture.collection.put("g", "new", {})
    assert ids(await fixture.read(FIRST, After(page.start))) == ["new"]
    assert page.start == page.cursor
    assert not page.more_available


async def test_a_read_of_no_changes_only_resolves() -> None:
    fixture = await make()
    fixture.collection.put("g", "a", {})
    page = await fixture.read(FIRST, Beginning(), size=0, wait=5)
    assert not page.changes
    assert page.start == page.cursor
    assert page.more_available


async def test_at_time_is_inclusive() -> None:
    fixture = await make()
    for n in range(3):
        fixture.clock.advance(10)
        fixture.collection.put("g", str(n), {})
    assert ids(await fixture.read(FIRST, AtTime(EPOCH + timedelta(seconds=20)))) == ["1", "2"]
    assert ids(await fixture.read(FIRST, AtTime(EPOCH))) == ["0", "1", "2"]
    assert ids(await fixture.read(FIRST, AtTime(EPOCH + timedelta(seconds=31)))) == []


async def test_a_clock_that_steps_back_does_not_turn_commit_times_back() -> None:
    fixture = await make()
    fixture.collection.put("g", "a", {})
    fixture.clock.advance(-60)
    fixture.collection.put("g", "b", {})
    page = await fixture.read(FIRST, Beginning())
    assert [c.commit_time for c in page.changes] == [EPOCH, EPOCH]


async def test_long_poll_ends_with_the_first_change() -> None:
    fixture = await make()
    page = await fixture.read(FIRST, Now())
    waiting = asyncio.create_task(fixture.read(FIRST, After(page.cursor), wait=30))
    await fixture.provider.faults.waiting.wait()
    fixture.collection.put("g", "a", {})
    assert ids(await waiting) == ["a"]


async def test_long_poll_that_meets_nothing_answers_an_empty_page() -> None:
    fixture = await make()
    page = await fixture.read(FIRST, Now(), wait=0.01)
    assert not page.changes
    assert page.cursor


async def test_a_waiting_read_survives_the_trim_of_what_it_has_passed() -> None:
    fixture = await make(CollectionOptions(partitions=2))
    low, high = value_in(lambda b: b < 128), value_in(lambda b: b >= 128)
    page = await fixture.read(PhysicalPartition(PartitionId("partition-0002")), Now())
    waiting = asyncio.create_task(
        fixture.read(PhysicalPartition(PartitionId("partition-0002")), After(page.cursor), wait=30)
    )
    await fixture.provider.faults.waiting.wait()
    fixture.collection.put(low, "other", {})
    fixture.provider.faults.waiting.clear()
    fixture.collection.trim()
    await fixture.provider.faults.waiting.wait()
    fixture.collection.put(high, "mine", {})
    assert ids(await waiting) == ["mine"]


async def test_a_waiting_read_of_a_dropped_collection_is_not_found() -> None:
    fixture = await make()
    waiting = asyncio.create_task(fixture.read(FIRST, Now(), wait=30))
    await fixture.provider.faults.waiting.wait()
    fixture.provider.store.recreate("things")
    with pytest.raises(NotFound):
        await waiting
    assert (await fixture.provider.open_feed(ADDRESS)).incarnation != fixture.feed.incarnation


async def test_a_cancelled_wait_has_no_effect() -> None:
    fixture = await make()
    waiting = asyncio.create_task(fixture.read(FIRST, Now(), wait=30))
    await fixture.provider.faults.waiting.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    fixture.collection.put("g", "a", {})
    assert ids(await fixture.read(FIRST, Beginning())) == ["a"]


async def test_a_split_partition_ends_and_names_its_children() -> None:
    fixture = await make()
    low, high = value_in(lambda b: b < 128), value_in(lambda b: b >= 128)
    fixture.collection.put(low, "a", {})
    fixture.collection.split(FIRST.partition_id)
    fixture.collection.put(low, "b", {})
    fixture.collection.put(high, "c", {})

    page = await fixture.read(FIRST, Beginning())
    assert ids(page) == ["a"]
    assert page.retired
    assert not page.more_available
    assert [child.parents for child in page.children] == [(FIRST.partition_id,)] * 2
    again = await fixture.read(FIRST, After(page.cursor), wait=30)
    assert again.retired
    assert again.children == page.children

    found = [
        ids(await fixture.read(PhysicalPartition(child.partition_id), After(child.start))) for child in page.children
    ]
    assert found == [["b"], ["c"]]


async def test_a_split_wakes_a_waiting_reader() -> None:
    fixture = await make()
    waiting = asyncio.create_task(fixture.read(FIRST, Now(), wait=30))
    await fixture.provider.faults.waiting.wait()
    fixture.collection.split(FIRST.partition_id)
    assert (await waiting).retired


async def test_merged_partitions_have_one_child_with_both_as_parents() -> None:
    fixture = await make(CollectionOptions(partitions=2))
    first, second = await fixture.partitions()
    child = fixture.collection.merge(second, first)
    pages = [await fixture.read(PhysicalPartition(p), Beginning()) for p in (first, second)]
    assert all(page.retired for page in pages)
    assert {c for page in pages for c in page.children} == set(pages[0].children)
    assert pages[0].children[0].partition_id == child
    assert pages[0].children[0].parents == (first, second)


async def test_only_active_neighbours_merge_and_only_splittable_partitions_split() -> None:
    fixture = await make(CollectionOptions(partitions=3))
    first, second, third = await fixture.partitions()
    with pytest.raises(ValueError, match="neighbours"):
        fixture.collection.merge(first, third)
    with pytest.raises(ValueError, match="split"):
        fixture.collection.split(first, at=0)
    fixture.collection.merge(first, second)
    with pytest.raises(ValueError, match="active"):
        fixture.collection.split(first)


async def test_listing_gives_parents_first_and_forgets_what_is_trimmed() -> None:
    fixture = await make()
    fixture.collection.put("g", "a", {})
    children = fixture.collection.split(FIRST.partition_id)
    listed = await fixture.provider.list_partitions(fixture.feed)
    assert [p.partition_id for p in listed] == [FIRST.partition_id, *children]
    assert [p.state for p in listed] == [PartitionState.RETIRED, PartitionState.ACTIVE, PartitionState.ACTIVE]
    fixture.collection.trim()
    listed = await fixture.provider.list_partitions(fixture.feed)
    assert [(p.partition_id, p.parents) for p in listed] == [(child, ()) for child in children]


async def test_a_position_in_a_forgotten_partition_is_expired_and_its_name_not_found() -> None:
    fixture = await make()
    fixture.collection.put("g", "a", {})
    page = await fixture.read(FIRST, Beginning())
    fixture.collection.split(FIRST.partition_id)
    fixture.collection.trim()
    with pytest.raises(CheckpointExpired):
        await fixture.read(FIRST, After(page.cursor))
    with pytest.raises(NotFound):
        await fixture.read(FIRST, Beginning())


async def test_trimmed_history_expires_inside_the_read() -> None:
    fixture = await make()
    start = await fixture.read(FIRST, Beginning(), size=0)
    for n in range(4):
        fixture.clock.advance(10)
        fixture.collection.put("g", str(n), {})
    fixture.collection.trim(through=2)
    with pytest.raises(CheckpointExpired):
        await fixture.read(FIRST, After(start.cursor))
    with pytest.raises(CheckpointExpired) as caught:
        await fixture.read(FIRST, AtTime(EPOCH + timedelta(seconds=20)))
    assert caught.value.reason == "START_TIME_BEFORE_RETENTION"
    assert ids(await fixture.read(FIRST, Beginning())) == ["2", "3"]
    assert ids(await fixture.read(FIRST, AtTime(EPOCH + timedelta(seconds=25)))) == ["2", "3"]


async def test_a_child_keeps_its_beginning_when_its_parent_is_forgotten_and_loses_it_with_its_first_change() -> None:
    fixture = await make()
    low = value_in(lambda b: b < 128)
    fixture.collection.put(low, "a", {})
    parent = await fixture.read(FIRST, Beginning())
    fixture.collection.split(FIRST.partition_id)
    child = (await fixture.read(FIRST, After(parent.cursor))).children[0]
    scope = PhysicalPartition(child.partition_id)
    fixture.collection.trim()
    fixture.collection.put(low, "b", {})
    assert ids(await fixture.read(scope, After(child.start))) == ["b"]
    with pytest.raises(CheckpointExpired):
        await fixture.read(scope, AtTime(EPOCH))
    fixture.collection.trim()
    with pytest.raises(CheckpointExpired):
        await fixture.read(scope, After(child.start))


async def test_trimming_one_partition_takes_its_ancestors_along() -> None:
    fixture = await make()
    first, second = fixture.collection.split(FIRST.partition_id)
    merged = fixture.collection.merge(first, second)
    fixture.collection.trim_partition(merged)
    assert await fixture.partitions() == [merged]


async def test_retention_trims_by_the_clock_and_pages_forecast_it() -> None:
    fixture = await make(CollectionOptions(partitions=1, retention=timedelta(hours=1)))
    fixture.collection.put("g", "a", {})
    fixture.clock.advance(600)
    fixture.collection.put("g", "b", {})
    page = await fixture.read(FIRST, Beginning(), size=1)
    assert page.expire_time == EPOCH + timedelta(minutes=70)
    fixture.clock.advance(3001)
    assert ids(await fixture.read(FIRST, Beginning())) == ["b"]
    tail = await fixture.read(FIRST, After(page.cursor))
    assert tail.expire_time == fixture.clock.time + timedelta(hours=1)
    fixture.clock.advance(601)
    with pytest.raises(CheckpointExpired):
        await fixture.read(FIRST, After(page.cursor))


async def test_watermark_never_promises_what_is_not_delivered() -> None:
    fixture = await make()
    for n in range(3):
        fixture.collection.put("g", str(n), {})
        fixture.clock.advance(10)
    page = await fixture.read(FIRST, Beginning(), size=1)
    assert page.watermark == EPOCH + timedelta(seconds=10)
    page = await fixture.read(FIRST, After(page.cursor))
    assert page.watermark == fixture.clock.time


async def test_a_logical_partition_runs_through_splits_and_merges_and_sees_truncates() -> None:
    fixture = await make(CollectionOptions(partitions=2))
    scope = LogicalPartition("mine")
    other = value_in(lambda b: True)
    fixture.collection.put("mine", "a", {})
    fixture.collection.put(other, "x", {})
    start = await fixture.read(scope, Beginning(), size=0)
    first, second = await fixture.partitions()
    merged = fixture.collection.merge(first, second)
    fixture.collection.put("mine", "b", {})
    fixture.collection.split(merged)
    fixture.collection.truncate()
    fixture.collection.put("mine", "c", {})
    page = await fixture.read(scope, After(start.cursor))
    kinds = [c.change_type for c in page.changes]
    assert kinds == [ChangeType.CREATE, ChangeType.CREATE, ChangeType.TRUNCATE, ChangeType.CREATE]
    assert not page.retired
    assert page.changes[2].key.components == ()


async def test_a_truncate_is_in_order_for_every_partition() -> None:
    fixture = await make(CollectionOptions(partitions=2))
    low, high = value_in(lambda b: b < 128), value_in(lambda b: b >= 128)
    for group in (low, high):
        fixture.collection.put(group, "a", {})
    fixture.collection.truncate()
    for group in (low, high):
        fixture.collection.put(group, "a", {})
    for partition in await fixture.partitions():
        page = await fixture.read(PhysicalPartition(partition), Beginning())
        assert [c.change_type for c in page.changes] == [ChangeType.CREATE, ChangeType.TRUNCATE, ChangeType.CREATE]


async def test_pages_are_cut_by_bytes_and_large_items_left_out() -> None:
    fixture = await make()
    for n in range(3):
        fixture.collection.put("g", str(n), {"text": "x" * 100})
    page = await fixture.read(FIRST, Beginning(), max_bytes=250)
    assert len(page.changes) == 2
    assert page.more_available
    assert len((await fixture.read(FIRST, Beginning(), max_bytes=1)).changes) == 1
    large = await fixture.read(FIRST, Beginning(), max_bytes=1, max_item_bytes=100)
    assert [c.item_state for c in large.changes] == [ItemState.TOO_LARGE] * 3
    without = await fixture.read(FIRST, Beginning(), items=False)
    assert {(c.item_state, c.item) for c in without.changes} == {(ItemState.OMITTED, None)}


async def test_current_items_are_read_with_the_page() -> None:
    fixture = await make(CollectionOptions(partitions=1, item_state=ItemState.INCLUDED_CURRENT))
    fixture.collection.put("g", "a", {"n": 1})
    fixture.collection.put("g", "b", {"n": 1})
    fixture.collection.put("g", "a", {"n": 2})
    fixture.collection.delete("g", "b")
    page = await fixture.read(FIRST, Beginning())
    assert [c.item for c in page.changes] == ['{"n":2}', None, '{"n":2}', None]
    assert [c.item_state for c in page.changes[:2]] == [ItemState.INCLUDED_CURRENT, ItemState.NOT_APPLICABLE]


@pytest.mark.parametrize(
    ("missing", "scope", "start"),
    [
        (CapabilityName.BEGINNING, FIRST, Beginning()),
        (CapabilityName.POINT_IN_TIME, FIRST, AtTime(EPOCH)),
        (CapabilityName.LOGICAL_PARTITION_SCOPE, LogicalPartition("g"), Now()),
    ],
)
async def test_what_is_switched_off_is_refused(missing: CapabilityName, scope: Scope, start: Start) -> None:
    fixture = await make(CollectionOptions(partitions=1, unsupported=frozenset({missing})))
    assert not fixture.feed.supports(missing)
    with pytest.raises(UnsupportedCapability) as caught:
        await fixture.read(scope, start)
    assert caught.value.reason == missing.value


async def test_addresses_that_lead_nowhere() -> None:
    fixture = await make()
    open_feed = fixture.provider.open_feed
    with pytest.raises(NotFound, match="other"):
        await open_feed(Address(connection="here", database="other", collection="things"))
    with pytest.raises(NotFound, match="nothing"):
        await open_feed(Address(connection="here", database="", collection="nothing"))
    fixture.provider.store.create("silent", CollectionOptions(unsupported=frozenset({CapabilityName.CHANGE_FEED})))
    with pytest.raises(FeedNotProvisioned):
        await open_feed(Address(connection="here", database="main", collection="silent"))
    assert (await open_feed(ADDRESS)).address.database == "main"


@pytest.mark.parametrize(
    ("cursor", "reason"),
    [
        (b"", "TOKEN_VERSION"),
        (b"\x02" + bytes(12), "TOKEN_VERSION"),
        (b"\x01" + bytes(3), "TOKEN_MALFORMED"),
        (b"\x01" + bytes(12), "TOKEN_MALFORMED"),
        (b"\x01\0\0\0\x01" + b"\xff" * 8, "TOKEN_MALFORMED"),
    ],
)
async def test_a_cursor_that_was_not_written_here_is_refused(cursor: bytes, reason: str) -> None:
    fixture = await make()
    with pytest.raises(InvalidRequest) as caught:
        await fixture.read(FIRST, After(Cursor(cursor)))
    assert caught.value.reason == reason


async def test_faults_come_as_ordered() -> None:
    fixture = await make()
    fixture.provider.faults.fail_read(TransientFailure("gone for a moment"), nth=2)
    await fixture.read(FIRST, Beginning())
    with pytest.raises(TransientFailure):
        await fixture.read(FIRST, Beginning())
    await fixture.read(FIRST, Beginning())
    fixture.provider.faults.fail_open(TransientFailure("down"))
    with pytest.raises(TransientFailure):
        await fixture.provider.open_feed(ADDRESS)
    fixture.provider.faults.fail_open(None)
    await fixture.provider.open_feed(ADDRESS)


async def test_a_stalled_read_goes_on_when_released() -> None:
    fixture = await make()
    stall = fixture.provider.faults.stall_reads()
    reading = asyncio.create_task(fixture.read(FIRST, Beginning()))
    await stall.entered.wait()
    fixture.collection.put("g", "a", {})
    stall.release()
    assert ids(await reading) == ["a"]


def test_a_partition_key_that_looks_like_an_array_is_written_as_one() -> None:
    assert key_of("plain", "a").partition_key == "plain"
    assert key_of("[1]", "a").partition_key == '["[1]"]'
