"""What was written, as the writers know it."""

import time
from collections import Counter, deque
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Ledger:
    """What was committed, as the writers know it."""

    changes: Counter[str] = field(default_factory=Counter)
    """Changes a document, by its id."""
    transactions: int = 0
    rolled_back: int = 0
    commit_to_arrival: deque[float] = field(default_factory=lambda: deque(maxlen=1_000))
    """Seconds from COMMIT to arrival of the last changes."""
    _under_way: dict[str, deque[float]] = field(default_factory=dict)

    def committing(self, changes: Counter[str]) -> None:
        """Note the moment: changes may arrive before their writer hears that they are committed."""
        for document, count in changes.items():
            self._under_way.setdefault(document, deque()).extend([time.monotonic()] * count)

    def committed(self, changes: Counter[str]) -> None:
        """Enter the changes of one committed transaction."""
        self.changes.update(changes)
        self.transactions += 1

    def arrived(self, document: str) -> None:
        """Note the arrival of a change."""
        if under_way := self._under_way.get(document):
            self.commit_to_arrival.append(time.monotonic() - under_way.popleft())
