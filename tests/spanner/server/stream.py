"""One life of a change stream: its partitions, how they come and go, and what is asked for in a query of it."""

import base64
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from datetime import timedelta

from tests.spanner.server import errors
from tests.spanner.server.behaviour import Behaviour
from tests.spanner.server.bell import Bell
from tests.spanner.server.clock import SECOND, Clock, nanoseconds
from tests.spanner.server.encoding import encode
from tests.spanner.server.partition import Child, ChildPartitions, DataRecord, Partition, Record, Written
from tests.spanner.server.schema import StreamDefinition

HASHES = 2**16
RETENTION = timedelta(days=7)
AHEAD = timedelta(minutes=10)
"""How far in the future a start may lie."""

_UNITS = {"s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND, "d": 86400 * SECOND}
_births = itertools.count(1)


class ChangeStream:
    """From CREATE to DROP."""

    def __init__(self, definition: StreamDefinition, *, postgres: bool, clock: Clock, behaviour: Behaviour) -> None:
        self.definition = definition
        self.postgres = postgres
        self.created = clock.tick()
        self.dropped = False
        self.trimmed = 0
        """No start is earlier, whatever the retention."""
        self.partitions: dict[str, Partition] = {}
        self._alive: list[Partition] = []
        self.history: list[DataRecord] = []
        """Every record there ever was, for a test to hold a delivery against."""
        self.changed = Bell()
        self._clock = clock
        self._behaviour = behaviour
        self._birth = next(_births)
        self._tokens = itertools.count(1)
        edges = [HASHES * index // behaviour.partitions for index in range(behaviour.partitions + 1)]
        for low, high in itertools.pairwise(edges):
            self._open(frozenset({range(low, high)}), parents=(), start=self.created)

    # --- Writing

    @property
    def value_capture_type(self) -> str:
        return str(self.definition.options.get("value_capture_type", "OLD_AND_NEW_VALUES"))

    def partition_of(self, place: int) -> Partition:
        """The partition that takes the changes of a row."""
        return next(partition for partition in self._alive if partition.takes(place))

    def append(self, partition: Partition, record: DataRecord) -> None:
        """Add a record to a partition; the bell rings when the transaction is complete."""
        partition.written.append(self._written(record.commit_timestamp, record))
        self.history.append(record)

    # --- Partitions come and go

    def replace(self, tokens: Sequence[str], parts: int) -> list[Partition]:
        """End partitions in favour of so many others: a split, a merge, or a move."""
        parents = [self.partition(token) for token in tokens]
        assert all(parent.end is None for parent in parents), "a partition has ended already"
        end = self._clock.tick()
        shares = _shares(
            [hashes for parent in parents for hashes in sorted(parent.hashes, key=lambda r: r.start)], parts
        )
        children = [self._open(share, parents=tuple(tokens), start=end) for share in shares]
        found = ChildPartitions(end, 0, tuple(Child(child.token, child.parents) for child in children))
        for parent in parents:
            parent.end = end
            parent.child_records = [self._written(end, found)]
            self._alive.remove(parent)
        self.changed.ring()
        return children

    def alive(self) -> list[Partition]:
        """The partitions that take changes."""
        return list(self._alive)

    def partition(self, token: str) -> Partition:
        """A partition by its token. Raises INVALID_ARGUMENT."""
        if (partition := self.partitions.get(token)) is None:
            raise errors.foreign_token(token)
        return partition

    def initial(self, start: int) -> Iterator[Written]:
        """The partitions that were alive at a time, each in a record of its own."""
        parents = (None,) if self._behaviour.null_parents else ()
        alive = [partition for partition in self.partitions.values() if partition.alive_at(start)]
        for number, partition in enumerate(alive):
            yield self._written(start, ChildPartitions(start, number, (Child(partition.token, parents),)))

    # --- Retention

    @property
    def retention(self) -> int:
        """Nanoseconds that records are kept."""
        text = str(self.definition.options.get("retention_period", ""))
        return int(text[:-1]) * _UNITS[text[-1]] if text else nanoseconds(RETENTION)

    @property
    def earliest(self) -> int:
        """The earliest start that may be asked for."""
        return max(self.created, self.trimmed, self._clock.now() - self.retention)

    def trim(self, through: int | None = None) -> None:
        """Forget what is older than the retention, and all up to and with a time."""
        if through is not None:
            self.trimmed = through
        for partition in self.partitions.values():
            partition.forget_before(self.earliest if through is None else through + 1)

    def check_mode(self) -> None:
        """Refuse a stream whose records have another form, with moves of keys instead of children."""
        if self.definition.options.get("partition_mode") == "MUTABLE_KEY_RANGE":
            raise errors.invalid("The server of the tests does not read streams of partition_mode MUTABLE_KEY_RANGE.")

    def check_start(self, start: int) -> None:
        """Refuse a start before retention, or too far ahead. Raises OUT_OF_RANGE."""
        latest = self._clock.now() + nanoseconds(AHEAD)
        told = self._behaviour.bounds_told
        if start < self.earliest:
            raise errors.too_far_in_the_past(self.earliest, start, told=told)
        if start > latest:
            raise errors.too_far_in_the_future(self.earliest, latest, start, told=told)

    def check_within(self, partition: Partition, start: int) -> None:
        """Refuse a start outside a partition's life. Raises OUT_OF_RANGE."""
        if partition.end is not None and partition.end < self.earliest and self._behaviour.aged_out_text:
            raise errors.aged_out()
        end = partition.end if partition.end is not None else self._clock.now() + nanoseconds(AHEAD)
        if not partition.start <= start <= end:
            raise errors.outside_the_partition(partition.start, end, start, told=self._behaviour.bounds_told)

    # --- Inside

    def _written(self, time: int, record: Record) -> Written:
        return Written(time, record, encode(record, postgres=self.postgres))

    def _open(self, hashes: frozenset[range], *, parents: tuple[str, ...], start: int) -> Partition:
        seed = f"{self.definition.name} {self._birth} {next(self._tokens)}"
        digest = b"".join(hashlib.sha256(f"{seed} {part}".encode()).digest() for part in range(4))
        token = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        partition = Partition(token=token, parents=parents, hashes=hashes, start=start)
        self.partitions[token] = partition
        self._alive.append(partition)
        return partition


def _shares(hashes: Sequence[range], parts: int) -> list[frozenset[range]]:
    """Divide hashes into so many equal shares."""
    total = sum(map(len, hashes))
    assert total >= parts, "too few hashes to split"
    shares: list[set[range]] = [set() for _ in range(parts)]
    passed = 0
    for span in hashes:
        for number, share in enumerate(shares):
            low = max(0, total * number // parts - passed)
            high = min(len(span), total * (number + 1) // parts - passed)
            if low < high:
                share.add(span[low:high])
        passed += len(span)
    return [frozenset(share) for share in shares]
