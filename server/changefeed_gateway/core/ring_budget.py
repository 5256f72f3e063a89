"""One bound on the memory of all rings of the process."""

from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from changefeed_gateway.core.ring import Ring


class RingBudget:
    """The bytes that all rings of a process may hold together; the least useful page leaves first.

    That is the oldest page of a ring whose followers have all passed it, each such ring in its turn; and if there is
    none, the oldest page of all.
    """

    def __init__(self, max_bytes: int) -> None:
        self.held = 0
        """Bytes held now, encoded records included."""
        self._max_bytes = max_bytes
        self._numbers = count()
        self._by_age: dict[int, Ring] = {}
        """The ring of each page, in the order in which the pages came."""
        self._passed: dict[Ring, None] = {}
        """Rings whose oldest page nobody waits for."""

    def has_room(self, size: int) -> bool:
        """Whether a page may come without another one's leaving."""
        return self.held + size <= self._max_bytes

    def enter(self, ring: "Ring", size: int) -> int:
        """Count a new page; answers its number."""
        number = next(self._numbers)
        self._by_age[number] = ring
        self.held += size
        return number

    def leave(self, number: int, size: int) -> None:
        """Stop counting a page."""
        del self._by_age[number]
        self.held -= size

    def rank(self, ring: "Ring") -> None:
        """Note whether a ring's oldest page has been passed by all its followers."""
        if ring.oldest_is_passed:
            self._passed.setdefault(ring)
        else:
            self._passed.pop(ring, None)

    def trim(self) -> None:
        """P7: let pages leave until the rest fits; who needs one that left reads the log."""
        while self.held > self._max_bytes and self._by_age:
            ring = next(iter(self._passed or self._by_age.values()))
            self._passed.pop(ring, None)
            ring.drop_oldest()
