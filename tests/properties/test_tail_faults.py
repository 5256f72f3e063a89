"""What streams over one tail are promised when the feed is busy, and when the tail or a reader ends."""

import asyncio
import contextvars
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
import structlog

from changefeed_gateway.core.errors import CheckpointExpired, InternalFailure, TransientFailure
from changefeed_gateway.core.follower import Follower
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import After, Feed, Now, Page, PageRead, PartitionId, PhysicalPartition
from changefeed_gateway.core.page import EncodedPage
from changefeed_gateway.core.tail import TailKey
from changefeed_gateway.core.tails import Tails
from changefeed_gateway.core.token import fingerprint
from tests.properties.numbered_log import FEED, READ, Log, cursor, encode, position_of

_SOON = timedelta(0)
_LONG = timedelta(seconds=100)


def limits(**chosen: object) -> Limits:
    return Limits(outage_patience=_SOON, max_wait=_LONG, **chosen)  # type: ignore[arg-type]


@asynccontextmanager
async def opened(log: Log, **chosen: object) -> AsyncIterator[Tails]:
    tails = Tails(log, encode, limits(**chosen))
    try:
        yield tails
    finally:
        async with asyncio.timeout(10):
            await tails.aclose()


async def ask(follower: Follower, position: int, *, wait: timedelta = _SOON, size: int = 10) -> EncodedPage:
    read = replace(READ, start=After(cursor(position)), max_changes=size, max_wait=wait)
    return await follower.read(FEED, read)


async def come_to_the_end(follower: Follower, position: int = 0) -> tuple[int, list[bytes]]:
    """As a stream does: anchor, then read until nothing more is there."""
    got: list[bytes] = []
    await ask(follower, position, size=0)
    while True:
        page = await ask(follower, position)
        got += page.records(items=True)
        position = position_of(page.content.cursor)
        if page.live and not page.content.more_available:
            return position, got


async def live(tails: Tails, position: int) -> Follower:
    follower = Follower(tails)
    await come_to_the_end(follower, position)
    return follower


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not reached():  # noqa: ASYNC110 - what is looked at has no event
            await asyncio.sleep(0)


class BusyLog(Log):
    """Twelve changes are written while a stream reads ten: whoever reads the log alone never comes to its end."""

    async def read_page(self, feed: Feed, read: PageRead) -> Page:
        page = await super().read_page(feed, read)
        if read.max_changes and not read.max_wait:
            self.write(*"abcdefghijkl")
        return page


async def test_streams_that_resume_on_a_busy_feed_all_become_live_at_the_cost_of_few_reads() -> None:
    log = BusyLog()
    log.turns = 3
    log.write(*"a" * 300)
    async with opened(log) as tails, asyncio.timeout(30):
        followers = [Follower(tails) for _ in range(100)]
        ends = await asyncio.gather(*(come_to_the_end(follower, 200) for follower in followers))
        for end, got in ends:
            assert got == [str(i).encode() for i in range(200, end)]
        assert log.reads < 300, "pages are read once for all, not once for each of a hundred"


async def test_streams_that_resume_from_different_places_on_a_busy_feed_all_become_live() -> None:
    log = BusyLog()
    log.turns = 3
    log.write(*"a" * 300)
    async with opened(log) as tails, asyncio.timeout(30):
        places = range(200, 300, 4)
        ends = await asyncio.gather(*(come_to_the_end(Follower(tails), place) for place in places))
        for place, (end, got) in zip(places, ends, strict=True):
            assert got == [str(i).encode() for i in range(place, end)]


async def test_a_stream_whose_place_the_ring_holds_reads_nothing_itself() -> None:
    log = Log()
    async with opened(log) as tails:
        await live(tails, 0)
        log.write("a", "b")
        await until(lambda: any(tail.ring and position_of(tail.ring.end) == 2 for tail in tails._tails.values()))
        late = Follower(tails)
        await ask(late, 1, size=0)
        before = log.reads
        page = await ask(late, 1)
        assert page.records(items=True) == [b"1"]
        assert log.reads == before


async def test_catching_up_is_bounded_and_a_live_stream_is_not_behind_it() -> None:
    log = Log()
    async with opened(log, max_catch_up_reads=3) as tails:
        reader = await live(tails, 0)
        log.write(*"a" * 100)
        assert (await ask(reader, 0, wait=_LONG, size=100)).records(items=True)
        await asyncio.sleep(0)
        # A ring that has let go of all: whoever comes now reads the log, and the log does not answer.
        for tail in tails._tails.values():
            assert tail.ring is not None
            tail.ring.release()
        log.gate = asyncio.Event()
        behind = [asyncio.create_task(ask(Follower(tails), place)) for place in range(30)]
        await until(lambda: log.under_way == 3)
        log.write("b")
        assert (await ask(reader, 100, wait=_LONG)).records(items=True) == [b"100"]
        log.gate.set()
        pages = await asyncio.gather(*behind)
        assert [page.records(items=True)[0] for page in pages] == [str(place).encode() for place in range(30)]
        assert log.most_under_way == 3


async def test_a_place_that_does_not_compare_is_never_looked_for_in_a_ring() -> None:
    log = Log()
    async with opened(log) as tails:
        await live(tails, 0)
        log.comparable = False
        stranger = Follower(tails)
        await ask(stranger, 0, size=0)
        log.reads_of.clear()
        await ask(stranger, 0)
        assert [read.start for read in log.reads_of if not read.max_wait] == [After(cursor(0))]


async def test_a_tail_that_fails_unexpectedly_tells_every_follower_and_the_log_once() -> None:
    log = Log()
    async with opened(log) as tails:
        followers = [await live(tails, 0) for _ in range(3)]
        waiting = [asyncio.create_task(ask(follower, 0, wait=_LONG)) for follower in followers]
        with structlog.testing.capture_logs() as said:
            await until(lambda: any(read.max_wait for read in log.reads_of))
            log.faults.append(ZeroDivisionError("a secret"))
            # The read that waits now ends, and the tail's next one fails.
            log.write("a")
            pages = await asyncio.gather(*waiting)
            assert [page.records(items=True) for page in pages] == [[b"0"]] * 3
            for follower in followers:
                with pytest.raises(InternalFailure) as caught:
                    await ask(follower, 1, wait=_LONG)
                assert "secret" not in str(caught.value)
        assert [entry["event"] for entry in said] == ["a tail failed unexpectedly"]
        assert said[0]["log_level"] == "error"
        assert said[0]["exc_info"]
        # Nobody joins the dead: the next stream is served by a tail of its own.
        log.write("b")
        assert (await come_to_the_end(Follower(tails), 1)) == (2, [b"1"])


async def test_a_tail_that_somebody_cancels_is_a_passing_failure_for_its_followers() -> None:
    log = Log()
    async with opened(log) as tails:
        follower = await live(tails, 0)
        waiting = asyncio.create_task(ask(follower, 0, wait=_LONG))
        await until(lambda: all(tail._listeners for tail in tails._tails.values()))
        next(iter(tails._tails.values())).task.cancel()
        with pytest.raises(TransientFailure):
            await waiting
        log.write("a")
        assert (await ask(follower, 0)).records(items=True) == [b"0"]


async def test_a_tail_that_is_cancelled_before_its_first_step_is_told_too() -> None:
    log = Log()
    async with opened(log) as tails:
        begin = Page(changes=(), cursors=(), start=cursor(0), cursor=cursor(0), more_available=False)
        tail = tails.join(FEED, TailKey(fingerprint(FEED), FEED.item_state, READ.scope))
        tail.begin(begin)
        tail.task.cancel()
        await asyncio.wait({tail.task})
        await asyncio.sleep(0)
        assert tail.finished
        assert isinstance(tail.error, TransientFailure)


async def test_each_follower_is_told_by_an_error_of_its_own() -> None:
    log = Log()
    async with opened(log) as tails:
        followers = [await live(tails, 0) for _ in range(2)]
        waiting = [asyncio.create_task(ask(follower, 0, wait=_LONG)) for follower in followers]
        await until(lambda: any(read.max_wait for read in log.reads_of))
        log.faults.append(TransientFailure("out", metadata={"table": "orders"}))
        log.write("a")
        for page in await asyncio.gather(*waiting):
            assert page.records(items=True) == [b"0"]
        told = await asyncio.gather(*(ask(follower, 1, wait=_LONG) for follower in followers), return_exceptions=True)
        one, other = told
        assert isinstance(one, TransientFailure)
        assert isinstance(other, TransientFailure)
        assert one is not other
        assert one.metadata is not other.metadata


async def test_a_stream_ahead_of_a_tail_is_not_told_that_the_tails_place_has_expired() -> None:
    log = Log()
    async with opened(log) as tails:
        follower = await live(tails, 0)
        (tail,) = tails._tails.values()
        tail.task.cancel()
        await asyncio.wait({tail.task})
        tail.error = CheckpointExpired("trimmed")
        log.write("a", "b")
        log.floor = 1
        assert (await ask(follower, 1)).records(items=True) == [b"1"]


async def test_a_stream_that_is_cancelled_while_it_leaves_has_left_all_its_tails() -> None:
    log = Log()
    async with opened(log) as tails:
        follower = Follower(tails)
        for name in "abc":
            read = replace(READ, scope=PhysicalPartition(PartitionId(name)), start=After(cursor(0)), max_wait=_SOON)
            await follower.read(FEED, read)
        tasks = [tail.task for tail in tails._tails.values()]
        assert len(tasks) == 3
        leaving = asyncio.create_task(follower.aclose())
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait({leaving})
        assert not tails._tails
        await asyncio.wait(tasks)


async def test_a_drain_ends_the_tails_instead_of_reading_in_circles() -> None:
    log = Log()
    async with opened(log) as tails:
        follower = await live(tails, 0)
        waiting = asyncio.create_task(ask(follower, 0, wait=_LONG))
        await until(lambda: all(tail._listeners for tail in tails._tails.values()))
        before = log.reads
        tails.begin_drain()
        assert not (await waiting).content.changes
        for _ in range(100):
            await asyncio.sleep(0)
        assert log.reads - before <= 1


async def test_a_drain_answers_also_who_waits_for_a_turn_to_read_and_calls_it_no_end() -> None:
    log = Log()
    log.write(*"a" * 5)
    async with opened(log, max_catch_up_reads=1) as tails:
        log.gate = asyncio.Event()
        reading = [asyncio.create_task(ask(Follower(tails), place)) for place in range(3)]
        await until(lambda: log.under_way == 1)
        tails.begin_drain()
        pages = await asyncio.gather(*reading)
        assert [page.content.changes for page in pages] == [()] * 3
        assert all(page.content.more_available for page in pages), "a stream that was cut short is not live"


async def test_a_cancelled_read_has_ended_when_its_reader_has() -> None:
    log, before = Log(), asyncio.all_tasks()
    async with opened(log) as tails:
        reading = asyncio.create_task(tails.direct.read(FEED, replace(READ, start=After(cursor(0)), max_wait=_LONG)))
        await until(lambda: log.under_way == 0 and log.reads == 1)
        reading.cancel()
        await asyncio.wait({reading})
        assert not [task for task in asyncio.all_tasks() - before if "DirectReader" in repr(task)]


async def test_a_tail_that_cannot_learn_the_newest_position_begins_with_whoever_comes_to_the_end() -> None:
    class WithoutNow(Log):
        async def read_page(self, feed: Feed, read: PageRead) -> Page:
            if isinstance(read.start, Now):
                self.reads += 1
                raise TransientFailure("no answer to that")
            return await super().read_page(feed, read)

    log = WithoutNow()
    log.write(*"a" * 25)
    async with opened(log) as tails:
        follower = Follower(tails)
        assert await come_to_the_end(follower) == (25, [str(i).encode() for i in range(25)])
        waiting = asyncio.create_task(ask(follower, 25, wait=_LONG))
        await until(lambda: any(tail._listeners for tail in tails._tails.values()))
        log.write("b")
        assert (await waiting).records(items=True) == [b"25"]


async def test_nothing_that_outlives_a_call_carries_its_context() -> None:
    caller: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="nobody")
    seen: set[str] = set()

    class Curious(Log):
        async def read_page(self, feed: Feed, read: PageRead) -> Page:
            if read.max_wait or isinstance(read.start, Now):
                seen.add(caller.get())
            return await super().read_page(feed, read)

    log = Curious()
    log.write(*"a" * 25)
    async with opened(log) as tails:
        caller.set("a stranger")
        follower = Follower(tails)
        await come_to_the_end(follower)
        await until(lambda: any(task.get_name() == "tail of numbers" for task in asyncio.all_tasks()))
        await until(lambda: bool(seen))
        await follower.aclose()
    assert seen == {"nobody"}


class Text(str):
    """A text whose life can be watched."""

    __slots__ = ("__weakref__",)


class WatchedLog(Log):
    """Gives each read items of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[weakref.ref[Text]] = []

    async def read_page(self, feed: Feed, read: PageRead) -> Page:
        page = await super().read_page(feed, read)
        items = [Text("x" * 1_000) for _ in page.changes]
        self.items += map(weakref.ref, items)
        return replace(page, changes=[c._replace(item=item) for c, item in zip(page.changes, items, strict=True)])


async def test_a_tail_holds_no_page_that_has_left_its_ring() -> None:
    log = WatchedLog()
    async with opened(log) as tails:
        reader = await live(tails, 0)
        waiting = asyncio.create_task(ask(reader, 0, wait=_LONG))
        await until(lambda: any(read.max_wait for read in log.reads_of))
        log.write("a")
        assert (await waiting).content.changes
        del waiting
        await asyncio.sleep(0)
        await until(lambda: len([read for read in log.reads_of if read.max_wait]) == 2)
        for tail in tails._tails.values():
            assert tail.ring is not None
            tail.ring.drop_oldest()
        assert [item() for item in log.items] == [None]
