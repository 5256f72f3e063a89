"""Reads what the parts of a gateway hold now, when somebody asks: it costs nothing before."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from changefeed_gateway.core.budget import PageBudget
from changefeed_gateway.core.errors import InvalidRequest
from changefeed_gateway.core.follower import Follower
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import Cursor, EntireCollection, Feed, LogicalPartition, PhysicalPartition, Scope
from changefeed_gateway.core.observation import FeedName, Measure, Measured, Observation
from changefeed_gateway.core.observed_provider import ObservedProvider
from changefeed_gateway.core.ring import Ring
from changefeed_gateway.core.ring_budget import RingBudget
from changefeed_gateway.core.streams import Progress, Standing, Streams
from changefeed_gateway.core.tails import Tails
from changefeed_gateway.core.vector import Vector

OPENING: Final = "opening"
"""The state of a stream that was not told any yet."""
_AT_ONCE: Final = 100
"""Streams that are looked at in one turn of the event loop."""
_LARGEST_VECTOR: Final = 8_192
"""Bytes of a position in many partitions up to which it is looked into: parsing a thousand takes a millisecond."""


@dataclass(slots=True)
class FeedGauges:
    """What holds of one feed now."""

    streams: Counter[str] = field(default_factory=Counter)
    """Open streams by state."""
    lag: timedelta | None = None
    """Of the stream that is furthest behind."""
    changes_behind: int | None = None
    """As `lag`."""
    expiry: timedelta | None = None
    """Until the first token of an open stream is expected to expire."""
    blocked: timedelta = timedelta(0)
    """How long the consumer that has kept a message waiting longest has done so."""
    tail_lag: timedelta | None = None
    tail_pages: int = 0
    tail_changes: int = 0
    tail_followers: int = 0


@dataclass(slots=True)
class ConnectionGauges:
    """What holds of one connection now."""

    catch_up_reads: int = 0
    """So far."""
    catch_up_under_way: int = 0
    catch_up_waiting: int = 0
    measures: Sequence[Measure] = ()


@dataclass(slots=True)
class Gauges:
    """What holds of a gateway now."""

    ring_bytes: int
    ring_limit: int
    page_bytes: int
    page_limit: int
    feeds: dict[FeedName, FeedGauges] = field(default_factory=dict)
    connections: dict[str, ConnectionGauges] = field(default_factory=dict)


class Meter:
    """Knows the parts, and reads them."""

    def __init__(
        self,
        *,
        limits: Limits,
        observation: Observation,
        streams: Streams,
        providers: Mapping[str, ObservedProvider],
        tails: Mapping[str, Tails],
        rings: RingBudget,
        pages: PageBudget,
    ) -> None:
        self._limits, self._observation, self._streams = limits, observation, streams
        self._providers, self._tails, self._rings, self._pages = providers, tails, rings, pages

    async def read(self) -> Gauges:
        """What holds now; the loop goes on between some streams and others."""
        gauges = Gauges(
            ring_bytes=self._rings.held,
            ring_limit=self._limits.ring_bytes,
            page_bytes=self._pages.held,
            page_limit=self._limits.page_budget_bytes,
        )
        for name, tails in self._tails.items():
            self._add_tails(gauges, name, tails)
        for number, progress in enumerate(self._streams):
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
            if progress.feed_name is not None:
                _add_stream(gauges.feeds.setdefault(progress.feed_name, FeedGauges()), progress)
        return gauges

    def _add_tails(self, gauges: Gauges, name: str, tails: Tails) -> None:
        provider = self._providers[name].provider
        gauges.connections[name] = ConnectionGauges(
            catch_up_reads=tails.catch_up.count,
            catch_up_under_way=tails.catch_up.under_way,
            catch_up_waiting=tails.catch_up.waiting,
            measures=tuple(provider.measures()) if isinstance(provider, Measured) else (),
        )
        for tail in tails.under_way:
            if (ring := tail.ring) is not None:
                feed = gauges.feeds.setdefault(self._observation.feed(tail.address), FeedGauges())
                feed.tail_pages += ring.pages
                feed.tail_changes += ring.changes
                feed.tail_followers += tail.followers
                feed.tail_lag = _larger(feed.tail_lag, ago(ring.watermark))

    def standing(self, progress: Progress, follower: Follower) -> Standing:
        """How far a stream is behind, by what is known without asking the database."""
        feed, scope, cursor = progress.feed, progress.scope, progress.cursor
        if feed is None or scope is None or cursor is None:
            return Standing()
        try:
            return self._place(progress, feed, scope, cursor, follower)
        except InvalidRequest:
            # In a snapshot it is a place among items, and not among changes.
            return Standing()

    def _place(self, progress: Progress, feed: Feed, scope: Scope, cursor: Cursor, follower: Follower) -> Standing:
        rings = _rings(feed, scope, cursor, follower)
        if rings is None:
            provider = self._providers[feed.address.connection].provider
            behind = provider.changes_after(feed, cursor) if isinstance(provider, Measured) else None
            return Standing(ago(progress.watermark), behind)
        key = scope.partition_key if isinstance(scope, LogicalPartition) else None
        changes = sum(ring.changes_after(place, key) for ring, place in rings)
        if changes:
            return Standing(ago(progress.watermark), changes)
        times = [ring.watermark for ring, _ in rings]
        known = [time for time in times if time is not None]
        return Standing(ago(min(known)) if known and len(known) == len(times) else None, changes)


def _rings(feed: Feed, scope: Scope, cursor: Cursor, follower: Follower) -> list[tuple[Ring, Cursor]] | None:
    """The rings that hold all that follows a cursor, each with the place in it; None where a part is not in one."""
    if feed.single_order or not isinstance(scope, EntireCollection):
        places: list[tuple[Scope, Cursor]] = [(scope, cursor)]
    elif len(cursor) > _LARGEST_VECTOR:
        return None
    else:
        vector = Vector.decode(cursor)
        if vector.waiting:
            return None
        places = [(PhysicalPartition(pid), place.cursor) for pid, place in vector.open.items()]
    rings = [(follower.ring_of(part, place), place) for part, place in places]
    found = [(ring, place) for ring, place in rings if ring is not None]
    return found if len(found) == len(rings) else None


def _add_stream(feed: FeedGauges, progress: Progress) -> None:
    feed.streams[progress.state.value if progress.state is not None else OPENING] += 1
    standing = progress.standing()
    feed.lag = _larger(feed.lag, standing.lag)
    if standing.changes is not None:
        feed.changes_behind = max(standing.changes, feed.changes_behind or 0)
    feed.blocked = max(feed.blocked, progress.blocked)
    if progress.expire_time is not None:
        left = progress.expire_time - datetime.now(UTC)
        feed.expiry = left if feed.expiry is None else min(left, feed.expiry)


def ago(time: datetime | None) -> timedelta | None:
    """How long ago a time of a database's clock was; none where that clock is ahead."""
    return None if time is None else max(datetime.now(UTC) - time, timedelta(0))


def _larger(one: timedelta | None, other: timedelta | None) -> timedelta | None:
    return other if one is None else one if other is None else max(one, other)
