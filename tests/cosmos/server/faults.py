"""Faults that are waiting for a call to happen to."""

from dataclasses import dataclass
from enum import Enum

from tests import faults
from tests.cosmos.server.calls import Call
from tests.cosmos.server.errors import ServiceError


class Kind(Enum):
    """What happens to a connection instead of an answer."""

    DROP = "dropped before the answer"
    CUT = "dropped in the middle of the answer"
    LOST = "done, but dropped before the answer"
    STALL = "no answer until it is released"


@dataclass(eq=False)
class Fault(faults.Fault[ServiceError | Kind]):
    """Happens to so many calls of an operation, on one range or on any."""

    range_id: str = ""
    region: str = ""

    def fits(self, call: Call) -> bool:
        """Tell whether it happens to a call."""
        return super().fits(call) and self.range_id in (call.range_id, "") and self.region in (call.region, "")
