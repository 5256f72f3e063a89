"""One shard of a stream: a run of records with a beginning, perhaps an end, and a horizon behind which all is gone."""

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.dynamodb.server.errors import invalid, trimmed

PAGE_BYTES = 1024 * 1024


class Record(NamedTuple):
    """A change in a stream, as it goes over the wire."""

    sequence: int
    time: float
    """Exact epoch seconds; what is told is rounded down."""
    body: bytes


@dataclass(kw_only=True)
class Shard:
    """Takes the changes of the keys whose hash lies in `hashes`, until it is closed."""

    shard_id: str
    parent_id: str | None
    hashes: range
    start: int
    """No record has a lower sequence number."""
    end: int | None = None
    """No record has a higher one; None while open."""
    closed_at: float | None = None
    horizon: int = 0
    """The highest sequence number that has been trimmed."""
    records: list[Record] = field(default_factory=list)
    listed: bool = True
    shown_open: bool = False
    """Listed as open although it is closed."""

    @property
    def before_first(self) -> int:
        """The position that TRIM_HORIZON means now."""
        return max(self.horizon, self.start - 1)

    @property
    def tip(self) -> int:
        """The position that LATEST means now."""
        return self.records[-1].sequence if self.records else self.before_first

    def describe(self) -> dict[str, Any]:
        """The shard as DescribeStream lists it."""
        numbers = {"StartingSequenceNumber": sequence_text(self.start)}
        if self.end is not None and not self.shown_open:
            numbers["EndingSequenceNumber"] = sequence_text(self.end)
        shard: dict[str, Any] = {"ShardId": self.shard_id, "SequenceNumberRange": numbers}
        if self.parent_id is not None:
            shard["ParentShardId"] = self.parent_id
        return shard

    def position_of(self, sequence: int, *, trimmed_tip_is_error: bool) -> int:
        """Check that a sequence number can be read after. Raises TrimmedDataAccess- and ValidationException."""
        if sequence < self.horizon or (sequence == self.horizon and trimmed_tip_is_error):
            raise trimmed()
        if not self.start - 1 <= sequence <= (self.end or sequence):
            raise invalid("Invalid SequenceNumber: it does not belong to the shard.")
        return sequence

    def position_at(self, time: float, *, exact: bool) -> int:
        """The position before the first record at or after a time."""
        for record in self.records:
            if (record.time if exact else int(record.time)) >= time:
                return record.sequence - 1
        return self.tip

    def after(self, position: int, limit: int) -> list[Record]:
        """The records behind a position, as many as fit into an answer. Raises TrimmedDataAccessException."""
        if position < self.horizon:
            raise trimmed()
        first = bisect_right(self.records, position, key=lambda record: record.sequence)
        found: list[Record] = []
        size = 0
        for record in self.records[first : first + limit]:
            size += len(record.body)
            if found and size > PAGE_BYTES:
                break
            found.append(record)
        return found

    def finished(self, position: int) -> bool:
        """Tell whether nothing can follow a position."""
        return self.end is not None and position >= self.tip

    def trim(self, through: int) -> None:
        """Forget the records up to a sequence number."""
        kept = bisect_right(self.records, through, key=lambda record: record.sequence)
        if kept:
            self.horizon = max(self.horizon, self.records[kept - 1].sequence)
            del self.records[:kept]


def sequence_text(sequence: int) -> str:
    """A sequence number on the wire: at least 21 digits."""
    return f"{sequence:021d}"
