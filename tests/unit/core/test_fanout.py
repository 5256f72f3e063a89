"""The fan-out at its edges: what a page may cost, and partitions that go while they are being looked up."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from changefeed_gateway.core.answer import ReadAnswer, ReadRequest
from changefeed_gateway.core.errors import TransientFailure
from changefeed_gateway.core.fanout import FanOut
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import (
    Address,
    After,
    Beginning,
    Change,
    Cursor,
    EntireCollection,
    Feed,
    FromToken,
    Now,
    Page,
    PageRead,
    Partition,
    PhysicalPartition,
    RequestedStart,
    Scope,
    Start,
)
from changefeed_gateway.core.page import EncodedPage
from changefeed_gateway.core.router import Router
from changefeed_gateway.core.token import TokenCodec, TokenKey
from changefeed_gateway.core.vector import Vector
from changefeed_gateway.providers.memory.collection import CollectionOptions, MemoryCollection
from changefeed_gateway.providers.memory.provider import MemoryProvider
from changefeed_gateway.providers.memory.store import MemoryStore
from tests.virtual_time import VirtualTime, in_leaping_time

PATIENCE = 10
"""Seconds after which a wait is taken for one that goes on."""

ADDRESS = Address(connection="here", database="", collection="things")


class WatchedProvider(MemoryProvider):
    """Counts what it gives away, and lets a test act between two calls."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.item_bytes = 0
        self.waits: list[timedelta] = []
        self.looks: Counter[Scope] = Counter()
        """At what follows a place, without waiting."""
        self.reading_takes = timedelta(0)
        self.after_listing: Callable[[], None] = lambda: None
        self.before_reading: Callable[[], None] = lambda: None

    async def list_partitions(self, feed: Feed, start: Start | None = None) -> Sequence[Partition]:
        found = await super().list_partitions(feed)
        self.after_listing()
        return found

    async def read_page(self, feed: Feed, read: PageRead) -> Page:
        self.before_reading()
        self.waits.append(read.max_wait)
        if read.max_changes and not read.max_wait:
            self.looks[read.scope] += 1
        await asyncio.sleep(self.reading_takes.total_seconds())
        page = await super().read_page(feed, read)
        self.item_bytes += sum(len(change.item or "") for change in page.changes)
        return page


def encode(feed: Feed, changes: Sequence[Change], *, items: bool) -> list[bytes]:
    return [f"{change.event_id} {change.item}".encode() for change in changes]


class Reading:
    """A caller of the router on one collection."""

    def __init__(self, partitions: int, limits: Limits, *, retention: timedelta | None = None) -> None:
        self.time = datetime(2026, 11, 26, tzinfo=UTC)
        store = MemoryStore(clock=lambda: self.time)
        options = CollectionOptions(partitions=partitions, retention=retention)
        self.collection: MemoryCollection = store.create("things", options)
        self.provider = WatchedProvider(store)
        self.router = Router(
            providers={"here": self.provider},
            tokens=TokenCodec([TokenKey(key_id="k", secret=b"s" * 16)]),
            limits=limits,
            encoder=encode,
        )

    async def read(self, start: RequestedStart, *, size: int = 0, max_wait: timedelta = timedelta(0)) -> ReadAnswer:
        return await self.router.read_changes(
            ReadRequest(address=ADDRESS, scope=None, start=start, page_size=size, max_wait=max_wait)
        )


@pytest.mark.req("P7")
async def test_a_page_over_many_partitions_reads_little_more_than_it_answers() -> None:
    reading = Reading(partitions=64, limits=Limits(max_message_bytes=10_000))
    for number in range(400):
        reading.collection.put(f"group {number}", "x", {"text": "x" * 1_000})
    start: RequestedStart = Beginning()
    records = 0
    while records < 400:
        reading.provider.item_bytes = 0
        answer = await reading.read(start)
        assert reading.provider.item_bytes <= 30_000
        records += len(answer.records)
        start = FromToken(answer.token)
    await reading.router.aclose()


async def test_a_partition_that_is_gone_when_it_is_resolved_is_no_error() -> None:
    reading = Reading(partitions=1, limits=Limits())
    reading.collection.put("p", "old", {})

    def replace_partitions() -> None:
        reading.provider.after_listing = lambda: None
        reading.collection.split(reading.collection.logs()[0].partition_id)
        reading.collection.trim()
        reading.collection.put("p", "new", {})

    reading.provider.after_listing = replace_partitions
    answer = await reading.read(Beginning())
    assert len(answer.records) == 1
    await reading.router.aclose()


@pytest.mark.req("P4", "P6")
async def test_no_change_that_is_still_to_come_goes_before_the_forecast() -> None:
    """A page reads some of the partitions; the others are where they were, and get older."""
    reading = Reading(partitions=24, limits=Limits(), retention=timedelta(days=1))
    committed = {}
    for number in range(60):
        reading.time += timedelta(minutes=1)
        reading.collection.put(f"group {number}", "x", {"number": number})
        committed[number] = reading.time
    start: RequestedStart = Beginning()
    while committed:
        answer = await reading.read(start, size=3)
        for record in answer.records:
            del committed[json.loads(record.split(b" ", 1)[1])["number"]]
        assert answer.expire_time is not None
        assert all(answer.expire_time <= time + timedelta(days=1) for time in committed.values())
        start = FromToken(answer.token)
    await reading.router.aclose()


@pytest.mark.req("E1")
@in_leaping_time
async def test_what_looking_takes_is_part_of_the_wait() -> None:
    reading = Reading(partitions=1, limits=Limits())
    reading.provider.reading_takes = timedelta(milliseconds=20)
    await reading.read(Now(), max_wait=timedelta(seconds=1))
    # The start, and behind it. Where nothing was, it waits and does not look again.
    *looks, waited = reading.provider.waits
    assert len(looks) == 2
    assert not any(looks)
    assert timedelta(0) < waited <= timedelta(milliseconds=960)
    await reading.router.aclose()


@pytest.mark.req("P1", "E4")
def test_a_page_that_takes_long_leaves_the_next_generations_to_the_next_page() -> None:
    """Otherwise whoever has less patience than the whole history takes would never come through it."""
    loop, a_look, generations = VirtualTime(), 0.7, 20

    async def scenario() -> None:
        reading = Reading(partitions=1, limits=Limits())
        youngest = reading.collection.logs()[0].partition_id
        for number in range(generations):
            _, youngest = reading.collection.split(youngest, at=number + 1)
        reading.collection.put("p", "x", {})
        start: RequestedStart = FromToken((await reading.router.resolve_start(ADDRESS, None, Beginning())).token)
        reading.provider.before_reading = lambda: setattr(loop, "now", loop.now + a_look)
        pages: list[ReadAnswer] = []
        while not pages or pages[-1].more_available:
            began = loop.now
            pages.append(await reading.read(start, size=10))
            # What was open is asked, and of the generations those that opened within two seconds.
            assert loop.now - began < 2 + a_look * (generations + 2)
            start = FromToken(pages[-1].token)
        assert sum(reading.provider.looks.values()) * a_look > 2 + a_look * (generations + 2)
        assert [len(page.records) for page in pages] == [0] * (len(pages) - 1) + [1]
        await reading.router.aclose()

    loop.run(scenario())


class HotAmongIdle:
    """Sixteen partitions, one of which is written to; time stands still unless it is told to go."""

    def __init__(self) -> None:
        self.loop = VirtualTime()
        self.reading = Reading(partitions=16, limits=Limits())
        self.looks = self.reading.provider.looks
        self.reading.collection.put("hot", "x", {})
        [self.hot] = [log for log in self.reading.collection.logs() if log.records]
        self.start: RequestedStart = Beginning()

    def heat(self, changes: int) -> None:
        for number in range(changes):
            self.reading.collection.put("hot", "x", {"number": number})

    def put_elsewhere(self) -> None:
        before = self.hot.records[-1].sequence
        for number in range(100):
            if self.hot.records[-1].sequence == before:
                self.reading.collection.put(f"group {number}", "x", {})

    async def page(self, size: int = 10, *, max_wait: timedelta = timedelta(0)) -> ReadAnswer:
        answer = await self.reading.read(self.start, size=size, max_wait=max_wait)
        self.start = FromToken(answer.token)
        return answer

    @property
    def looks_at_idle(self) -> int:
        """Since this was asked last."""
        hot = PhysicalPartition(self.hot.partition_id)
        looks = sum(count for scope, count in self.looks.items() if scope != hot)
        self.looks.clear()
        return looks

    def run(self, scenario: Coroutine[None, None, None]) -> None:
        self.loop.run(scenario)


def test_a_hot_partition_is_drained_without_asking_the_idle_ones_with_every_page() -> None:
    world = HotAmongIdle()
    world.heat(99)

    async def scenario() -> None:
        received = len((await world.page()).records)
        assert world.looks_at_idle == 15
        for _ in range(8):
            received += len((await world.page()).records)
        assert 80 < received < 100
        assert world.looks_at_idle == 0
        last = await world.page(size=100)
        assert received + len(last.records) == 100
        assert not last.more_available
        assert world.looks_at_idle == 15, "that nothing more is there is said of all"

    world.run(scenario())


def test_each_idle_partition_is_asked_again_after_its_own_pause() -> None:
    world = HotAmongIdle()
    world.heat(199)

    async def scenario() -> None:
        await world.page()
        assert world.looks_at_idle == 15
        for passed, looks in [(0.2, 0), (0.1, 15), (0.4, 0), (0.2, 15), (0.9, 0), (0.2, 15), (1.9, 0), (0.2, 15)]:
            world.loop.now += passed
            assert (await world.page()).more_available
            assert world.looks_at_idle == looks

    world.run(scenario())


def test_who_waits_for_a_hot_partition_does_not_ask_the_idle_ones_with_every_change() -> None:
    world = HotAmongIdle()

    async def scenario() -> None:
        await world.page(max_wait=timedelta(seconds=5))
        assert world.looks_at_idle == 15
        for _ in range(20):
            world.heat(1)
            assert len((await world.page(max_wait=timedelta(seconds=5))).records) == 1
        assert world.looks_at_idle == 0
        world.put_elsewhere()
        # Nothing is hot now, so it waits, on all of them.
        assert (await world.page(size=100, max_wait=timedelta(seconds=5))).records

    world.run(scenario())


@pytest.mark.req("P1")
def test_what_came_while_a_partition_rested_is_in_the_page_that_says_that_nothing_more_is_there() -> None:
    world = HotAmongIdle()
    world.heat(29)

    async def scenario() -> None:
        received = len((await world.page()).records)
        world.put_elsewhere()
        answer = await world.page()
        assert world.looks_at_idle == 15
        while answer.more_available:
            received += len(answer.records)
            answer = await world.page()
        received += len(answer.records)
        assert received == world.reading.collection.last_sequence

    world.run(scenario())


@pytest.mark.req("P1")
def test_who_pages_with_waits_until_nothing_more_is_there_has_what_came_while_a_partition_rested() -> None:
    world = HotAmongIdle()
    wait = timedelta(seconds=5)

    async def scenario() -> None:
        received = len((await world.page(size=100, max_wait=wait)).records)
        world.heat(1)
        world.put_elsewhere()
        answer = await world.page(size=100, max_wait=wait)
        while answer.more_available:
            received += len(answer.records)
            answer = await world.page(size=100, max_wait=wait)
        received += len(answer.records)
        assert received == world.reading.collection.last_sequence

    world.run(scenario())


class Waiting(WatchedProvider):
    """Reads that wait: the first ends as it is told, and the others take a moment to be given up."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.under_way = 0

    async def read_page(self, feed: Feed, read: PageRead) -> Page:
        if read.max_wait:
            self.under_way += 1
            try:
                await (self.first if self.under_way == 1 else asyncio.Event().wait())
            finally:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                self.under_way -= 1
        return await super().read_page(feed, replace(read, max_wait=timedelta(0)))


class Late(Waiting):
    """A read that waits goes out as it is when it has passed over much."""

    async def read_page(self, feed: Feed, read: PageRead) -> Page:
        page = await super().read_page(feed, read)
        return replace(page, more_available=True) if read.max_wait else page


class Straight:
    """A reader that adds nothing."""

    def __init__(self, provider: WatchedProvider) -> None:
        self.provider = provider

    async def read(self, feed: Feed, read: PageRead) -> EncodedPage:
        return EncodedPage.of(feed, await self.provider.read_page(feed, read), encode)


def fan_out(partitions: int, provider_class: type[WatchedProvider]) -> tuple[FanOut, WatchedProvider, MemoryCollection]:
    store = MemoryStore()
    collection = store.create("things", CollectionOptions(partitions=partitions))
    provider = provider_class(store)
    return FanOut(Straight(provider), provider), provider, collection


def whole(start: Start, *, size: int = 100, wait: timedelta = timedelta(0)) -> PageRead:
    return PageRead(
        scope=EntireCollection(),
        start=start,
        max_changes=size,
        max_bytes=10**6,
        max_item_bytes=10**6,
        max_wait=wait,
    )


@pytest.mark.req("P7")
async def test_no_vector_is_made_that_nobody_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, provider, collection = fan_out(200, WatchedProvider)
    feed = await provider.open_feed(ADDRESS)
    for number in range(1_000):
        collection.put(f"group {number}", "x", {})
    made = 0
    encode_vector = Vector.encode

    def counted(vector: Vector) -> Cursor:
        nonlocal made
        made += 1
        return encode_vector(vector)

    monkeypatch.setattr(Vector, "encode", counted)
    page = await reader.read(feed, whole(Beginning(), size=1_000))
    assert len(page.content.changes) > 500
    assert made <= 2, "before the page and after it"
    made = 0
    cut = page.cut(10, 400)
    part = cut.cut(5, 100).cut(1, 50)
    key = page.of_partition_key("group 7")
    assert len(part.content.cursors) == 49
    assert made <= 6, "the two ends of each cut"
    made = 0
    assert part.content.cursors[-1] == part.content.cursor == page.content.cursors[10 + 5 + 49]
    assert key.content.cursors[0] == page.content.cursors[page.content.changes.index(key.content.changes[0])]
    assert list(part.content.cursors[3:5]) == [page.content.cursors[10 + 5 + 1 + n] for n in (3, 4)]
    assert made == 8


async def test_a_joined_page_cut_anywhere_resumes_exactly_there() -> None:
    reader, provider, collection = fan_out(7, WatchedProvider)
    feed = await provider.open_feed(ADDRESS)
    for number in range(60):
        collection.put(f"group {number}", "x", {})
        if number in (20, 40):
            collection.split(collection.logs()[number % 7].partition_id)
    page = await reader.read(feed, whole(Beginning()))
    ids = [change.event_id for change in page.content.changes]
    assert len(ids) == 60
    for count in range(60):
        part = page.cut(0, count)
        rest = await reader.read(feed, whole(After(part.content.cursor)))
        assert sorted(ids[:count] + [change.event_id for change in rest.content.changes]) == sorted(ids)


async def test_a_wait_leaves_no_read_behind() -> None:
    reader, provider, collection = fan_out(5, Waiting)
    assert isinstance(provider, Waiting)
    feed = await provider.open_feed(ADDRESS)
    start = After((await reader.read(feed, whole(Beginning()))).content.cursor)
    reading = asyncio.create_task(reader.read(feed, whole(start, wait=timedelta(minutes=1))))
    while provider.under_way < 5:  # noqa: ASYNC110 - it says nothing of its own
        await asyncio.sleep(0)
    for number in range(200):
        collection.put(f"group {number}", "x", {})
    provider.first.set_result(None)
    assert (await reading).content.changes
    assert provider.under_way == 0


@pytest.mark.req("E1", "P1")
async def test_a_partition_that_has_more_is_not_left_until_the_others_have_waited() -> None:
    reader, provider, _ = fan_out(5, Late)
    assert isinstance(provider, Late)
    feed = await provider.open_feed(ADDRESS)
    start = After((await reader.read(feed, whole(Beginning()))).content.cursor)
    provider.first.set_result(None)
    async with asyncio.timeout(PATIENCE):
        page = await reader.read(feed, whole(start, wait=timedelta(hours=1)))
    assert page.content.more_available
    assert provider.under_way == 0


async def test_a_read_that_somebody_else_cancelled_is_a_failure_of_the_page() -> None:
    reader, provider, _ = fan_out(5, Waiting)
    assert isinstance(provider, Waiting)
    feed = await provider.open_feed(ADDRESS)
    start = After((await reader.read(feed, whole(Beginning()))).content.cursor)
    provider.first.cancel()
    with pytest.raises(TransientFailure):
        await reader.read(feed, whole(start, wait=timedelta(minutes=1)))
    assert provider.under_way == 0


async def test_what_a_full_page_has_no_room_for_is_the_next_pages() -> None:
    reader, provider, collection = fan_out(8, WatchedProvider)
    feed = await provider.open_feed(ADDRESS)
    for number in range(40):
        collection.put(f"group {number}", "x", {})
    start, got, reads = (await reader.read(feed, whole(Beginning(), size=0))).content.cursor, 0, 0
    while got < 40:
        page = (await reader.read(feed, whole(After(start), size=3))).content
        assert page.more_available == (got + len(page.changes) < 40)
        assert len(page.changes) in (3, 40 - got), "a page that could be filled was not"
        got, start, reads = got + len(page.changes), page.cursor, reads + 1
    assert reads == 14
