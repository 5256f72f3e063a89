"""What part of a container a request reads."""

from typing import NamedTuple

from tests.cosmos.server.container import Container
from tests.cosmos.server.errors import gone, invalid
from tests.cosmos.server.message import Request
from tests.cosmos.server.partition_key import MAX_EPK, MIN_EPK
from tests.cosmos.server.pk_range import PkRange


class Place(NamedTuple):
    """An interval of effective partition keys, in a partition key range or in all of them."""

    home: PkRange
    low: str
    high: str
    is_chosen: bool
    """Whether the request names any place at all."""

    @classmethod
    def of(cls, request: Request, container: Container) -> "Place":
        """Read the headers. Raises BadRequest, and Gone for a range that is not online."""
        low, high, is_key = _interval(request, container)
        range_id = request.call().range_id
        if range_id:
            if range_id not in container.ranges:
                raise gone()
            home = container.ranges[range_id]
            return cls(home, max(low, home.low), min(high, home.high), True)
        return cls(container.range_of(low), low, high, is_key)

    def holds(self, epk: str) -> bool:
        """Tell whether an effective partition key lies inside."""
        return self.low <= epk < self.high


def _interval(request: Request, container: Container) -> tuple[str, str, bool]:
    headers = request.headers
    if "x-ms-start-epk" in headers or "x-ms-end-epk" in headers:
        if headers.get("x-ms-read-key-type") != "EffectivePartitionKeyRange":
            raise invalid("An effective partition key needs x-ms-read-key-type.")
        return headers.get("x-ms-start-epk", MIN_EPK), headers.get("x-ms-end-epk", MAX_EPK), True
    if "x-ms-documentdb-partitionkey" in headers:
        key = container.definition.read(headers["x-ms-documentdb-partitionkey"])
        epk = container.definition.epk(key)
        return epk, f"{epk}{MAX_EPK}", True
    return MIN_EPK, MAX_EPK, False
