"""How much rings hold, and what leaves them first."""

import gc
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from changefeed_gateway.core.answer import Batch
from changefeed_gateway.core.columns import Columns
from changefeed_gateway.core.model import (
    Change,
    ChangeType,
    Cursor,
    EntireCollection,
    ItemState,
    Key,
    KeyComponent,
    Page,
    PartitionId,
)
from changefeed_gateway.core.page import EncodedPage
from changefeed_gateway.core.ring import Ring
from changefeed_gateway.core.ring_budget import RingBudget


def cursor(position: int) -> Cursor:
    return Cursor(position.to_bytes(8))


def page(first: int, count: int = 1, *, item: str = "x" * 1_000, key: str = "key") -> EncodedPage:
    positions = range(first, first + count)
    plain = Page(
        changes=Columns.of([_change(position, item, key) for position in positions]),
        cursors=[cursor(position + 1) for position in positions],
        start=cursor(first),
        cursor=cursor(first + count),
        more_available=False,
    )
    return EncodedPage(plain, lambda items: [(item.encode() if items else b"") + b"." for _ in positions])


def _change(position: int, item: str, partition_key: str) -> Change:
    key = Key(partition_key, (KeyComponent("id", str(position)),))
    now = datetime.now(UTC)
    return Change(str(position), ChangeType.UPDATE, key, ItemState.INCLUDED, item, now, PartitionId("p"), str(position))


def ring_at(position: int, budget: RingBudget) -> Ring:
    before = Page(changes=(), cursors=(), start=cursor(0), cursor=cursor(position), more_available=False)
    return Ring(before, budget)


def filled(budget: RingBudget, pages: int) -> Ring:
    ring = ring_at(0, budget)
    for number in range(pages):
        ring.append(page(number))
    return ring


def held_positions(ring: Ring, upto: int) -> list[int]:
    return [position for position in range(upto) if ring.holds(cursor(position))]


@pytest.mark.parametrize("text", ["a", "漢", "😀"])
def test_the_budget_counts_the_memory_that_items_and_records_of_both_modes_take(text: str) -> None:
    budget = RingBudget(10**9)
    ring = ring_at(0, budget)
    ring.append(page(0, 10, item=text * 1_000))
    item = sys.getsizeof((text * 1_000).encode())
    plain = budget.held
    assert 10 * item <= plain <= 10 * (item + 1_500) + 2_000
    shown = ring.page_after(cursor(0), max_changes=100, max_bytes=10**9)
    assert shown is not None
    records = shown.records(items=True)
    with_records = budget.held
    assert with_records - plain == sys.getsizeof(records) + sum(map(sys.getsizeof, records))
    shown.records(items=True)
    assert budget.held == with_records, "records are made once and counted once"
    shown.records(items=False)
    assert budget.held > with_records


def test_records_that_come_into_being_push_out_what_no_longer_fits() -> None:
    budget = RingBudget(29_000)
    ring = filled(budget, 8)
    assert ring.holds(cursor(0))
    for number in range(8):
        shown = ring.page_after(cursor(number), max_changes=1, max_bytes=1)
        assert shown is not None
        shown.records(items=True)
    assert budget.held <= 29_000
    assert not ring.holds(cursor(0))
    assert ring.holds(cursor(7))


def test_one_budget_is_for_all_rings_and_the_oldest_page_of_all_leaves_first() -> None:
    budget = RingBudget(30_000)
    quiet, busy = filled(budget, 2), ring_at(0, budget)
    for ring in (quiet, busy):
        ring.stand("slow", cursor(0))
    for number in range(40):
        busy.append(page(number))
        assert budget.held <= 30_000
    assert held_positions(quiet, 3) == [2], "what is older than all of the busy ring's pages is gone"
    assert held_positions(busy, 41)[0] > 20


def test_a_page_that_all_followers_have_passed_leaves_before_an_older_one_that_somebody_needs() -> None:
    budget = RingBudget(30_000)
    needed, passed = filled(budget, 3), filled(budget, 3)
    needed.stand("reader", cursor(0))
    passed.stand("reader", cursor(2))
    passed.stand("another", cursor(3))
    more = ring_at(0, budget)
    more.stand("reader", cursor(0))
    while passed.holds(cursor(1)):
        more.append(page(position_of(more)))
    assert needed.holds(cursor(0))
    while needed.holds(cursor(0)):
        more.append(page(position_of(more)))
    assert budget.held <= 30_000


def position_of(ring: Ring) -> int:
    return int.from_bytes(ring.end)


def test_a_page_larger_than_the_whole_budget_leaves_at_once_and_its_readers_go_to_the_log() -> None:
    budget = RingBudget(30_000)
    ring = ring_at(0, budget)
    ring.append(page(0, item="x" * 100_000))
    assert budget.held == 0
    assert not ring.holds(cursor(0))
    assert ring.holds(cursor(1))


def test_a_ring_that_nobody_follows_any_more_gives_all_back() -> None:
    budget = RingBudget(10**6)
    ring = filled(budget, 5)
    shown = ring.page_after(cursor(0), max_changes=1, max_bytes=1)
    ring.release()
    assert budget.held == 0
    assert shown is not None
    shown.records(items=True)
    assert budget.held == 0, "what a stream still sends is its own"


def test_who_is_late_comes_to_the_end_in_few_steps() -> None:
    ring = filled(RingBudget(10**9), 50)
    assert list(sizes(ring, max_changes=20, max_bytes=10**9)) == [20, 20, 10]
    assert list(sizes(ring, max_changes=100, max_bytes=1)) == [1] * 50


def test_who_is_late_for_one_partition_key_takes_all_of_it_at_once_too() -> None:
    ring = ring_at(0, RingBudget(10**9))
    for number in range(30):
        ring.append(page(number, key="mine" if number % 3 == 0 else "another"))
    shown = ring.page_after(cursor(0), max_changes=100, max_bytes=10**9, partition_key="mine")
    assert shown is not None
    assert [change.sequence for change in shown.content.changes] == [str(number) for number in range(0, 30, 3)]
    assert len(shown.records(items=True)) == 10
    assert not shown.content.more_available
    assert ring.page_after(shown.content.cursor, max_changes=9, max_bytes=9, partition_key="mine") is None
    few = ring.page_after(cursor(0), max_changes=4, max_bytes=10**9, partition_key="mine")
    assert few is not None
    assert (len(few.content.changes), few.content.more_available) == (4, True)
    rest = ring.page_after(few.content.cursor, max_changes=100, max_bytes=10**9, partition_key="mine")
    assert rest is not None
    assert len(rest.content.changes) == 6


def message(page: EncodedPage | None) -> Batch:
    assert page is not None
    made = page.message(EntireCollection(), lambda scope, at: str(int.from_bytes(at)), items=True)
    assert isinstance(made, Batch)
    return made


def test_the_message_of_a_page_or_of_a_run_of_pages_is_made_once_and_counted_until_it_goes() -> None:
    budget = RingBudget(10**9)
    ring = filled(budget, 4)
    for number in range(4):
        message(ring.page_after(cursor(number), max_changes=1, max_bytes=1))
    before = budget.held
    run = message(ring.page_after(cursor(1), max_changes=100, max_bytes=10**9))
    assert run is message(ring.page_after(cursor(1), max_changes=100, max_bytes=10**9))
    assert run.token == "4"
    assert before + 3 * 1_000 <= budget.held <= before + 3 * 1_000 + 1_000
    held = budget.held
    for start in (0, 1, 2):
        for count in (2, 3, 4):
            message(ring.page_after(cursor(start), max_changes=count, max_bytes=10**9))
    assert budget.held < held + 20_000, "few runs are kept"
    ring.drop_oldest()
    ring.release()
    assert budget.held == 0


def test_messages_count_against_the_budget() -> None:
    budget = RingBudget(60_000)
    ring = filled(budget, 8)
    for start in range(8):
        message(ring.page_after(cursor(start), max_changes=100, max_bytes=10**9))
        assert budget.held <= 60_000
    while ring.holds(cursor(0)):
        ring.append(page(position_of(ring)))
        message(ring.page_after(ring.start, max_changes=100, max_bytes=10**9))
        assert budget.held <= 60_000


def sizes(ring: Ring, *, max_changes: int, max_bytes: int) -> Iterator[int]:
    """Of the pages from the oldest on, until one says that nothing more is there."""
    position, more = cursor(0), True
    while more:
        shown = ring.page_after(position, max_changes=max_changes, max_bytes=max_bytes)
        assert shown is not None
        assert len(shown.records(items=True)) == len(shown.content.changes)
        yield len(shown.content.changes)
        position, more = shown.content.cursor, shown.content.more_available


def test_only_the_newest_page_of_a_ring_says_that_nothing_more_is_there() -> None:
    ring = filled(RingBudget(10**9), 3)
    said = [ring.page_after(cursor(number), max_changes=1, max_bytes=1) for number in range(3)]
    assert [shown and shown.content.more_available for shown in said] == [True, True, False]


def test_a_page_that_leaves_is_freed_at_once_and_not_by_the_garbage_collector() -> None:
    class Text(str):
        """A text whose life can be watched."""

        __slots__ = ("__weakref__",)

    ring = ring_at(0, RingBudget(10**9))
    text = Text("x" * 1_000)
    watched = weakref.ref(text)
    plain = page(0)
    (change,) = plain.content.changes
    ring.append(EncodedPage(replace(plain.content, changes=[change._replace(item=text)]), lambda items: [b"."]))
    ring.append(page(1))
    for most in (1, 100):
        message(ring.page_after(cursor(0), max_changes=most, max_bytes=10**9))
    del text, change, plain
    gc.disable()
    try:
        ring.drop_oldest()
        assert watched() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("reaches", [5, 7])
def test_a_page_of_the_log_that_leads_to_a_ring_is_kept_at_its_front_and_nothing_comes_twice(reaches: int) -> None:
    budget = RingBudget(10**9)
    ring = ring_at(5, budget)
    ring.append(page(5, 3))
    before = budget.held
    ring.extend(page(1, reaches - 1))
    assert budget.held > before
    assert held_positions(ring, 9) == list(range(1, 9))
    for position in range(1, 8):
        rest = ring.page_after(cursor(position), max_changes=100, max_bytes=10**9)
        assert rest is not None
        assert [change.event_id for change in rest.content.changes] == [str(each) for each in range(position, 8)]
        assert len(rest.records(items=True)) == 8 - position
        assert rest.content.cursor == cursor(8)
        assert not rest.content.more_available
    alone = ring.page_after(cursor(1), max_changes=1, max_bytes=10**9)
    assert alone is not None
    assert alone.content.cursor == cursor(5)
    assert alone.content.more_available
    ring.release()
    assert budget.held == 0


def test_what_does_not_lead_to_a_ring_or_has_no_room_is_not_kept() -> None:
    budget = RingBudget(8_000)
    ring = ring_at(5, budget)
    ring.append(page(5))
    held = budget.held
    for elsewhere in (page(1, 3), page(5), page(6), page(1, 40)):
        ring.extend(elsewhere)
    assert budget.held == held
    assert held_positions(ring, 7) == [5, 6]
    for number in range(6, 12):
        ring.append(page(number))
    start = ring.start
    ring.extend(page(0, 30))
    assert ring.start == start, "a ring that had to let pages go has no room for older ones"


def test_followers_are_counted_aright_when_older_pages_come() -> None:
    budget = RingBudget(10**9)
    ring = ring_at(5, budget)
    ring.append(page(5))
    early, late = object(), object()
    ring.stand(early, cursor(2))
    ring.stand(late, cursor(6))
    assert not ring.oldest_is_passed
    ring.extend(page(1, 4))
    ring.stand(early, cursor(2))
    assert not ring.oldest_is_passed
    ring.stand(early, cursor(5))
    assert ring.oldest_is_passed
    ring.leave(early)
    ring.leave(late)
    assert not ring._standing
