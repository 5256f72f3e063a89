"""What a listener at a tail is told, and when."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from changefeed_gateway.core.errors import InvalidRequest, Reason
from changefeed_gateway.core.follower import Follower
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import (
    Address,
    After,
    EntireCollection,
    Feed,
    ItemState,
    LogicalPartition,
    PageRead,
    Scope,
)
from changefeed_gateway.core.page import EncodedPage
from changefeed_gateway.core.tail import Tail
from changefeed_gateway.core.tails import Tails
from tests.properties.numbered_log import FEED, READ, Log, cursor, encode, position_of
from tests.virtual_time import VirtualTime

_WAIT = timedelta(seconds=10)


def read_at(position: int, scope: Scope = READ.scope, *, wait: timedelta = _WAIT, size: int = 10) -> PageRead:
    return replace(READ, scope=scope, start=After(cursor(position)), max_changes=size, max_wait=wait)


def page_at(position: int, *keys: str) -> EncodedPage:
    log = Log()
    log.keys = ["?"] * position + list(keys)
    return EncodedPage.of(FEED, log._page(read_at(position), position), encode)


async def live(tails: Tails, scope: Scope = READ.scope, position: int = 0) -> Follower:
    follower = Follower(tails)
    await follower.read(FEED, read_at(position, scope, wait=timedelta(0), size=0))
    await follower.read(FEED, read_at(position, scope, wait=timedelta(0)))
    return follower


def only_tail(tails: Tails) -> Tail:
    (tail,) = tails._tails.values()
    return tail


def append(tail: Tail, page: EncodedPage) -> None:
    """As the tail's own task does with a page that it has read."""
    assert tail.ring is not None
    tail.ring.append(page)
    tail._wake(page)


def run(scenario: Callable[[VirtualTime], object]) -> None:
    loop = VirtualTime()
    loop.run(scenario(loop))  # type: ignore[arg-type]


@pytest.mark.req("P1")
@pytest.mark.parametrize("scope", [EntireCollection(), LogicalPartition("a")])
@pytest.mark.parametrize("page_comes", ["before the timer", "after the timer", "while it waits for its turn"])
def test_a_listener_whose_time_is_over_when_its_page_arrives_does_not_pass_it_over(
    scope: Scope, page_comes: str
) -> None:
    async def scenario(loop: VirtualTime) -> None:
        log = Log()
        tails = Tails(log, encode, Limits(max_wait=timedelta(seconds=1_000)))
        follower = await live(tails, scope)
        tail = only_tail(tails)
        reading = asyncio.create_task(follower.read(FEED, read_at(0, scope)))
        await loop.turns()
        ahead = [loop.create_future() for _ in range(50)]
        if page_comes == "while it waits for its turn":
            # Others have many turns before this one, and its time is over meanwhile.
            for future in ahead:
                tails.turns.resolve(future, None)
            append(tail, page_at(0, "a"))
        elif page_comes == "before the timer":
            loop.call_at(10.0, append, tail, page_at(0, "a"))
        else:
            loop.call_at(10.0 + 1e-12, append, tail, page_at(0, "a"))
        loop.now = 10.0
        await loop.turns(60)
        first = await reading
        log.keys = ["a"]
        records = first.records(items=True)
        if not records:
            after = read_at(position_of(first.content.cursor), scope, wait=timedelta(0))
            second = await follower.read(FEED, after)
            records = second.records(items=True)
        assert records == [b"0"]
        await follower.aclose()
        await tails.aclose()

    run(scenario)


@pytest.mark.parametrize("scope", [READ.scope, EntireCollection(), LogicalPartition("a")])
def test_who_waits_at_the_end_in_vain_is_told_the_watermark_whatever_the_scope(scope: Scope) -> None:
    async def scenario(loop: VirtualTime) -> None:
        tails = Tails(Log(), encode, Limits(max_wait=timedelta(seconds=1_000)))
        follower = await live(tails, scope)
        ring = only_tail(tails).ring
        assert ring is not None
        ring.watermark = datetime(2026, 11, 29, tzinfo=UTC)
        page = await follower.read(FEED, read_at(0, scope, wait=timedelta(0)))
        assert (page.content.changes, page.content.watermark) == ((), ring.watermark)
        await follower.aclose()
        await tails.aclose()

    run(scenario)


def test_a_timer_that_is_kept_from_wait_to_wait_rings_when_the_last_wait_is_over() -> None:
    async def scenario(loop: VirtualTime) -> None:
        tails = Tails(Log(), encode, Limits(max_wait=timedelta(seconds=1_000)))
        follower = await live(tails)
        tail = only_tail(tails)
        for position in range(5):
            reading = asyncio.create_task(follower.read(FEED, read_at(position)))
            await loop.turns()
            loop.now += 3.0
            await loop.turns()
            assert not reading.done()
            append(tail, page_at(position, "a"))
            await loop.turns()
            assert (await reading).records(items=True) == [str(position).encode()]
        began = loop.now
        reading = asyncio.create_task(follower.read(FEED, read_at(5)))
        await loop.turns()
        for seconds in (1.0, 5.0, 9.9):
            loop.now = began + seconds
            await loop.turns()
            assert not reading.done(), "an earlier wait's time is none of this one"
        loop.now = began + 10.0
        await loop.turns()
        assert reading.done()
        assert not reading.result().content.changes
        sooner = asyncio.create_task(follower.read(FEED, read_at(5, wait=timedelta(seconds=1))))
        await loop.turns()
        loop.now += 1.0
        await loop.turns()
        assert sooner.done()
        await follower.aclose()
        await tails.aclose()

    run(scenario)


def test_a_stream_that_has_left_leaves_no_timer() -> None:
    async def scenario(loop: VirtualTime) -> None:
        tails = Tails(Log(), encode, Limits(max_wait=timedelta(seconds=1_000)))
        follower, other = await live(tails), await live(tails)
        reading = asyncio.create_task(follower.read(FEED, read_at(0)))
        await loop.turns()
        (place,) = follower._places.values()
        assert place.listener.timer is not None
        timer = place.listener.timer
        reading.cancel()
        await asyncio.wait({reading})
        await follower.aclose()
        assert timer.cancelled()
        await other.aclose()
        await tails.aclose()

    run(scenario)


async def test_a_message_and_its_token_are_made_once_for_all_who_follow() -> None:
    log, made = Log(), 0

    def token(scope: Scope, at: object) -> str:
        nonlocal made
        made += 1
        return "token"

    tails = Tails(log, encode, Limits())
    followers = [await live(tails) for _ in range(50)]
    reading = [asyncio.create_task(follower.read(FEED, read_at(0))) for follower in followers]
    await asyncio.sleep(0)
    log.write("a", "b")
    pages = await asyncio.gather(*reading)
    messages = [page.message(READ.scope, token, items=True) for page in pages]
    assert all(message is messages[0] for message in messages)
    assert made == 1
    quiet = await asyncio.gather(*(f.read(FEED, read_at(2, wait=timedelta(0))) for f in followers))
    assert len({id(page.message(READ.scope, token, items=True)) for page in quiet}) == 1
    assert made == 2
    for follower in followers:
        await follower.aclose()
    await tails.aclose()


async def test_a_change_wakes_only_the_tenants_that_it_concerns() -> None:
    log = Log()
    tails = Tails(log, encode, Limits())
    tenants = [str(number) for number in range(300)]
    followers = {tenant: await live(tails, LogicalPartition(tenant)) for tenant in tenants}
    reading = {
        tenant: asyncio.create_task(follower.read(FEED, read_at(0, LogicalPartition(tenant))))
        for tenant, follower in followers.items()
    }
    await asyncio.sleep(0)
    tail = only_tail(tails)
    told: list[object] = []
    resolve = tails.turns.resolve
    tails.turns.resolve = lambda future, answer: (told.append(answer), resolve(future, answer))[1]  # type: ignore[method-assign, func-returns-value]
    before = log.reads
    log.write("7", "8", "7")
    assert (await reading["7"]).records(items=True) == [b"0", b"2"]
    assert (await reading["8"]).records(items=True) == [b"1"]
    assert len(told) == 2
    assert log.reads - before <= 2
    assert sum(task.done() for task in reading.values()) == 2
    assert len(tail._listeners_by_key) == 298
    for task in reading.values():
        task.cancel()
    await asyncio.wait(reading.values())
    for follower in followers.values():
        await follower.aclose()
    await tails.aclose()


async def test_streams_that_open_together_ask_once_and_none_takes_an_older_answer() -> None:
    class Slow(Log):
        def __init__(self) -> None:
            super().__init__()
            self.asked = 0
            self.may_answer = asyncio.Event()

        async def open_feed(self, address: Address) -> Feed:
            self.asked += 1
            await self.may_answer.wait()
            return replace(FEED, incarnation=str(self.asked))

    log = Slow()
    tails = Tails(log, encode, Limits())
    together = [asyncio.create_task(tails.open_feed(FEED.address)) for _ in range(100)]
    for _ in range(5):
        await asyncio.sleep(0)
    late = asyncio.create_task(tails.open_feed(FEED.address))
    await asyncio.sleep(0)
    log.may_answer.set()
    assert {feed.incarnation for feed in await asyncio.gather(*together)} == {"1"}
    assert (await late).incarnation == "2"
    assert log.asked == 2
    await tails.aclose()


async def test_streams_that_resume_one_after_the_other_from_old_tokens_read_the_log_once() -> None:
    log = Log()
    log.write(*"ab" * 20)
    tails = Tails(log, encode, Limits())
    first = Follower(tails)
    assert len((await first.read(FEED, read_at(0, size=50))).records(items=True)) == 40
    later = []
    for position in (0, 10, 0, 39):
        follower = Follower(tails)
        later.append(follower)
        await follower.read(FEED, read_at(position, size=0))
        before = log.reads
        page = await follower.read(FEED, read_at(position, size=50))
        assert page.records(items=True) == [str(number).encode() for number in range(position, 40)]
        assert log.reads == before
    for follower in (first, *later):
        await follower.aclose()
    await tails.aclose()


@pytest.mark.req("P6")
async def test_who_left_a_tail_that_failed_asks_the_database_before_it_joins_another_one() -> None:
    """What ended the tail may be a history that is gone, and the ring of the other one is of another history."""
    log = Log()
    log.write(*"a" * 10)
    tails = Tails(log, encode, Limits())
    slow = Follower(tails)
    page = await slow.read(FEED, read_at(0, size=5))
    assert position_of(page.content.cursor) == 5
    failed = only_tail(tails)
    while failed.ring is None:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0)
    assert not failed.holds(cursor(5))
    log.faults.append(InvalidRequest("lost", reason=Reason.TOKEN_RESOURCE_RECREATED))
    log.write("a")
    await asyncio.wait({failed.task})
    # The database that took over has less.
    del log.keys[3:]
    other = await live(tails, position=3)
    log.write("b", "b", "b")
    assert only_tail(tails).holds(cursor(5))
    await slow.read(FEED, read_at(5, size=5))
    assert After(cursor(5)) in [read.start for read in log.reads_of]
    for follower in (slow, other):
        await follower.aclose()
    await tails.aclose()


@pytest.mark.req("P1")
def test_who_stands_alone_and_never_waits_asks_again_in_a_while() -> None:
    """As beside other partitions that bring something without a pause."""

    async def scenario(loop: VirtualTime) -> None:
        log = Log()
        log.comparable = False
        tails = Tails(log, encode, Limits(max_wait=timedelta(seconds=1_000)))
        follower = await live(tails)
        log.keys = ["a"]
        for seconds, records in ((1.0, []), (2.0, [b"0"])):
            loop.now += seconds
            page = await follower.read(FEED, read_at(0, wait=timedelta(0)))
            assert page.records(items=True) == records
        await follower.aclose()
        await tails.aclose()

    run(scenario)


@pytest.mark.req("P5")
def test_who_opens_a_feed_whose_items_were_altered_joins_no_tail_of_before() -> None:
    async def scenario(loop: VirtualTime) -> None:
        tails = Tails(Log(), encode, Limits(max_wait=timedelta(seconds=1_000)))
        followers = [await live(tails)]
        altered = replace(FEED, item_state=next(state for state in ItemState if state is not FEED.item_state))
        followers.append(Follower(tails))
        await followers[1].read(altered, read_at(0, wait=timedelta(0)))
        assert [tail.followers for tail in tails.under_way] == [1, 1]
        for follower in followers:
            await follower.aclose()
        await tails.aclose()

    run(scenario)
