"""A snapshot over partitions without a common order: what its place holds, what is cut, what is warned of."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from changefeed_gateway.api.wire.records import encode_changes
from changefeed_gateway.core.errors import InvalidRequest
from changefeed_gateway.core.fanout import FanOut
from changefeed_gateway.core.model import (
    Address,
    After,
    ChangeType,
    Cursor,
    EntireCollection,
    Feed,
    Page,
    PageRead,
    Scan,
    Snapshot,
    SnapshotProgress,
    Start,
)
from changefeed_gateway.core.page import EncodedPage
from changefeed_gateway.core.reader import DirectReader
from changefeed_gateway.core.snapshot import Scanning
from changefeed_gateway.providers.memory.collection import CollectionOptions, MemoryCollection
from changefeed_gateway.providers.memory.provider import MemoryProvider
from changefeed_gateway.providers.memory.store import MemoryStore

READ = PageRead(scope=EntireCollection(), start=Snapshot(), max_changes=3, max_bytes=10_000, max_item_bytes=1_000)


class Estimating(MemoryProvider):
    """Says that there are more items than there are."""

    estimate: int | None = 10

    async def read_page(self, feed: Feed, read: PageRead) -> Page:
        page = await super().read_page(feed, read)
        if isinstance(read.start, Scan) and page.snapshot is not None:
            page = replace(page, snapshot=replace(page.snapshot, estimate=self.estimate))
        return page


class Subject:
    """One collection of five items in two partitions, and its reader."""

    def __init__(self, retention: timedelta | None = timedelta(hours=1)) -> None:
        self.now = datetime.now(UTC)
        store = MemoryStore(clock=lambda: self.now)
        self.collection: MemoryCollection = store.create("c", CollectionOptions(partitions=2, retention=retention))
        for number in range(5):
            self.collection.put(f"p{number}", "i", {"n": number})
        self.provider = Estimating(store)
        direct = DirectReader(self.provider, encode_changes)
        self.reader = Scanning(direct, FanOut(direct, self.provider))

    async def read(self, start: Start, size: int = 3) -> EncodedPage:
        feed = await self.provider.open_feed(Address(connection="m", database="", collection="c"))
        return await self.reader.read(feed, replace(READ, start=start, max_changes=size))


@pytest.mark.req("CF-12", "P4")
async def test_a_page_of_a_snapshot_is_cut_anywhere_and_goes_on_from_there() -> None:
    subject = Subject()
    page = await subject.read(Snapshot())
    part = page.cut(0, 2)
    assert part.content.snapshot == SnapshotProgress(items=2, estimate=10)
    rest = await subject.read(After(part.content.cursor), size=10)
    assert rest.content.snapshot == SnapshotProgress(items=5, estimate=10)
    ids = [change.event_id for change in [*part.content.changes, *rest.content.changes]]
    assert len(set(ids)) == 5
    assert len(rest.records(items=True)) == 3
    assert not page.content.comparable, "no tail's ring has a place for it"


@pytest.mark.req("CF-12", "P1")
async def test_what_is_committed_after_the_start_follows_the_items() -> None:
    subject = Subject()
    token = (await subject.read(Snapshot(), size=0)).content.cursor
    subject.collection.put("p9", "late", {"n": 9})
    subject.collection.delete("p0", "i")
    seen: list[tuple[ChangeType, str]] = []
    finished = 0
    while True:
        page = (await subject.read(After(token), size=2)).content
        seen += [(change.change_type, change.key.partition_key) for change in page.changes]
        finished += page.snapshot is not None and page.snapshot.finished
        token = page.cursor
        if not page.more_available:
            break
    assert finished == 1
    # A change may be seen before and after its item; the delete of what the scan did not bring comes too.
    assert {key for kind, key in seen if kind is ChangeType.SNAPSHOT} == {"p1", "p2", "p3", "p4", "p9"}
    assert {(kind, key) for kind, key in seen if kind is not ChangeType.SNAPSHOT} == {
        (ChangeType.CREATE, "p9"),
        (ChangeType.DELETE, "p0"),
    }


@pytest.mark.req("CF-12")
@pytest.mark.parametrize(
    ("estimate", "retention", "warned"),
    [
        (10, timedelta(hours=1), False),
        (100_000_000, timedelta(hours=1), True),
        (100_000_000, None, False),
        (None, timedelta(hours=1), False),
    ],
)
async def test_a_snapshot_that_outlives_its_history_is_warned_of_at_its_start(
    estimate: int | None, retention: timedelta | None, warned: bool
) -> None:
    subject = Subject(retention)
    subject.provider.estimate = estimate
    for size in (0, 3):
        page = (await subject.read(Snapshot(), size=size)).content
        assert ("SNAPSHOT_OUTLIVES_HISTORY" in {warning.code for warning in page.warnings}) is warned
        assert "SNAPSHOT_CONVERGES" in {warning.code for warning in page.warnings}


@pytest.mark.req("CF-12", "P6")
async def test_a_place_in_a_snapshot_lives_as_long_as_the_history_behind_its_start() -> None:
    subject = Subject()
    first = (await subject.read(Snapshot())).content
    assert first.expire_time is not None
    assert first.expire_time <= subject.now + timedelta(hours=1)
    subject.now += timedelta(minutes=59)
    second = (await subject.read(After(first.cursor))).content
    assert second.expire_time == first.expire_time


@pytest.mark.req("P6")
@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'["\\"", null, 1, null, null, 0, false]', b"\xff"])
async def test_what_no_snapshot_wrote_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        await Subject().read(After(Cursor(b"\0snapshot\0" + body)))
