"""The partition key ranges of a container, and what they make of an interval that is read."""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.model import Partition, PartitionId, PartitionState
from changefeed_gateway.core.refusals import ForTheCaller
from changefeed_gateway.core.shared import SharedQuestion
from changefeed_gateway.providers.cosmos.cursor import EVERYTHING, Interval
from changefeed_gateway.providers.cosmos.errors import moving
from changefeed_gateway.providers.cosmos.sdk import FREE, Cost, Sdk

_RECENT: Final = 60.0
"""Seconds for which a listing will do for who only wants to know where a key lies."""
_LOOKS: Final = (0.0, 0.05, 0.1, 0.2, 0.4)
"""Seconds before each look at ranges that come and go."""
_PART: Final = re.compile(r"(\d{1,20}):([0-9A-F]{0,400})-([0-9A-F]{1,400})")


class Part(NamedTuple):
    """A physical partition to a reader: a range, or what a reader of an earlier range has left of one."""

    partition_id: PartitionId
    interval: Interval


class Range(NamedTuple):
    """One partition key range of a listing."""

    range_id: str
    interval: Interval
    ancestors: tuple[str, ...]
    """All of them, however long ago."""

    def part(self, interval: Interval) -> Part | None:
        """What it has in common with an interval."""
        common = self.interval.common(interval)
        if common is None:
            return None
        whole = common == self.interval
        name = self.range_id if whole else f"{self.range_id}:{common.low}-{common.high}"
        return Part(PartitionId(name), common)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The ranges that a container has now: they hold its whole history, also that of the ranges before them."""

    ranges: Sequence[Range]
    """By their intervals."""
    cost: Cost = FREE

    def partitions(self) -> list[Partition]:
        """The ranges as the core knows them, behind those that they descend from.

        A retired range has nothing of its own: who reads it is sent on to those that have its changes.
        """
        retired = sorted({ancestor for found in self.ranges for ancestor in found.ancestors}, key=_age)
        return [
            *(Partition(partition_id=PartitionId(each), state=PartitionState.RETIRED) for each in retired),
            *(
                Partition(
                    partition_id=PartitionId(found.range_id),
                    parents=tuple(PartitionId(each) for each in found.ancestors),
                )
                for found in self.ranges
            ),
        ]

    def interval_of(self, partition_id: str) -> Interval | None:
        """What is to be read for a partition; None where it is retired, or unknown."""
        if (match := _PART.fullmatch(partition_id)) is not None:
            range_id, low, high = match.groups()
            known = self.interval_of(range_id) is not None or self.descendants_of(range_id)
            return Interval(low, high) if known and low < high else None
        return next((found.interval for found in self.ranges if found.range_id == partition_id), None)

    def descendants_of(self, partition_id: str) -> list[Part]:
        """The ranges that have the changes of a retired one."""
        heirs = [found for found in self.ranges if partition_id in found.ancestors]
        return [Part(PartitionId(found.range_id), found.interval) for found in heirs]

    def parts_of(self, interval: Interval) -> list[Part]:
        """What the ranges make of an interval; nothing while they do not cover it."""
        parts = [part for found in self.ranges if (part := found.part(interval)) is not None]
        edges = [interval.low, *(part.interval.high for part in parts)]
        covered = edges[:-1] == [part.interval.low for part in parts] and edges[-1] == interval.high
        return parts if covered else []

    def home_of(self, interval: Interval) -> PartitionId | None:
        """The range in which an interval lies whole."""
        homes = (found.range_id for found in self.ranges if interval.within(found.interval))
        return next(map(PartitionId, homes), None)


def _age(range_id: str) -> tuple[int, str]:
    """Ids are numbers, and those of children are higher."""
    return (int(range_id), "") if range_id.isdecimal() and len(range_id) < 20 else (0, range_id)


def listing_of(described: Iterable[Mapping[str, Any]], cost: Cost = FREE) -> Listing:
    """Read a container's partition key ranges."""
    ranges = [
        Range(each["id"], Interval(each["minInclusive"], each["maxExclusive"]), tuple(each.get("parents") or ()))
        for each in described
    ]
    return Listing(ranges=sorted(ranges, key=lambda found: found.interval), cost=cost)


class Ranges:
    """The listings of one container."""

    def __init__(self, sdk: Sdk, container: str) -> None:
        self._sdk = sdk
        self._container = container
        self._questions = SharedQuestion[Listing](goes_on=True, foreseen=ForTheCaller)
        self._last: Listing | None = None
        self._listed_at = 0.0

    async def listing(self) -> Listing:
        """The ranges as they are now, without a gap, shared by all who ask before the question is put.

        A reader from now on would never learn of one that is missing. Raises TransientFailure while one is.
        """
        return await self._questions.ask("listing", self._list)

    async def recent(self) -> Listing:
        """A listing that may be a minute old."""
        if self._last is None or monotonic() > self._listed_at + _RECENT:
            return await self.listing()
        return self._last

    async def _list(self) -> Listing:
        cost = FREE
        for pause in _LOOKS:
            await asyncio.sleep(pause)
            described, another = await self._sdk.list_ranges(self._container)
            cost = cost.plus(another)
            listing = listing_of(described, cost)
            if listing.parts_of(EVERYTHING):
                self._last, self._listed_at = listing, monotonic()
                return listing
        raise moving()

    def close(self) -> None:
        """End what is under way; who waits is told so."""
        self._questions.close()
