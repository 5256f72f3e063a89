"""Looks at the sequences of all feeds with one statement, so that feeds where nothing happens do not poll.

A feed is quiet when only a new number of its sequence can bring news: then its last number tells all. The doorbell
tells the same sooner; this is what finds a number whose ring was not heard.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import NamedTuple

import structlog

from changefeed_gateway.core.errors import ChangeFeedError
from changefeed_gateway.providers.postgres.connections import Connections
from changefeed_gateway.providers.postgres.statements import SEQUENCES, TICK_OF_FEED
from changefeed_gateway.providers.postgres.ticks.feed import FeedTicks
from changefeed_gateway.providers.postgres.ticks.ticker import FOR_A_TICK, Cadence

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class _Ticked(NamedTuple):
    last_seq: int
    until: float


class SequenceWatch:
    """One a database and process. It wakes readers, and makes the ticks of feeds that nobody reads."""

    def __init__(
        self, connections: Connections, feeds: Callable[[], Iterable[FeedTicks]], cadence: Cadence, idle: timedelta
    ) -> None:
        """`idle` is the time between two ticks of a feed that nobody reads, while it has changes."""
        self._connections = connections
        self._feeds = feeds
        self._between_looks = min(cadence.quiet_poll, idle).total_seconds()
        self._idle = idle.total_seconds()
        self._lone_poll = cadence.lone_poll.total_seconds()
        self._ticked: dict[int, _Ticked] = {}
        self._failing = False

    async def run(self) -> None:
        """Look for ever; failures pass or are told by the readers' own questions."""
        idle_due = _now() + self._idle
        while True:
            await asyncio.sleep(self._between_looks)
            idle = _now() >= idle_due
            if not idle and not any(feed.ticker.waiting for feed in self._feeds()):
                continue
            try:
                last_seqs = await self._look()
                if idle:
                    await self._make_idle_ticks(last_seqs)
                self._failing = False
            except ChangeFeedError as error:
                if not self._failing:
                    _log.warning("the sequences of the feeds cannot be watched for now", reason=error.reason)
                self._failing = True
            if idle:
                idle_due = _now() + self._idle

    async def _look(self) -> dict[int, int]:
        """Wake or confirm every reader; the last number of each feed. Rings for all when the database fails."""
        began = _now()
        try:
            rows = await self._connections.fetch(SEQUENCES, {}, within=FOR_A_TICK)
        except ChangeFeedError:
            for feed in self._feeds():
                feed.ticker.ring()
            raise
        found = {feed_id: (last_seq, topology) for feed_id, last_seq, topology in rows}
        for feed in self._feeds():
            last_seq, topology = found.get(feed.definition.feed_id, (-1, 0))
            feed.ticker.compare(last_seq, topology, began, heard=feed.can_hear())
        return {feed_id: last_seq for feed_id, last_seq, _ in rows}

    async def _make_idle_ticks(self, last_seqs: dict[int, int]) -> None:
        """Give feeds that nobody reads their ticks, so that times without a reader can be started from too."""
        read = {feed.definition.feed_id for feed in self._feeds() if feed.ticker.waiting}
        for feed_id in last_seqs.keys() - read:
            ticked = self._ticked.get(feed_id)
            if ticked is None or ticked.last_seq != last_seqs[feed_id] or _now() >= ticked.until:
                await self._tick(feed_id)
        self._ticked = {feed_id: ticked for feed_id, ticked in self._ticked.items() if feed_id in last_seqs}

    async def _tick(self, feed_id: int) -> None:
        try:
            ((last_seq, quiet),) = await self._connections.fetch(TICK_OF_FEED, {"feed_id": feed_id}, within=FOR_A_TICK)
        except ChangeFeedError as error:
            if error.retryable:
                raise
            # The others are not to go without because of one; whoever reads it is told why.
            _log.warning("a feed has no ticks for now", feed_id=feed_id, reason=error.reason)
            self._ticked[feed_id] = _Ticked(-1, 0.0)
            return
        if quiet:
            self._ticked[feed_id] = _Ticked(last_seq, _now() + self._lone_poll)
        else:
            self._ticked.pop(feed_id, None)


def _now() -> float:
    return asyncio.get_running_loop().time()
