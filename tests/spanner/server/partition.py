"""One partition of a change stream: a run of records with a beginning, perhaps an end, and children then."""

from bisect import bisect_left
from dataclasses import dataclass, field

from tests.spanner.server.schema import Column


@dataclass(frozen=True, slots=True, kw_only=True)
class Mod:
    """A modified row. Each part is JSON text; absent is {}."""

    keys: str
    new_values: str
    old_values: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecord:
    """Rows that one transaction modified in one way."""

    commit_timestamp: int
    record_sequence: int
    server_transaction_id: str
    is_last: bool
    table: str
    columns: tuple[tuple[Column, bool, int], ...]
    """With each whether it is of the key, and its ordinal position."""
    mods: tuple[Mod, ...]
    mod_type: str
    value_capture_type: str
    records_in_transaction: int
    partitions_in_transaction: int
    transaction_tag: str
    is_system_transaction: bool


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing else up to this time."""

    timestamp: int


@dataclass(frozen=True, slots=True)
class Child:
    token: str
    parents: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class ChildPartitions:
    """The partitions that go on, or of an initial query one that is alive."""

    start: int
    record_sequence: int
    children: tuple[Child, ...]


Record = DataRecord | Heartbeat | ChildPartitions


@dataclass(frozen=True, slots=True)
class Written:
    """A record in a partition, as it goes over the wire."""

    time: int
    record: Record
    encoded: bytes


@dataclass(kw_only=True)
class Partition:
    """Takes the changes of the rows whose hash lies in `hashes`, until it has ended."""

    token: str
    parents: tuple[str, ...]
    hashes: frozenset[range]
    start: int
    end: int | None = None
    """None while it goes on."""
    written: list[Written] = field(default_factory=list)
    """Data in the order of commit."""
    forgotten: int = 0
    """How many records there were before these."""
    child_records: list[Written] = field(default_factory=list)
    """What a query says at the end."""
    silent_ends: int = 0
    """How many queries to come end without the child records; any number below zero never runs out."""
    early_beats: int = 0
    """How many bounded queries to come begin with a heartbeat of a moment after their start."""
    cuts: int = 0
    """How often its running queries were told to end."""

    def takes(self, place: int) -> bool:
        """Tell whether a row's changes belong here."""
        return any(place in hashes for hashes in self.hashes)

    def alive_at(self, time: int) -> bool:
        """Tell whether an initial query at a time names it. The moment it ends belongs to its children."""
        return self.start <= time and (self.end is None or time < self.end)

    def first_at(self, start: int) -> int:
        """The number of the first record at or after a time; numbers stay when records are forgotten."""
        return self.forgotten + bisect_left(self.written, start, key=lambda written: written.time)

    def take(self, number: int, end: int | None, limit: int) -> list[Written]:
        """The records from a number on, up to and with a time, as many as wanted. Raises LookupError for a lost one."""
        first = number - self.forgotten
        if first < 0:
            raise LookupError(number)
        found = self.written[first : first + limit]
        return found if end is None else [written for written in found if written.time <= end]

    def ends_silently(self) -> bool:
        """Tell whether a query that came to the end says nothing of the children."""
        if self.silent_ends > 0:
            self.silent_ends -= 1
            return True
        return self.silent_ends < 0

    def forget_before(self, time: int) -> None:
        """Drop the records of before a time."""
        count = self.first_at(time) - self.forgotten
        del self.written[:count]
        self.forgotten += count
