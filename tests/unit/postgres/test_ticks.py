"""Ticks against a model that knows when each transaction ended."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed_gateway.providers.postgres.ticks.tick import (
    Tick,
    batches_of,
    finished_between,
    last_within,
    parse_snapshot,
    reading_order,
    snapshot_text,
    visible,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)
FIRST_XID = 700


class Cluster:
    """Transactions that begin and end in any order, and the snapshots PostgreSQL would take of them."""

    def __init__(self) -> None:
        self.next_xid = FIRST_XID
        self.running: set[int] = set()
        self.ended: list[int] = []
        self.ticks: list[Tick] = []
        self.ended_before: list[int] = []
        """For each tick, how many had ended."""

    def begin(self) -> None:
        self.running.add(self.next_xid)
        self.next_xid += 1

    def end(self, choice: int) -> None:
        if self.running:
            xid = sorted(self.running)[choice % len(self.running)]
            self.running.remove(xid)
            self.ended.append(xid)

    def tick(self) -> None:
        xmax = max(self.ended, default=FIRST_XID - 1) + 1
        xip = frozenset(xid for xid in self.running if xid < xmax)
        self.ticks.append(Tick(len(self.ticks) + 1, min(xip, default=xmax), xmax, xip, 0, 0, AT))
        self.ended_before.append(len(self.ended))

    def sees(self, tick: Tick, xid: int) -> bool:
        return xid in self.ended[: self.ended_before[tick.id - 1]]


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    cluster = Cluster()
    cluster.tick()
    for step in draw(st.lists(st.integers(0, 30), max_size=60)):
        if step < 10:
            cluster.begin()
        elif step < 20:
            cluster.end(step)
        else:
            cluster.tick()
    cluster.tick()
    return cluster


@given(clusters())
def test_a_tick_sees_what_had_ended_before_it(cluster: Cluster) -> None:
    for tick in cluster.ticks:
        for xid in range(FIRST_XID, cluster.next_xid):
            assert visible(xid, tick) == cluster.sees(tick, xid)


@given(clusters())
def test_a_snapshot_survives_its_text(cluster: Cluster) -> None:
    for tick in cluster.ticks:
        assert parse_snapshot(snapshot_text(tick)) == (tick.xmin, tick.xmax, tick.xip)


@given(clusters())
def test_a_transaction_belongs_to_the_first_tick_that_sees_it(cluster: Cluster) -> None:
    base, *following = cluster.ticks
    ended = [xid for xid in cluster.ended if not visible(xid, base)]
    assert batches_of(ended, following) == {
        xid: next(tick.id for tick in following if cluster.sees(tick, xid)) for xid in ended
    }


@given(clusters(), st.data())
def test_the_two_arms_of_a_read_are_what_one_tick_sees_and_the_other_does_not(
    cluster: Cluster, data: st.DataObject
) -> None:
    low = data.draw(st.integers(0, len(cluster.ticks) - 2))
    base, to = cluster.ticks[low], cluster.ticks[data.draw(st.integers(low + 1, len(cluster.ticks) - 1))]
    later = [xid for xid in range(base.xmax, cluster.next_xid) if visible(xid, to)]
    finished = finished_between(base, to)
    assert not set(later) & set(finished)
    assert {*later, *finished} == {
        xid for xid in cluster.ended if cluster.sees(to, xid) and not cluster.sees(base, xid)
    }


def test_an_unseen_transaction_is_an_error() -> None:
    with pytest.raises(ValueError, match="no tick up to 5 sees transaction 12"):
        batches_of([12], [Tick(5, 10, 12, frozenset(), 0, 0, AT)])


@pytest.mark.parametrize("text", ["", "1:2", "a:b:", "1:2:3,", "1:2:3:4"])
def test_a_malformed_snapshot_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - int() and unpacking speak for themselves
        parse_snapshot(text)


def reading(*last_seqs: int) -> list[Tick]:
    return [Tick(n, 1, 1, frozenset(), last_seq, 0, AT) for n, last_seq in enumerate(last_seqs)]


@pytest.mark.parametrize(
    ("last_seqs", "target", "expected"),
    [
        ((0, 5), 10, 1),
        ((0, 5, 10, 15), 10, 2),
        ((0, 50, 60), 10, 1),
        ((7, 7, 7, 7), 10, 3),
        ((0, 5, 5, 5, 99), 5, 3),
    ],
)
def test_a_page_ends_at_the_last_tick_that_it_reaches(last_seqs: tuple[int, ...], target: int, expected: int) -> None:
    assert last_within(reading(*last_seqs), target) == expected


@given(st.lists(st.integers(0, 5)))
def test_rows_stand_by_batch_and_keep_their_order_within(batches: list[int]) -> None:
    order = reading_order(batches)
    numbers = list(range(len(batches))) if order is None else order
    assert [(batches[i], i) for i in numbers] == sorted((batch, i) for i, batch in enumerate(batches))
    assert (order is None) == (batches == sorted(batches))
