"""Looks at the sequences of all feeds with one statement, so that feeds where nothing happens do not poll.

A feed is quiet when only a new number of its sequence can bring news: then its last number tells all. The doorbell
tells the same sooner; this is what finds a number whose ring was not heard.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import NamedTuple

import structlog

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import ChangeFeedError
from changefeed_gateway.core.supervision import Done
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
        self._failing: dict[int, None] = {}
        """Feeds whose last tick failed; the one that was tried last stands last."""

    @property
    def failing(self) -> int:
        """Feeds that nobody reads here and whose last tick failed."""
        return len(self._failing)

    async def run(self, done: Done) -> None:
        """Look for ever. Raises ChangeFeedError when the sequences cannot be seen."""
        idle_due = monotonic() + self._idle
        while True:
            await asyncio.sleep(self._between_looks)
            for feed in self._feeds():
                feed.live.let_go()
            idle = monotonic() >= idle_due
            if not idle and not any(feed.ticker.waiting for feed in self._feeds()):
                continue
            last_seqs = await self._look()
            if idle:
                await self._make_idle_ticks(last_seqs)
                idle_due = monotonic() + self._idle
            done()

    async def _look(self) -> dict[int, int]:
        """Wake or confirm every reader; the last number of each feed. Rings for all when the database fails."""
        began = monotonic()
        try:
            rows = await self._connections.fetch(SEQUENCES, {}, within=FOR_A_TICK)
        except Exception:
            for feed in self._feeds():
                feed.ticker.ring()
            raise
        found = {feed_id: facts for feed_id, *facts in rows}
        for feed in self._feeds():
            last_seq, topology, time = found.get(feed.definition.feed_id, (-1, 0, None))
            feed.ticker.compare(last_seq, topology, began, heard=feed.can_hear(), database_time=time)
        return {feed_id: last_seq for feed_id, last_seq, *_ in rows}

    async def _make_idle_ticks(self, last_seqs: dict[int, int]) -> None:
        """Give feeds that nobody reads their ticks, so that times without a reader can be started from too."""
        read = {feed.definition.feed_id for feed in self._feeds() if feed.ticker.waiting}
        self._failing = {feed_id: None for feed_id in self._failing if feed_id in last_seqs}
        # Those that failed come last, in turn: a feed whose ticks somebody holds up keeps no other from its own.
        for feed_id in [
            *(last_seqs.keys() - read - self._failing.keys()),
            *(f for f in self._failing if f not in read),
        ]:
            ticked = self._ticked.get(feed_id)
            due = ticked is None or ticked.last_seq != last_seqs[feed_id] or monotonic() >= ticked.until
            if due and not await self._tick(feed_id):
                break
        self._ticked = {feed_id: ticked for feed_id, ticked in self._ticked.items() if feed_id in last_seqs}

    async def _tick(self, feed_id: int) -> bool:
        """Make a feed's tick; whether to go on with other feeds. Who reads the feed is told by its own questions."""
        try:
            ((last_seq, quiet),) = await self._connections.fetch(TICK_OF_FEED, {"feed_id": feed_id}, within=FOR_A_TICK)
        except ChangeFeedError as error:
            if feed_id not in self._failing and not error.logged:
                _log.warning("a feed has no ticks for now", feed_id=feed_id, reason=error.reason)
            self._failing.pop(feed_id, None)
            self._failing[feed_id] = None
            self._ticked.pop(feed_id, None)
            return not error.retryable
        self._failing.pop(feed_id, None)
        if quiet:
            self._ticked[feed_id] = _Ticked(last_seq, monotonic() + self._lone_poll)
        else:
            self._ticked.pop(feed_id, None)
        return True
