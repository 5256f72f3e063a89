"""Faults that wait in a test's server for a call to happen to."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

ALWAYS: Final = -1
"""A number of times that never runs out."""

_What = TypeVar("_What")


@dataclass(eq=False)
class Fault(Generic[_What]):
    """Happens to so many calls of an operation, or of any ("*")."""

    operation: str
    what: _What
    times: int = 1
    released: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def fits(self, call: Any) -> bool:
        """Tell whether it happens to a call, which has an `operation`."""
        return self.times != 0 and self.operation in (call.operation, "*")


_Fault = TypeVar("_Fault", bound=Fault[Any])


class Faults(Generic[_Fault]):
    """First come, first happens."""

    def __init__(self) -> None:
        self._waiting: list[_Fault] = []

    def add(self, fault: _Fault) -> None:
        """Let a fault wait for its calls."""
        self._waiting.append(fault)

    def take(self, call: object) -> _Fault | None:
        """The fault that happens to a call."""
        for fault in self._waiting:
            if fault.fits(call):
                if fault.times != ALWAYS:
                    fault.times -= 1
                return fault
        return None

    def clear(self) -> Sequence[_Fault]:
        """Let nothing happen any more; answers what was waiting or is happening."""
        cleared, self._waiting = self._waiting, []
        return cleared
