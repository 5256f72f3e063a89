"""What one gateway knows of a feed's bell, which rings only for those who sleep. Pure.

P1: nothing is missed between arming it and sleeping. A writer draws its number first and looks at the bell afterwards;
a gateway arms the bell first and reads the sequence afterwards. So either the writer sees the armed bell, or the
gateway sees a number that it cannot account for and stays awake. In SQL: `migrations/log/functions/doorbell.sql`.
"""

from collections.abc import Callable
from typing import NamedTuple


class BellOrders(NamedTuple):
    """What a question to the database does to the bell, before it reads the sequence."""

    arm: bool
    """Where it finds nothing, or a lone change: before it looks, or else it looks once more."""
    answered: int | None
    """The highest value of the rings that were heard: whoever armed the bell up to there has heard them too."""
    rings: int
    """Rings heard before."""


class Bell:
    """Armed while its gateway sleeps; a ring, or whatever else wakes, means that it has to be armed again."""

    def __init__(self, audible: Callable[[], bool]) -> None:
        """`audible` tells whether a ring would be heard: nobody arms a bell that he does not hear."""
        self._audible = audible
        self._wanted = False
        self.needless = False
        """Whether the gateway looks by its own cadence for now: then no question arms it, and no writer rings."""
        self._armed = False
        self._rings = 0
        self._unanswered = 0

    def hear(self, value: int) -> None:
        """Take note of a ring, and of the value that the bell had; 0 for whatever else wakes."""
        self._rings += 1
        self._armed = False
        self._unanswered = max(self._unanswered, value)

    @property
    def silent(self) -> bool:
        """Whether the bell would be heard, but has to be armed before a sleep."""
        return self._audible() and not self._armed

    def want(self, wanted: bool) -> None:
        """Whether questions that find nothing are to arm it: somebody would sleep then."""
        self._wanted = wanted

    def orders(self) -> BellOrders:
        """What the question does that is put now."""
        return BellOrders(self._wanted and not self.needless and self.silent, self._unanswered or None, self._rings)

    def obeyed(self, orders: BellOrders, *, armed: bool) -> None:
        """The question was answered. One that was not has answered no ring: the next one does."""
        if self._unanswered == orders.answered:
            self._unanswered = 0
        if armed:
            # One that came meanwhile may be a ring for this arming.
            self._armed = orders.rings == self._rings
