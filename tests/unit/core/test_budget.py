"""The budget of pages in hand: who waits, who goes first, who is ended, and that all of it comes back."""

import asyncio
from datetime import timedelta

import pytest

from changefeed_gateway.core.budget import Hold, PageBudget, Share
from changefeed_gateway.core.model import (
    Change,
    ChangeType,
    Cursor,
    ItemState,
    Key,
    Page,
    PartitionId,
)
from changefeed_gateway.core.page import EncodedPage

MESSAGE = 10_000_000


def page_of(*items: str) -> EncodedPage:
    changes = [
        Change(str(n), ChangeType.UPDATE, Key("k", ()), ItemState.INCLUDED, item, None, PartitionId("p"), str(n))
        for n, item in enumerate(items)
    ]
    page = Page(
        changes=changes,
        cursors=[Cursor(bytes([n + 1])) for n in range(len(items))],
        start=Cursor(b"\0"),
        cursor=Cursor(bytes([len(items)])),
        more_available=True,
    )
    return EncodedPage(page, lambda encode_items: [item.encode() for item in items])


def opened(budget: PageBudget) -> Share:
    return budget.share(lambda: None)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def reserving(budget: PageBudget, size: int) -> "asyncio.Task[Hold]":
    task = asyncio.create_task(opened(budget).reserve(size))
    await turns()
    return task


async def test_room_is_given_in_the_order_of_asking() -> None:
    budget = PageBudget(100)
    first = await opened(budget).reserve(80)
    large, small = await reserving(budget, 60), await reserving(budget, 10)
    assert not large.done()
    assert not small.done(), "a small one went past a large one that waits"
    first.release()
    await turns()
    assert large.done()
    assert small.done()
    assert budget.held == 70


async def test_a_page_larger_than_the_budget_has_its_turn_alone() -> None:
    budget = PageBudget(100)
    first = await opened(budget).reserve(10)
    larger = await reserving(budget, 500)
    assert not larger.done()
    first.release()
    await turns()
    assert larger.done()
    assert budget.held == 500


async def test_who_gives_up_waiting_holds_nothing_and_lets_the_next_one_go() -> None:
    budget = PageBudget(100)
    first = await opened(budget).reserve(50)
    large, small = await reserving(budget, 90), await reserving(budget, 40)
    large.cancel()
    await turns()
    assert small.done()
    # Cancelled in the moment in which room was given.
    another = await reserving(budget, 60)
    first.release()
    another.cancel()
    await turns()
    assert another.cancelled()
    small.result().release()
    assert budget.held == 0


async def test_a_page_that_many_have_in_hand_is_held_once_and_each_message_by_itself() -> None:
    budget, page = PageBudget(10**9), page_of("x" * 10_000, "y" * 10_000)
    alone = opened(budget).nothing()
    alone.settle(page, max_message_bytes=MESSAGE)
    one = budget.held
    others = [opened(budget).nothing() for _ in range(9)]
    for hold in others:
        hold.settle(page.cut(0, 1), max_message_bytes=MESSAGE)
    each = (budget.held - one) / 9
    assert 10_000 * 2 <= each < 10_000 * 2.2, "a message of half of the page, and gRPC's copy"
    assert one > 2 * each
    alone.release()
    assert budget.held > 20_000, "the others have the page still"
    for hold in others:
        hold.release()
        hold.release()
    assert budget.held == 0


@pytest.mark.parametrize(("text", "each"), [("x", 5), ("語", 15), ("😀", 29)])
async def test_what_is_counted_is_memory_and_not_characters(text: str, each: int) -> None:
    """The string, its record and two messages: at least what they take, and not much more than twice that."""
    budget = PageBudget(10**9)
    hold = opened(budget).nothing()
    hold.settle(page_of(text * 100_000), max_message_bytes=MESSAGE)
    taken = len(text.encode()) * 3 + {"x": 1, "語": 2, "😀": 4}[text]
    assert taken * 100_000 <= budget.held <= each * 100_000


async def test_a_live_page_that_finds_no_room_is_not_held_while_its_stream_waits() -> None:
    budget = PageBudget(100_000)
    first = await opened(budget).reserve(90_000)
    hold = opened(budget).nothing()
    missing = hold.settle(page_of("x" * 10_000), max_message_bytes=MESSAGE)
    assert missing > 30_000
    assert budget.held == 90_000
    hold.release()
    first.release()
    assert budget.held == 0


async def test_the_stream_that_waits_longest_for_its_consumer_is_ended_first_and_only_when_others_need_room() -> None:
    budget, ended = PageBudget(100, patience=timedelta(0)), asyncio.Event()
    order: list[str] = []

    def end(name: str, share: list[Share]) -> None:
        order.append(name)
        share[0].close()
        ended.set()

    shares = {}
    for name in ("first", "second"):
        own: list[Share] = []
        own.append(budget.share(lambda name=name, own=own: end(name, own)))  # type: ignore[misc]
        await own[0].reserve(50)
        shares[name] = own[0]
    idle = budget.share(lambda: order.append("idle"))
    for offered in (idle, shares["first"], shares["second"]):
        offered.offer(0.0)
    await turns()
    assert not order, "nobody needs room"
    waiting = await reserving(budget, 40)
    await ended.wait()
    await turns()
    assert waiting.done()
    assert order == ["first"]


async def test_who_is_taken_from_is_not_ended() -> None:
    budget = PageBudget(100, patience=timedelta(0))
    share = budget.share(lambda: pytest.fail("its consumer took everything"))
    await share.reserve(90)
    share.offer(asyncio.get_running_loop().time())
    share.taken()
    waiting = await reserving(budget, 40)
    await asyncio.sleep(0.01)
    assert not waiting.done()
    share.close()
    await turns()
    assert waiting.done()


async def test_what_ends_late_gives_back_what_it_got_late() -> None:
    budget = PageBudget(10**6)
    share = opened(budget)
    hold = await share.reserve(1_000)
    share.close()
    assert hold.settle(page_of("x" * 1_000), max_message_bytes=MESSAGE) == 0
    hold.release()
    assert budget.held == 0
