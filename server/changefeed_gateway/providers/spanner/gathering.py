"""From the records of one partition to a page: how many fit, and the position after each. Pure."""

from typing import NamedTuple

from changefeed_gateway.providers.spanner.cursor import Position
from changefeed_gateway.providers.spanner.mapping import TakenMod
from changefeed_gateway.providers.spanner.records import DataRecord, Heartbeat


class Amount(NamedTuple):
    """What a page has room for."""

    changes: int
    """At most so many."""
    size: int
    """Characters of their values together, at most; the first change is exempt."""


class Gathering:
    """Takes modifications of one table behind a position; records of other tables are passed over."""

    def __init__(self, table: str, start: Position, amount: Amount) -> None:
        self.mods: list[TakenMod] = []
        self.positions: list[Position] = []
        """After each modification."""
        self.position = start
        """After everything that was taken or passed over."""
        self._table, self._amount, self._size = table, amount, 0

    @property
    def full(self) -> bool:
        """Whether there is no room for another change."""
        return len(self.mods) >= self._amount.changes or (bool(self.mods) and self._size > self._amount.size)

    def take(self, record: DataRecord | Heartbeat) -> bool:
        """Take a record, as far as there is room; tell whether it is done with."""
        if isinstance(record, Heartbeat):
            self.position = self.position.heard(record.time)
            return True
        identity = record.time, record.transaction, record.record
        if self.position.passed(*identity):
            return True
        if record.table != self._table:
            self.position = self.position.after(*identity)
            return True
        for index in range(self.position.passed_mods(*identity), len(record.mods)):
            size = self._size + len(record.mods[index].keys) + len(record.mods[index].new_values)
            if len(self.mods) >= self._amount.changes or (self.mods and size > self._amount.size):
                return False
            self._size = size
            last = index + 1 == len(record.mods)
            self.position = self.position.after(*identity) if last else self.position.within(*identity, index + 1)
            self.mods.append(TakenMod(record, index))
            self.positions.append(self.position)
        return True
