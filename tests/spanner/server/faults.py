"""Faults that are waiting for a call to happen to."""

from dataclasses import dataclass
from enum import Enum

from tests import faults
from tests.spanner.server.calls import Call
from tests.spanner.server.errors import ServiceError


class Kind(Enum):
    """What happens to a call instead of an error."""

    END = "the stream of answers ends as if all were said"
    STALL = "no answer until it is released"


@dataclass(eq=False)
class Fault(faults.Fault[ServiceError | Kind]):
    """Happens to so many calls of an operation, on one partition or on any, after so many of their messages."""

    partition: str | None = None
    after_messages: int = 0

    def fits(self, call: Call) -> bool:
        """Tell whether it happens to a call."""
        return super().fits(call) and self.partition in (call.partition, None)
