"""What one scope can read: the log of a physical partition, or the thread of one logical partition through the logs."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import NamedTuple, Protocol

from changefeed_gateway.core.model import ChangeType, Key, Origin, PartitionId
from changefeed_gateway.providers.memory.cursor import LOGICAL

_sequence = attrgetter("sequence")
_commit_time = attrgetter("commit_time")


class Record(NamedTuple):
    """One committed change as the store keeps it."""

    sequence: int
    commit_time: datetime
    partition_id: PartitionId
    change_type: ChangeType
    key: Key
    item: str | None
    origin: Origin
    annotations: str


class History(Protocol):
    """The retained changes of one scope, by position: the sequence number up to which everything is delivered."""

    @property
    def number(self) -> int:
        """Ties cursors to the scope."""
        ...

    @property
    def floor(self) -> int:
        """The oldest position that can still be resumed; idle partitions age with the others."""
        ...

    @property
    def lost(self) -> Record | None:
        """The newest change that was trimmed."""
        ...

    @property
    def end(self) -> int | None:
        """Position of the retirement; None while changes can still arrive."""
        ...

    def after(self, position: int, limit: int) -> Sequence[Record]:
        """The next records, oldest first."""
        ...

    def position_before(self, time: datetime) -> int:
        """The last position with nothing committed at or after `time` before it."""
        ...


@dataclass(slots=True, kw_only=True)
class PartitionLog:
    """The log of one physical partition: a range of buckets, from its birth to its retirement."""

    number: int
    partition_id: PartitionId
    buckets: range
    birth: int
    floor: int
    parents: tuple[PartitionId, ...] = ()
    children: tuple[PartitionId, ...] = ()
    end: int | None = None
    retire_time: datetime | None = None
    lost: Record | None = None
    records: list[Record] = field(default_factory=list)

    def after(self, position: int, limit: int) -> Sequence[Record]:
        """The next records, oldest first."""
        return list(islice(self.since(position), limit))

    def since(self, position: int) -> Iterator[Record]:
        """Every record behind a position, oldest first."""
        for index in range(bisect_right(self.records, position, key=_sequence), len(self.records)):
            yield self.records[index]

    def position_before(self, time: datetime) -> int:
        """The last position with nothing committed at or after `time` before it."""
        return self.last_before(time) or self.floor

    def last_before(self, time: datetime) -> int | None:
        """Sequence number of the newest record committed before `time`."""
        older = bisect_left(self.records, time, key=_commit_time)
        return self.records[older - 1].sequence if older else None

    def trim(self, through: int) -> None:
        """Forget every record up to a position."""
        gone = bisect_right(self.records, through, key=_sequence)
        if gone:
            self.lost = self.records[gone - 1]
            del self.records[:gone]
        self.floor = max(self.floor, through)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalHistory:
    """One partition key through every log that holds, or held, its bucket: parents first."""

    partition_key: str
    logs: Sequence[PartitionLog]

    @property
    def number(self) -> int:
        """Logical partitions outlive physical ones, so their cursors name none."""
        return LOGICAL

    @property
    def floor(self) -> int:
        """The oldest log still known decides: what came before it was trimmed."""
        return self.logs[0].floor

    @property
    def lost(self) -> Record | None:
        """The oldest log still known decides here too."""
        return self.logs[0].lost

    @property
    def end(self) -> int | None:
        """A logical partition never retires."""
        return None

    def after(self, position: int, limit: int) -> Sequence[Record]:
        """The next records of the key, and truncations, oldest first."""
        found = (
            record
            for record in merge(*(log.since(position) for log in self.logs), key=_sequence)
            if (record.key.partition_key == self.partition_key or record.change_type is ChangeType.TRUNCATE)
        )
        return list(islice(found, limit))

    def position_before(self, time: datetime) -> int:
        """The last position with nothing committed at or after `time` before it."""
        return max((log.last_before(time) or self.floor for log in self.logs), default=self.floor)
