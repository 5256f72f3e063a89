"""What was asked of the server, and how many readers a partition had."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.spanner.server.bell import Bell

PATIENCE = 60
"""Seconds after which a test gives up on a call."""


class Call(NamedTuple):
    """A request, as far as it concerns a change stream."""

    operation: str
    """The name of the RPC; of an ExecuteStreamingSql: Initial, Partition, Metadata, or Statement for any other."""
    partition: str | None = None
    """The partition token of a partition's query."""
    start: int | None = None
    end: int | None = None
    """The bounds of a query of the stream, in nanoseconds; None as an end is for ever."""


class Calls:
    """The server adds, tests look and wait, all in one event loop."""

    def __init__(self) -> None:
        self.log: list[Call] = []
        self.errors: Counter[tuple[str, str]] = Counter()
        """How often an operation was answered with a status."""
        self._under_way: Counter[Call] = Counter()
        self._most_readers: Counter[str] = Counter()
        self._changed = Bell()

    @contextmanager
    def under_way(self, call: Call) -> Iterator[None]:
        """Count a call while it is served."""
        self.log.append(call)
        self._under_way[call] += 1
        if call.partition is not None:
            most = max(self.readers(call.partition), self._most_readers[call.partition])
            self._most_readers[call.partition] = most
        self._changed.ring()
        try:
            yield
        finally:
            self._under_way[call] -= 1
            self._under_way += Counter()
            self._changed.ring()

    def readers(self, partition: str) -> int:
        """How many queries of a partition are being served."""
        return sum(count for call, count in self._under_way.items() if call.partition == partition)

    def under_way_now(self) -> list[Call]:
        """The calls that are being served."""
        return list(self._under_way.elements())

    def most_readers(self) -> dict[str, int]:
        """The most queries that were served at one time, by partition."""
        return dict(self._most_readers)

    def count(self, operation: str | None = None) -> int:
        """How many calls there were."""
        return sum(operation in (None, call.operation) for call in self.log)

    def counts(self) -> dict[str, int]:
        """How many calls there were of each operation."""
        return dict(Counter(call.operation for call in self.log))

    def clear(self) -> None:
        """Count anew; what is under way stays so."""
        self.log.clear()
        self.errors.clear()
        self._most_readers.clear()

    async def until(self, holds: Callable[["Calls"], bool]) -> None:
        """Wait until something holds of the calls. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE):
            while not holds(self):
                await self._changed.wait()
