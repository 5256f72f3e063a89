"""The open streams of a gateway: who reads what, since when, how far behind, how fast."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import Context
from datetime import UTC, datetime, timedelta
from itertools import count
from types import TracebackType
from typing import Final, NamedTuple

from changefeed_gateway.core.answer import (
    Batch,
    Closing,
    Heartbeat,
    Opened,
    StateChanged,
    StreamItem,
    SubscriptionState,
)
from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import ChangeFeedError
from changefeed_gateway.core.model import Cursor, Feed, Scope
from changefeed_gateway.core.observation import Delivered, FeedName, Observation

_METHOD: Final = "Subscribe"
_SAMPLED_EVERY: Final = 5.0
"""Seconds: rates are those of the last one to two of these."""


class Standing(NamedTuple):
    """How far a stream is behind."""

    lag: timedelta | None = None
    """Everything committed longer ago has been delivered; None where the provider knows no such time."""
    changes: int | None = None
    """At most how many changes are still to come; None where that is not known without asking the database."""


class Progress:
    """One stream, as far as its consumer has taken it."""

    __slots__ = (
        "__weakref__",
        "_observation",
        "_totals",
        "began",
        "bytes",
        "caller",
        "closing",
        "cursor",
        "events",
        "expire_time",
        "feed",
        "feed_name",
        "messages",
        "number",
        "principal",
        "request_id",
        "samples",
        "scope",
        "standing",
        "state",
        "watermark",
        "writing_since",
    )

    def __init__(self, observation: Observation, number: int, request_id: str, caller: str, principal: str) -> None:
        """`caller` is the host that called; `principal` who it says it is, empty where nobody asked."""
        self.number, self.request_id, self.caller, self.principal = number, request_id, caller, principal
        self.began = datetime.now(UTC)
        self.feed: Feed | None = None
        """None until the stream is open."""
        self.feed_name: FeedName | None = None
        self.scope: Scope | None = None
        self.state: SubscriptionState | None = None
        self.cursor: Cursor | None = None
        """After all that was taken."""
        self.watermark: datetime | None = None
        self.expire_time: datetime | None = None
        self.events = self.bytes = self.messages = 0
        self.closing = ""
        """The reason that was told."""
        self.writing_since: Callable[[], float | None] = _not_at_all
        """On the loop's clock, since when a message waits for the consumer."""
        self.standing: Callable[[], Standing] = Standing
        """How far it is behind now."""
        self.samples = [(monotonic(), 0)]
        self._observation = observation
        self._totals = Delivered()

    def opened(self, feed: Feed) -> None:
        """The collection exists."""
        self.feed = feed
        self.feed_name = self._observation.feed(feed.address)
        self._totals = self._observation.delivered_of(self.feed_name, _METHOD)

    def took(self, item: StreamItem, size: int) -> None:
        """The consumer took an item of so many bytes."""
        self.messages += 1
        self.bytes += size
        events = 0
        if isinstance(item, Batch):
            events = len(item.records)
            self.events += events
            self.expire_time = item.expire_time
            if item.watermark is not None:
                self.watermark = item.watermark
        elif isinstance(item, Heartbeat):
            self.expire_time = item.expire_time
            self.watermark = item.watermark or self.watermark
        elif isinstance(item, StateChanged):
            self.state = item.state
        elif isinstance(item, Opened):
            self.expire_time = item.expire_time
            self.opened(item.feed)
        elif isinstance(item, Closing):
            self.closing = item.reason.value
        self._totals.count(events, size)

    @property
    def events_per_second(self) -> float:
        """Of the last seconds."""
        (since, before), now = self.samples[0], monotonic()
        return (self.events - before) / (now - since) if now > since else 0.0

    @property
    def blocked(self) -> timedelta:
        """How long a message has waited for the consumer."""
        since = self.writing_since()
        return timedelta(0) if since is None else timedelta(seconds=monotonic() - since)

    def sample(self, now: float) -> None:
        """Take note of how much was delivered by now."""
        self.samples = [self.samples[-1], (now, self.events)]


def _not_at_all() -> float | None:
    return None


class _Opening:
    __slots__ = ("_progress", "_streams")

    def __init__(self, streams: "Streams", progress: Progress) -> None:
        self._streams, self._progress = streams, progress

    def __enter__(self) -> Progress:
        self._streams._opened(self._progress)
        return self._progress

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = "failed" if isinstance(error, ChangeFeedError) else "cancelled"
        self._streams._ended(self._progress, end if error is not None else self._progress.closing or end)


class Streams:
    """Those that are open."""

    def __init__(self, observation: Observation) -> None:
        self._observation = observation
        self._open: dict[int, Progress] = {}
        self._numbers = count(1)
        self._timer: asyncio.TimerHandle | None = None

    def __iter__(self) -> Iterator[Progress]:
        """In the order in which they were opened."""
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)

    def opening(self, request_id: str, caller: str, principal: str = "") -> AbstractContextManager[Progress]:
        """A stream, open as long as the context lasts."""
        return _Opening(self, Progress(self._observation, next(self._numbers), request_id, caller, principal))

    def _opened(self, progress: Progress) -> None:
        self._open[progress.number] = progress
        self._keep_sampling()

    def _ended(self, progress: Progress, end: str) -> None:
        del self._open[progress.number]
        # Each holds what knows the stream: without this only the garbage collector would find them.
        progress.standing, progress.writing_since = Standing, _not_at_all
        if progress.feed_name is not None:
            self._observation.ended[progress.feed_name, end] += 1

    def _keep_sampling(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            # In a context of its own: what is sampled belongs to no call.
            self._timer = loop.call_later(_SAMPLED_EVERY, self._sample, context=Context())

    def _sample(self) -> None:
        self._timer = None
        now = monotonic()
        for progress in self._open.values():
            progress.sample(now)
        if self._open:
            self._keep_sampling()
