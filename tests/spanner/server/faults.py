"""Faults that are waiting for a call to happen to."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from tests.spanner.server.calls import Call
from tests.spanner.server.errors import ServiceError

ALWAYS = -1
"""A number of times that never runs out."""


class Kind(Enum):
    """What happens to a call instead of an error."""

    END = "the stream of answers ends as if all were said"
    STALL = "no answer until it is released"


@dataclass(eq=False)
class Fault:
    """Happens to so many calls of an operation, on one partition or on any, after so many of their messages."""

    operation: str
    what: ServiceError | Kind
    times: int = 1
    partition: str | None = None
    after_messages: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def fits(self, call: Call) -> bool:
        """Tell whether it happens to a call."""
        return self.times != 0 and self.operation in (call.operation, "*") and self.partition in (call.partition, None)


class Faults:
    """First come, first happens."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Let a fault wait for its calls."""
        self._waiting.append(fault)

    def take(self, call: Call) -> Fault | None:
        """The fault that happens to a call."""
        for fault in self._waiting:
            if fault.fits(call):
                if fault.times != ALWAYS:
                    fault.times -= 1
                return fault
        return None

    def clear(self) -> Sequence[Fault]:
        """Let nothing happen any more; answers what was waiting or is happening."""
        cleared, self._waiting = self._waiting, []
        return cleared
