"""What one stream says, page by page, and what it leaves behind."""

import asyncio
import gc
import weakref
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed_gateway.core.answer import Batch, Closing, ClosingReason, Retired, StreamItem, SubscriptionState
from changefeed_gateway.core.budget import PageBudget
from changefeed_gateway.core.errors import ChangeFeedError, NewItemStateUnavailable, TransientFailure
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import (
    Address,
    After,
    Change,
    ChangeType,
    Cursor,
    Feed,
    ItemState,
    Key,
    NewItemStateMode,
    Page,
    PageRead,
    PartitionId,
    PhysicalPartition,
)
from changefeed_gateway.core.page import EncodedPage, Reader
from changefeed_gateway.core.requirement import ItemRequirement
from changefeed_gateway.core.subscription import Plan, stream
from changefeed_gateway.core.turns import Turns

PARTITION = PartitionId("p")
FEED = Feed(
    address=Address(connection="list", database="", collection="numbers"),
    provider_id="list",
    incarnation="1",
    capabilities=(),
    item_state=ItemState.INCLUDED,
    single_order=True,
)


def cursor(position: int) -> Cursor:
    return Cursor(position.to_bytes(4))


def page_of(states: Sequence[ItemState], start: int, end: int, *, retired: bool) -> EncodedPage:
    whole = end == len(states)
    changes = [
        Change(str(n), ChangeType.UPDATE, Key("k", ()), states[n], "x", None, PARTITION, str(n))
        for n in range(start, end)
    ]
    page = Page(
        changes=changes,
        cursors=[cursor(n + 1) for n in range(start, end)],
        start=cursor(start),
        cursor=cursor(end),
        more_available=not whole,
        retired=retired and whole,
        expire_time=datetime(2026, 11, 29, tzinfo=UTC),
        watermark=datetime(2026, 11, 28, tzinfo=UTC),
    )
    return EncodedPage(page, lambda items: [change.sequence.encode() for change in changes])


class ListReader:
    """Reads a list of changes, at once, and waits at its end for ever."""

    def __init__(self, states: Sequence[ItemState], *, retired: bool) -> None:
        self.states, self.retired = states, retired
        self.at_end = asyncio.Event()

    async def read(self, feed: Feed, read: PageRead) -> EncodedPage:
        assert isinstance(read.start, After)
        start = int.from_bytes(read.start.cursor)
        if read.max_wait:
            self.at_end.set()
            await asyncio.Event().wait()
        end = min(len(self.states), start + read.max_changes)
        return page_of(self.states, start, end, retired=self.retired)


def plan(*, max_events: int = 0, mode: NewItemStateMode = NewItemStateMode.REQUIRE, size: int = 100) -> Plan:
    return Plan(
        feed=FEED,
        read=PageRead(
            scope=PhysicalPartition(PARTITION),
            start=After(cursor(0)),
            max_changes=size,
            max_bytes=10_000,
            max_item_bytes=10_000,
        ),
        heartbeat=timedelta(seconds=10),
        max_events=max_events,
        requirement=ItemRequirement(mode, lambda at: str(int.from_bytes(at))),
        token=lambda scope, at: str(int.from_bytes(at)),
        draining=lambda: False,
    )


async def followed(plan: Plan, reader: Reader, limits: Limits) -> tuple[list[StreamItem], ChangeFeedError | None]:
    """What a stream says until it ends or is live."""
    heard: list[StreamItem] = []
    budget = PageBudget(10**9)
    try:
        async with (
            asyncio.timeout(20),
            aclosing(stream(plan, reader, limits, budget.share(lambda: None))) as items,
        ):
            async for item in items:
                heard.append(item)
                if getattr(item, "state", None) is SubscriptionState.LIVE and not getattr(reader, "retired", False):
                    break
    except ChangeFeedError as error:
        return heard, error
    finally:
        assert budget.held == 0
    return heard, None


@pytest.mark.req("P1", "P5")
async def test_a_partition_is_not_retired_over_changes_that_require_held_back() -> None:
    states = [ItemState.INCLUDED, ItemState.TOO_LARGE, ItemState.INCLUDED, ItemState.INCLUDED]
    heard, error = await followed(plan(), ListReader(states, retired=True), Limits())
    assert [item.records for item in heard if isinstance(item, Batch)] == [[b"0"]]
    assert not any(isinstance(item, Retired | Closing) for item in heard)
    assert isinstance(error, NewItemStateUnavailable)
    assert error.metadata["event_id"] == "1"


@pytest.mark.req("P1", "P4", "P5")
@given(
    count=st.integers(0, 12),
    missing=st.integers(0, 20),
    max_events=st.sampled_from([0, 1, 3, 5, 12]),
    size=st.sampled_from([1, 2, 5, 50]),
    message_bytes=st.sampled_from([1, 3, 100]),
    retired=st.booleans(),
)
def test_what_is_said_of_a_page_is_true_of_what_was_delivered_of_it(
    count: int, missing: int, max_events: int, size: int, message_bytes: int, retired: bool
) -> None:
    """REQUIRE, max_events and the size of a message cut it; it may be the last of a partition or of the log."""
    states = [ItemState.TOO_LARGE if n == missing else ItemState.INCLUDED for n in range(count)]

    async def scenario() -> None:
        reader, limits = ListReader(states, retired=retired), Limits(max_message_bytes=message_bytes)
        heard, error = await followed(plan(max_events=max_events, size=size), reader, limits)
        deliverable = min(missing, count)
        expected = min(deliverable, max_events) if max_events else deliverable
        delivered = 0
        for item in heard:
            match item:
                case Batch(records=records, token=token):
                    assert list(records) == [str(n).encode() for n in range(delivered, delivered + len(records))]
                    delivered += len(records)
                    assert token == str(delivered)
                case Retired(token=token):
                    assert retired
                    assert delivered == count == int(token)
                case Closing(token=token, reason=reason):
                    assert delivered == int(token)
                    full = 0 < max_events == delivered
                    assert reason is (ClosingReason.MAX_EVENTS if full else ClosingReason.PARTITION_RETIRED)
                    assert full or delivered == count
                case _:
                    if getattr(item, "state", None) is SubscriptionState.LIVE:
                        assert delivered == count
        assert delivered == expected
        held_back = missing < count and not 0 < max_events <= missing
        assert (error is not None) == held_back

    asyncio.run(scenario())


class Gated(ListReader):
    """The read behind the first page ends as it is told."""

    def __init__(self) -> None:
        super().__init__([ItemState.INCLUDED] * 300, retired=False)
        self.ahead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.under_way = 0
        self.begun = asyncio.Event()

    async def read(self, feed: Feed, read: PageRead) -> EncodedPage:
        assert isinstance(read.start, After)
        if read.max_changes and int.from_bytes(read.start.cursor):
            self.under_way += 1
            self.begun.set()
            try:
                await self.ahead
            finally:
                await asyncio.sleep(0)
                self.under_way -= 1
        return await super().read(feed, read)


async def test_a_cancellation_that_was_not_the_streams_own_is_a_failure() -> None:
    reader = Gated()
    reader.ahead.cancel()
    _, error = await followed(plan(), reader, Limits())
    assert isinstance(error, TransientFailure)


async def test_nothing_that_was_read_ahead_outlives_its_stream() -> None:
    reader, budget = Gated(), PageBudget(10**9)
    items = stream(plan(), reader, Limits(), budget.share(lambda: None))
    async for item in items:
        if isinstance(item, Batch):
            break
    await reader.begun.wait()
    assert budget.held
    await items.aclose()
    assert not reader.under_way
    assert not budget.held


async def test_a_page_that_waits_for_its_turn_is_counted_and_goes_with_its_stream() -> None:
    turns, budget = Turns(1), PageBudget(10**9)
    others = [asyncio.get_running_loop().create_future() for _ in range(1_000)]
    reader = ListReader([ItemState.INCLUDED] * 3, retired=False)
    items = stream(replace(plan(), turns=turns), reader, Limits(), budget.share(lambda: None))
    for _ in range(2):
        await anext(items)
    for future in others:
        turns.resolve(future, None)
    taking = asyncio.create_task(anext(items))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not taking.done()
    assert budget.held
    taking.cancel()
    await asyncio.wait({taking})
    await items.aclose()
    assert not budget.held


async def test_a_failure_that_was_read_ahead_and_never_asked_for_is_no_complaint() -> None:
    complaints: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    try:
        reader = Gated()
        items = stream(plan(), reader, Limits(), PageBudget(10**9).share(lambda: None))
        async for item in items:
            if isinstance(item, Batch):
                break
        reader.ahead.set_exception(TransientFailure("as told"))
        for _ in range(5):
            await asyncio.sleep(0)
        await items.aclose()
        del items, reader, item
        gc.collect()
        for _ in range(5):
            await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
    assert not complaints


async def test_a_stream_that_waits_holds_no_page() -> None:
    reader = ListReader([ItemState.INCLUDED] * 3, retired=False)
    made: list[weakref.ref[object]] = []
    read = reader.read

    async def watched(feed: Feed, asked: PageRead) -> EncodedPage:
        page = await read(feed, asked)
        copy = replace(page.content)

        def records(items: bool) -> list[bytes]:
            return [b"x"] * len(copy.changes)

        if asked.max_changes:
            made.append(weakref.ref(records))
        return EncodedPage(copy, records)

    reader.read = watched  # type: ignore[method-assign, assignment]
    items = stream(plan(), reader, Limits(), PageBudget(10**9).share(lambda: None))

    async def follow() -> None:
        async for item in items:
            del item

    following = asyncio.create_task(follow())
    await reader.at_end.wait()
    assert made
    assert not any(ref() for ref in made)
    following.cancel()
    await asyncio.wait({following})
    await items.aclose()
