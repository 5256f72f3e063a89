"""One partition key range: an interval of effective partition keys, and the changes in it."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.cosmos.server.change import Change
from tests.cosmos.server.partition_key import MAX_EPK, MIN_EPK


@dataclass(kw_only=True, eq=False)
class PkRange:
    """Takes the changes of the items whose effective partition key is at least `low` and below `high`."""

    range_id: str
    rid: str
    low: str
    high: str
    version: int
    """Of the listing that showed it first."""
    parents: list[str] = field(default_factory=list)
    """All ancestors."""
    log: list[Change] = field(default_factory=list)
    """By lsn; a child has the changes of its parents that lie in its interval."""
    lsn: int = 0
    """Of the latest transaction."""
    merged_at: int = 0
    """The lsn with which it was merged from others; 0 if it was not."""
    horizon: int = 0
    """AllVersionsAndDeletes cannot be read from before this lsn."""

    def describe(self) -> dict[str, Any]:
        """The range as a listing shows it."""
        return {
            "_rid": self.rid,
            "id": self.range_id,
            "_etag": f'"{self.version}"',
            "minInclusive": self.low,
            "maxExclusive": self.high,
            "ridPrefix": int(self.range_id),
            "throughputFraction": 1,
            "status": "online",
            "parents": self.parents,
            "_ts": 0,
            "_lsn": self.lsn,
        }

    @property
    def headers(self) -> dict[str, str]:
        """What an answer from the range says: where it is from, and what a client shows to read its own writes."""
        return {
            "x-ms-documentdb-partitionkeyrangeid": self.range_id,
            "x-ms-session-token": f"{self.range_id}:-1#{self.lsn}",
        }

    def as_of(self, lsn: int) -> "PkRange":
        """The range as a replica knows it that has come to an lsn only."""
        log = [replace(change, superseded=False) for change in self.log if change.lsn <= lsn]
        last = {(change.epk, change.item_id): change for change in log}
        for change in log:
            change.superseded = last[change.epk, change.item_id] is not change
        return replace(self, log=log, lsn=lsn)

    def covers(self, epk: str) -> bool:
        """Tell whether an effective partition key lies inside."""
        return self.low <= epk < self.high

    def after(
        self, position: int, limit: int, wanted: Callable[[Change], bool], low: str = MIN_EPK, high: str = MAX_EPK
    ) -> list[Change]:
        """The wanted changes behind an lsn in an interval; beyond the limit only to the end of a transaction."""
        found: list[Change] = []
        for change in self.log[bisect_right(self.log, position, key=lambda change: change.lsn) :]:
            if len(found) >= limit and change.lsn != found[-1].lsn:
                break
            if low <= change.epk < high and wanted(change):
                found.append(change)
        return found
