"""Splits and merges of PostgreSQL's partitions: at every tick each bucket is in one partition, and children follow."""

from collections.abc import Sequence
from datetime import UTC, datetime
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from changefeed_gateway.core.model import PartitionId, PartitionState
from changefeed_gateway.providers.postgres.cursor import decode_position, mark_of
from changefeed_gateway.providers.postgres.log.partitions import ALL, BucketPartition, Buckets, Topology
from changefeed_gateway.providers.postgres.mapping import Row

AT = datetime(2026, 1, 1, tzinfo=UTC)
_FIRST = BucketPartition(PartitionId("0-4095"), ALL, 1, None)


@st.composite
def histories(draw: st.DrawFn) -> list[BucketPartition]:
    """Rows of changefeed.partitions after some splits and merges, each at a tick of its own."""
    done: list[BucketPartition] = []
    active = [_FIRST]
    tick = 1
    for _ in range(draw(st.integers(0, 12))):
        tick += draw(st.integers(1, 4))
        place = draw(st.integers(0, len(active) - 1))
        if place and draw(st.booleans()):
            parents = active[place - 1 : place + 1]
            ranges = [Buckets(parents[0].buckets.low, parents[1].buckets.high)]
        else:
            parents = active[place : place + 1]
            low, high = parents[0].buckets
            if low == high:
                continue
            first = draw(st.integers(low + 1, high))
            ranges = [Buckets(low, first - 1), Buckets(first, high)]
        done += [parent._replace(end_tick=tick) for parent in parents]
        children = [BucketPartition(PartitionId(f"{b.low}-{b.high}@{tick}"), b, tick, None) for b in ranges]
        active = sorted([*(p for p in active if p not in parents), *children], key=lambda p: p.buckets)
    return [*done, *active]


@given(histories(), st.randoms(use_true_random=False))
def test_every_bucket_is_in_one_partition_at_every_tick(history: list[BucketPartition], dice: Random) -> None:
    topology = Topology(history)
    ticks = range(2, topology.tick + 3)
    # Only at the ends of partitions the answer changes from one bucket to the next.
    ends = sorted({bucket for p in history for bucket in p.buckets})
    for tick in ticks:
        assert _found(topology, tick, ends) == _holding(history, tick, ends)
    tick = dice.choice(ticks)
    assert _found(topology, tick, range(4096)) == _holding(history, tick, range(4096))


def _found(topology: Topology, tick: int, buckets: Sequence[int]) -> list[PartitionId]:
    rows: list[Row] = [(0, 0, 0, b"", False, b"", b"", None, None, bucket, None) for bucket in buckets]
    return list(topology.ids_of(rows, [tick] * len(rows)))


def _holding(history: list[BucketPartition], tick: int, buckets: Sequence[int]) -> list[PartitionId]:
    holding: list[PartitionId] = []
    there = [p for p in history if p.holds(tick)]
    for bucket in buckets:
        (partition,) = [p for p in there if p.buckets.low <= bucket <= p.buckets.high]
        holding.append(partition.partition_id)
    return holding


@given(histories())
def test_children_cover_their_parents_and_start_where_these_end(history: list[BucketPartition]) -> None:
    topology = Topology(history)
    for partition in history:
        children = topology.children_of(partition, AT)
        assert bool(children) == (partition.end_tick is not None)
        ranges = []
        for child in children:
            row = topology.find(child.partition_id)
            assert row is not None
            assert decode_position(child.start) == ((partition.end_tick, 0), mark_of(AT))
            assert partition.partition_id in child.parents
            parents = [p for p in history if p.partition_id in child.parents]
            assert {p.end_tick for p in parents} == {row.start_tick}
            # A merge's parents make up the child; a split's child is a part of its only parent.
            if len(parents) > 1:
                assert sum(p.buckets.width for p in parents) == row.buckets.width
            ranges.append(row.buckets)
        if children:
            assert min(r.low for r in ranges) <= partition.buckets.low
            assert max(r.high for r in ranges) >= partition.buckets.high


@given(histories(), st.integers(1, 60))
def test_a_list_has_parents_first_and_only_what_is_retained(history: list[BucketPartition], oldest: int) -> None:
    listed = Topology(history).retained(oldest)
    seen: set[PartitionId] = set()
    for partition in listed:
        assert set(partition.parents) <= seen
        seen.add(partition.partition_id)
    kept = {p.partition_id: p for p in history if p.end_tick is None or p.end_tick > oldest}
    assert seen == set(kept)
    for partition in listed:
        assert (partition.state is PartitionState.ACTIVE) == (kept[partition.partition_id].end_tick is None)
