"""Faults that are waiting for a call to happen to."""

from dataclasses import dataclass
from enum import Enum

from tests import faults
from tests.dynamodb.server.calls import Call
from tests.dynamodb.server.errors import ServiceError


class Kind(Enum):
    """What happens to a connection instead of an answer."""

    DROP = "dropped before the answer"
    CUT = "dropped in the middle of the answer"
    STALL = "no answer until it is released"


@dataclass(eq=False)
class Fault(faults.Fault[ServiceError | Kind]):
    """Happens to so many calls of an operation, on one shard or on any."""

    shard_id: str = ""

    def fits(self, call: Call) -> bool:
        """Tell whether it happens to a call."""
        return super().fits(call) and self.shard_id in (call.shard_id, "")
