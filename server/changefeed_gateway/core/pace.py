"""How often a place is asked where nothing happens."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often an idle partition is asked."""

    shortest_pause: timedelta = timedelta(milliseconds=250)
    """After changes, or the first empty answer; doubled by each further one."""
    longest_pause: timedelta = timedelta(seconds=2)

    def pause(self, empty_answers: int) -> float:
        """Seconds after so many empty answers in a row, one or more."""
        # Before the power is beyond any number.
        doubled: float = self.shortest_pause.total_seconds() * 2 ** (min(empty_answers, 32) - 1)
        return min(self.longest_pause.total_seconds(), doubled)
