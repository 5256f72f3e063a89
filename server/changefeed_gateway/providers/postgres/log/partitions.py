"""Physical partitions: ranges of the 4,096 buckets of a feed's partition keys, each between two ticks. Pure."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import repeat
from typing import Final, NamedTuple

from changefeed_gateway.core.model import Child, LogicalPartition, Partition, PartitionId, PartitionState, Scope
from changefeed_gateway.providers.postgres.cursor import Position, encode_position
from changefeed_gateway.providers.postgres.mapping import BUCKET, Row
from changefeed_gateway.providers.postgres.ticks.tick import Tick


class Buckets(NamedTuple):
    """A range of buckets, both ends included."""

    low: int
    high: int

    @property
    def width(self) -> int:
        """How many there are."""
        return self.high - self.low + 1

    def overlaps(self, other: "Buckets") -> bool:
        """Whether a bucket is in both."""
        return self.low <= other.high and other.low <= self.high


ALL: Final = Buckets(0, 4095)

Part = str | Buckets | None
"""What a reader wants of the log: one partition key, some buckets, or everything."""


class BucketPartition(NamedTuple):
    """One row of changefeed.partitions: the changes of some buckets in the batches after one tick, up to another."""

    partition_id: PartitionId
    buckets: Buckets
    start_tick: int
    end_tick: int | None
    """None while it is active."""

    def holds(self, tick: int) -> bool:
        """Whether changes of a batch are in it."""
        return self.start_tick < tick and (self.end_tick is None or tick <= self.end_tick)

    def retained(self, oldest: int) -> bool:
        """Whether it has batches after the oldest tick, or may have some."""
        return self.end_tick is None or self.end_tick > oldest

    def clip(self, position: Position) -> Position:
        """The nearest position within the partition."""
        position = max(position, Position(self.start_tick))
        return position if self.end_tick is None else min(position, Position(self.end_tick))


class Topology:
    """All partitions that a feed had up to some tick; each tick after the first is in one partition a bucket."""

    def __init__(self, partitions: Iterable[BucketPartition]) -> None:
        self.partitions = sorted(partitions, key=lambda p: (p.start_tick, p.buckets))
        self._changes = sorted({p.start_tick for p in self.partitions})
        self._maps: dict[int, list[PartitionId]] = {}

    @property
    def tick(self) -> int:
        """The last tick at which partitions changed."""
        return self._changes[-1]

    def find(self, partition_id: PartitionId) -> BucketPartition | None:
        """A partition by its id."""
        return next((p for p in self.partitions if p.partition_id == partition_id), None)

    def children_of(self, partition: BucketPartition, at: datetime) -> tuple[Child, ...]:
        """What replaced a retired partition; each starts where its parents ended, at a tick of time `at`."""
        return tuple(
            Child(
                partition_id=child.partition_id,
                parents=tuple(parent.partition_id for parent in self._parents_of(child)),
                start=encode_position(Position(child.start_tick), at),
            )
            for child in self.partitions
            if child.start_tick == partition.end_tick and child.buckets.overlaps(partition.buckets)
        )

    def retained(self, oldest: int) -> list[Partition]:
        """Those with batches after the oldest tick, parents before their children."""
        kept = [p for p in self.partitions if p.retained(oldest)]
        known = {p.partition_id for p in kept}
        return [
            Partition(
                partition_id=p.partition_id,
                parents=tuple(q.partition_id for q in self._parents_of(p) if q.partition_id in known),
                state=PartitionState.ACTIVE if p.end_tick is None else PartitionState.RETIRED,
            )
            for p in kept
        ]

    def ids_of(self, rows: Sequence[Row], ticks: Sequence[int]) -> Iterable[PartitionId]:
        """The partition of each row, by its bucket and the tick of its batch."""
        if len(self.partitions) == 1:
            return repeat(self.partitions[0].partition_id, len(rows))
        return [self._map(tick)[row[BUCKET]] for row, tick in zip(rows, ticks, strict=False)]

    def ids_at(self, buckets: Sequence[int], tick: int) -> Iterable[PartitionId]:
        """The partition of each bucket in what follows a tick."""
        if len(self.partitions) == 1:
            return repeat(self.partitions[0].partition_id, len(buckets))
        found = self._map(tick + 1)
        return [found[bucket] for bucket in buckets]

    def _parents_of(self, child: BucketPartition) -> list[BucketPartition]:
        return [p for p in self.partitions if p.end_tick == child.start_tick and p.buckets.overlaps(child.buckets)]

    def _map(self, tick: int) -> list[PartitionId]:
        """The partition of each bucket in a batch; made once for all batches between two changes."""
        epoch = bisect_left(self._changes, tick) - 1
        if (found := self._maps.get(epoch)) is None:
            there = sorted((p for p in self.partitions if p.holds(tick)), key=lambda p: p.buckets)
            found = [p.partition_id for p in there for _ in range(p.buckets.width)]
            self._maps[epoch] = found
        return found


class View(NamedTuple):
    """What one read of a feed can see: its ticks so far, its partitions, and which of them it reads.

    The topology is that of the newest tick or of a later one.
    """

    newest: Tick
    topology: Topology
    partition: BucketPartition | None
    """None for a scope that is no physical partition."""

    @property
    def retired(self) -> bool:
        """Whether the scope ends at or before the newest tick."""
        end = self.partition.end_tick if self.partition else None
        return end is not None and end <= self.newest.id

    @property
    def end(self) -> Position:
        """Up to where there is something to read by now."""
        newest = Position(self.newest.id)
        return self.partition.clip(newest) if self.partition else newest

    def children(self, at: datetime) -> tuple[Child, ...]:
        """What replaced the partition at a tick of time `at`; none while it is active."""
        return self.topology.children_of(self.partition, at) if self.partition else ()

    def ids_of(self, rows: Sequence[Row], ticks: Sequence[int]) -> Iterable[PartitionId]:
        """The partition of each row: the one that is read, or by bucket and tick where all are."""
        return repeat(self.partition.partition_id, len(rows)) if self.partition else self.topology.ids_of(rows, ticks)

    def ids_of_buckets(self, buckets: Sequence[int]) -> Iterable[PartitionId]:
        """The partition of each bucket at the newest tick."""
        return self.topology.ids_at(buckets, self.newest.id)

    def part(self, scope: Scope) -> Part:
        """What the scope is of the log."""
        if self.partition is not None:
            return self.partition.buckets if self.partition.buckets != ALL else None
        return scope.partition_key if isinstance(scope, LogicalPartition) else None
