"""The fan-out at its edges: what a page may cost, and partitions that go while they are being looked up."""

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from changefeed_gateway.core.answer import ReadAnswer, ReadRequest
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import (
    Address,
    Beginning,
    Change,
    Feed,
    FromToken,
    Now,
    Page,
    PageRead,
    Partition,
    RequestedStart,
)
from changefeed_gateway.core.router import Router
from changefeed_gateway.core.token import TokenCodec, TokenKey
from changefeed_gateway.providers.memory.collection import CollectionOptions, MemoryCollection
from changefeed_gateway.providers.memory.provider import MemoryProvider
from changefeed_gateway.providers.memory.store import MemoryStore

ADDRESS = Address(connection="here", database="", collection="things")


class WatchedProvider(MemoryProvider):
    """Counts what it gives away, and lets a test act between two calls."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.item_bytes = 0
        self.waits: list[timedelta] = []
        self.reading_takes = timedelta(0)
        self.after_listing: Callable[[], None] = lambda: None

    async def list_partitions(self, feed: Feed) -> Sequence[Partition]:
        found = await super().list_partitions(feed)
        self.after_listing()
        return found

    async def read_page(self, feed: Feed, read: PageRead) -> Page:
        self.waits.append(read.max_wait)
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
async def test_what_looking_takes_is_part_of_the_wait() -> None:
    reading = Reading(partitions=1, limits=Limits())
    reading.provider.reading_takes = timedelta(milliseconds=20)
    await reading.read(Now(), max_wait=timedelta(seconds=1))
    *looks, waited = reading.provider.waits
    assert len(looks) == 3
    assert not any(looks)
    assert timedelta(0) < waited <= timedelta(milliseconds=940)
    await reading.router.aclose()
