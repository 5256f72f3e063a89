"""How often a place is asked where nothing happens, and how long a page may take to pass over much."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NamedTuple

from changefeed_gateway.core.clock import monotonic

LATE: Final = 2.0
"""Seconds after which a page that has found nothing yet, or not all, goes out as it is.

Its token keeps the way that was come. Whoever's deadline ends before the answer begins again, and would never come
through a history that takes longer."""

_MOST_PLACES: Final = 16_384


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


class _Idle(NamedTuple):
    empty_answers: int
    not_before: float
    """When to ask again, on the monotonic clock."""


class IdlePlaces:
    """Places behind which there was nothing when they were asked last; one that was forgotten is due."""

    def __init__(self, pace: Pace | None = None, *, most: int = _MOST_PLACES) -> None:
        """At most so many places are remembered."""
        self._pace = pace or Pace()
        self._most = most
        self._idle: OrderedDict[Hashable, _Idle] = OrderedDict()

    def rests(self, place: Hashable) -> bool:
        """Whether it is too early to ask a place again."""
        idle = self._idle.get(place)
        return idle is not None and monotonic() < idle.not_before

    def found_nothing(self, place: Hashable, now_at: Hashable) -> None:
        """A place was asked in vain; whoever stood there stands elsewhere now, perhaps."""
        before = self._idle.pop(place, None)
        empty = before.empty_answers + 1 if before else 1
        self._idle[now_at] = _Idle(empty, monotonic() + self._pace.pause(empty))
        self._idle.move_to_end(now_at)
        if len(self._idle) > self._most:
            self._idle.popitem(last=False)

    def found_something(self, place: Hashable) -> None:
        """A place was not asked in vain."""
        self._idle.pop(place, None)
