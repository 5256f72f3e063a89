"""What this process keeps of one life of a container: its ranges, and a reader for each interval."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.model import PageRead, PartitionId
from changefeed_gateway.core.pace import Pace
from changefeed_gateway.providers.cosmos.container import Container
from changefeed_gateway.providers.cosmos.cursor import Interval, Mode, Position, number_of
from changefeed_gateway.providers.cosmos.errors import RangeGone, lowered, moving
from changefeed_gateway.providers.cosmos.gathering import NOTHING, Gathered, gather
from changefeed_gateway.providers.cosmos.mapping import ChangeMaker
from changefeed_gateway.providers.cosmos.ranges import Part, Ranges
from changefeed_gateway.providers.cosmos.reading import (
    MOST_DOCUMENTS,
    Fetched,
    IntervalReader,
    KeptAnswers,
    lags_no_more,
)
from changefeed_gateway.providers.cosmos.sdk import Cost, Sdk

_MOST_READERS: Final = 4_096
"""That are kept. One that is gone is made anew, and asks as if something had just happened."""
MOVES: Final = 5
"""Times that a range may move within one read."""


class Advance(NamedTuple):
    """One call further."""

    found: Gathered
    end: Position
    """Behind what was found."""
    at_tip: bool
    """There was nothing more."""
    cost: Cost
    behind: bool = False
    """A replica answered that had not come to what was asked of it, so that nothing counts of what it said."""


class Life:
    """One life of one container."""

    def __init__(self, sdk: Sdk, container: Container, pace: Pace, kept: KeptAnswers | None = None) -> None:
        """`kept` is shared by all containers of an account."""
        self.sdk = sdk
        self.container = container
        self.ranges = Ranges(sdk, container.name)
        self._pace = pace
        self._kept = kept or KeptAnswers()
        self._readers: OrderedDict[Interval, IntervalReader] = OrderedDict()
        self._keys: OrderedDict[str, Interval] = OrderedDict()
        self._mode_is_on = container.mode is Mode.LATEST_VERSION

    async def check_mode(self) -> None:
        """See whether the feed can be read in its mode: asked until it can. Raises FeedNotProvisioned.

        If it is switched off later, every read says so.
        """
        for _ in range(MOVES):
            if self._mode_is_on:
                return
            try:
                # Any interval will do that lies in one range.
                await self.reader(Interval("", "00")).now()
            except RangeGone:
                continue
            self._mode_is_on = True
        if not self._mode_is_on:
            raise moving()

    def reader(self, interval: Interval) -> IntervalReader:
        """The reader of an interval."""
        reader = self._readers.get(interval)
        if reader is None:
            reader = IntervalReader(self.sdk, self.container, interval, self._pace)
            self._readers[interval] = reader
            if len(self._readers) > _MOST_READERS:
                self._readers.popitem(last=False)
        self._readers.move_to_end(interval)
        return reader

    async def interval_of(self, partition_key: str, values: Sequence[Any]) -> Interval:
        """Where the changes of a logical partition lie."""
        interval = self._keys.get(partition_key)
        if interval is None:
            hierarchical = len(self.container.paths) > 1
            interval = await self.sdk.interval_of(self.container.name, values, hierarchical=hierarchical)
            self._keys[partition_key] = interval
            if len(self._keys) > _MOST_READERS:
                self._keys.popitem(last=False)
        return interval

    async def parts_of(self, interval: Interval) -> tuple[list[Part], Cost]:
        """What the ranges that there are now make of an interval. Raises TransientFailure."""
        listing = await self.ranges.listing()
        if not (parts := listing.parts_of(interval)):
            raise moving()
        return parts, listing.cost

    async def advance(
        self, position: Position, partition_id: PartitionId, read: PageRead, *, items: bool = False, bound: int = 0
    ) -> Advance:
        """Read what follows a position with one call, as far as it fits into a page; `items`: as those of a snapshot.

        `bound`: a number to which the replica that answers must have come. Raises CheckpointExpired, HistoryGap,
        RangeGone and the errors of the service.
        """
        waiting, container = bool(read.max_wait), self.container
        # All who wait at a place ask for the same.
        limit = MOST_DOCUMENTS if waiting else min(read.max_changes + position.passed, MOST_DOCUMENTS)
        fetched = self._find_kept(position, bound)
        if fetched is None:
            reader = self.reader(position.interval)
            fetched = await reader.fetch(position, limit, join=waiting, more=not self._kept.crowded)
        if 0 < fetched.reached < bound:
            return Advance(NOTHING, position, False, fetched.cost, behind=True)
        maker = ChangeMaker(container.rid, container.paths, container.mode, partition_id, items=items)
        found = await gather(fetched.documents, position, maker, container.mode, read)
        if not found.whole:
            self._kept.keep(container.rid, position, fetched)
            return Advance(found, found.positions[-1], False, fetched.cost)
        end = found.positions[-1] if found.positions else position
        # All of it is in a page now.
        self._kept.forget(container.rid, position)
        end = end.at(fetched.etag, found.last_lsn, self._age(position, fetched))
        return Advance(found.ending(end), end, fetched.at_tip, fetched.cost)

    def _age(self, position: Position, fetched: Fetched) -> int:
        """How old what follows an answer may be at most. Raises HistoryGap.

        P5: a replica that tells a lower number than the position's knows nothing of what follows.
        """
        if not fetched.at_tip or not 0 < number_of(fetched.etag) < position.lsn:
            return fetched.as_of
        if lags_no_more(position.as_of, fetched.told_at):
            raise lowered()
        return 0

    def _find_kept(self, position: Position, bound: int) -> Fetched | None:
        """What was kept for who goes on from a position.

        Of latest versions only who has had a part of an answer is given the rest, and a snapshot nothing that is older
        than itself: an item that it tells of may have been deleted since, and nobody would be told so.
        """
        kept = self._kept.find(self.container.rid, position)
        if kept is None or self.container.mode is Mode.ALL_VERSIONS_AND_DELETES:
            return kept
        counts = kept.told_at >= position.as_of and not 0 < kept.reached < bound
        return kept if position.passed and counts else None

    async def rest(self, positions: Sequence[Position], deadline: float) -> bool:
        """Wait until it is time to ask for what follows one of some positions; tell whether the deadline came first."""
        while (pause := min(self._delay(positions), deadline - monotonic())) > 0:  # noqa: ASYNC110 - others ask meanwhile
            await asyncio.sleep(pause)
        return monotonic() >= deadline

    def _delay(self, positions: Sequence[Position]) -> float:
        return min(self.reader(position.interval).delay(position) for position in positions)

    def close(self) -> None:
        """End what is under way; who waits is told so."""
        self.ranges.close()
        for reader in self._readers.values():
            reader.close()
