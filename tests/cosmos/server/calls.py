"""What was asked of the server, and how many readers a range had."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

PATIENCE = 60
"""Seconds after which a test gives up on a call."""


class Call(NamedTuple):
    """A request, as far as it concerns a partition key range."""

    operation: str
    range_id: str = ""
    container: str = ""
    region: str = ""


class Calls:
    """Safe for threads: the server adds, tests look and wait."""

    def __init__(self) -> None:
        self.log: list[Call] = []
        self.errors: Counter[tuple[str, int, int]] = Counter()
        """How often an operation answered a status and sub-status."""
        self.request_units = 0.0
        """Charges of all answers."""
        self._under_way: Counter[str] = Counter()
        self._most_under_way: Counter[str] = Counter()
        self._changed = threading.Condition()

    @contextmanager
    def under_way(self, call: Call) -> Iterator[None]:
        """Count a call while it is served."""
        reads = call.operation == "ReadChangeFeed"
        with self._changed:
            self.log.append(call)
            if reads:
                self._under_way[call.range_id] += 1
                most = max(self._under_way[call.range_id], self._most_under_way[call.range_id])
                self._most_under_way[call.range_id] = most
            self._changed.notify_all()
        try:
            yield
        finally:
            if reads:
                with self._changed:
                    self._under_way[call.range_id] -= 1

    def count(self, operation: str | None = None, *, range_id: str = "", region: str = "") -> int:
        """How many calls there were."""
        with self._changed:
            return sum(
                operation in (None, call.operation) and range_id in ("", call.range_id) and region in ("", call.region)
                for call in self.log
            )

    def counts(self) -> dict[str, int]:
        """How many calls there were of each operation."""
        with self._changed:
            return dict(Counter(call.operation for call in self.log))

    def charged(self, units: float) -> None:
        """Count request units."""
        with self._changed:
            self.request_units += units

    def clear(self) -> None:
        """Count anew."""
        with self._changed:
            self.log.clear()
            self.errors.clear()
            self.request_units = 0.0
            self._most_under_way.clear()

    def wait_for(self, operation: str, count: int) -> None:
        """Block until there were so many calls. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(
                lambda: sum(call.operation == operation for call in self.log) >= count, PATIENCE
            ):
                raise TimeoutError(f"fewer than {count} calls of {operation}")

    def under_way_now(self) -> dict[str, int]:
        """How many reads of the feed are being served, by range."""
        with self._changed:
            return {range_id: count for range_id, count in self._under_way.items() if count}

    def most_under_way(self) -> dict[str, int]:
        """The most reads of the feed that were served at one time, by range."""
        with self._changed:
            return dict(self._most_under_way)
