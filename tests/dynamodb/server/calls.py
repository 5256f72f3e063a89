"""What was asked of the server, and how many readers a shard had."""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.dynamodb.server.errors import third_reader

PATIENCE = 60
"""Seconds after which a test gives up on a call."""


class Call(NamedTuple):
    """A request, as far as it concerns a shard."""

    operation: str
    shard_id: str = ""
    reader: int = 0
    """The GetShardIterator that the iterator descends from."""


class Calls:
    """Safe for threads: the server adds, tests look and wait."""

    def __init__(self) -> None:
        self.log: list[Call] = []
        self.errors: Counter[tuple[str, str]] = Counter()
        """How often an operation answered a code."""
        self._under_way: Counter[str] = Counter()
        self._most_under_way: Counter[str] = Counter()
        self._changed = threading.Condition()

    @contextmanager
    def under_way(self, call: Call, allowed: int) -> Iterator[None]:
        """Count a call while it is served. Raises LimitExceededException for a reader too many."""
        with self._changed:
            self.log.append(call)
            readers = self._under_way[call.shard_id] + 1
            if call.operation == "GetRecords":
                self._most_under_way[call.shard_id] = max(readers, self._most_under_way[call.shard_id])
                self._under_way[call.shard_id] = readers
            self._changed.notify_all()
        try:
            if call.operation == "GetRecords" and readers > allowed:
                raise third_reader()
            yield
        finally:
            if call.operation == "GetRecords":
                with self._changed:
                    self._under_way[call.shard_id] -= 1

    def count(self, operation: str | None = None) -> int:
        """How many calls there were."""
        with self._changed:
            return sum(operation in (None, call.operation) for call in self.log)

    def counts(self) -> dict[str, int]:
        """How many calls there were of each operation."""
        with self._changed:
            return dict(Counter(call.operation for call in self.log))

    def clear(self) -> None:
        """Count anew."""
        with self._changed:
            self.log.clear()
            self.errors.clear()
            self._most_under_way.clear()

    def wait_for(self, operation: str, count: int) -> None:
        """Block until there were so many calls. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(
                lambda: sum(call.operation == operation for call in self.log) >= count, PATIENCE
            ):
                raise TimeoutError(f"fewer than {count} calls of {operation}")

    def under_way_now(self) -> dict[str, int]:
        """How many GetRecords are being served, by shard."""
        with self._changed:
            return {shard: count for shard, count in self._under_way.items() if count}

    def most_under_way(self) -> dict[str, int]:
        """The most GetRecords that were served at one time, by shard."""
        with self._changed:
            return dict(self._most_under_way)

    def most_readers(self) -> dict[str, int]:
        """The most readers of each shard at one time; a reader counts from its first GetRecords to its last."""
        with self._changed:
            log = [(number, call) for number, call in enumerate(self.log) if call.operation == "GetRecords"]
        first: dict[tuple[str, int], int] = {}
        last: dict[tuple[str, int], int] = {}
        for number, call in log:
            first.setdefault((call.shard_id, call.reader), number)
            last[call.shard_id, call.reader] = number
        spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for (shard, reader), start in first.items():
            spans[shard].append((start, last[shard, reader]))
        return {shard: max(sum(a <= at <= b for a, b in found) for at, _ in found) for shard, found in spans.items()}
