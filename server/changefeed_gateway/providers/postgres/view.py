"""What one read of a feed can see: its ticks so far, its partitions, and which of them it reads. Pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import repeat
from typing import NamedTuple

from changefeed_gateway.core.model import Child, LogicalPartition, PartitionId, Scope
from changefeed_gateway.providers.postgres.cursor import Position
from changefeed_gateway.providers.postgres.mapping import Row
from changefeed_gateway.providers.postgres.partitions import ALL, BucketPartition, Topology
from changefeed_gateway.providers.postgres.reading import Part
from changefeed_gateway.providers.postgres.ticks import Tick


class View(NamedTuple):
    """The topology is that of the newest tick or of a later one."""

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

    def part(self, scope: Scope) -> Part:
        """What the scope is of the log."""
        if self.partition is not None:
            return self.partition.buckets if self.partition.buckets != ALL else None
        return scope.partition_key if isinstance(scope, LogicalPartition) else None
