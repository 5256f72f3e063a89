"""One query that follows the end of a partition, and what it brought last, for whoever waits there."""

import asyncio
import copy
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from typing import TYPE_CHECKING, Final

import structlog

from changefeed_gateway.core.cancellation import cut_short
from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import ChangeFeedError, InternalFailure
from changefeed_gateway.core.refusals import ForTheCaller
from changefeed_gateway.core.retries import passes_soon
from changefeed_gateway.core.shared import own
from changefeed_gateway.providers.spanner.cursor import Position
from changefeed_gateway.providers.spanner.errors import silent_end
from changefeed_gateway.providers.spanner.query import StreamQueries
from changefeed_gateway.providers.spanner.records import Children, DataRecord, Descendant, Heartbeat, Record

if TYPE_CHECKING:
    from changefeed_gateway.providers.spanner.reading import Pace

_MOST_RECORDS: Final = 2_000
_MOST_SIZE: Final = 4_000_000
"""Characters of values. Who is further behind looks for itself."""
_LIFE_AFTER_RENEWAL: Final = 300.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Follower:
    """Follows a partition from a time on, as long as somebody listens and a little longer.

    Never held up by who listens: of what it brought it keeps the last part, and a listener that is behind that looks
    for itself.
    """

    def __init__(self, queries: StreamQueries, token: str, start: int, pace: "Pace") -> None:
        self.reached = start
        """Everything up to then was given, in nanoseconds."""
        self.children: tuple[Descendant, ...] = ()
        """What goes on once the partition has ended."""
        self._error: Exception | None = None
        self._queries, self._token, self._pace = queries, token, pace
        self._retries = queries.sdk.retries
        self._silence = queries.heartbeat + self._retries.answer_timeout.total_seconds()
        self._floor = start
        """Every record from then on is kept here."""
        self._position = Position(start)
        self._records: list[DataRecord] = []
        self._times: list[int] = []
        self._size = 0
        self._listeners = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._leaving: asyncio.TimerHandle | None = None
        # Outside the context of the call that came first: its request id is not the follower's.
        self._task = asyncio.create_task(self._run(), context=Context())
        self._task.add_done_callback(lambda _: self._wake())

    @property
    def active(self) -> bool:
        """Whether its query is open, or will be again."""
        return not self._task.done()

    @property
    def over(self) -> bool:
        """Whether it brings nothing more, so that nobody new should listen, unless the partition has ended."""
        return self._task.done() and not self.children

    def covers(self, time: int) -> bool:
        """Whether nothing that lies at or after a time is missing here."""
        return time >= self._floor

    def since(self, time: int) -> Iterator[DataRecord]:
        """What it brought from a time on."""
        return iter(self._records[bisect_left(self._times, time) :])

    def check(self) -> None:
        """Raise what ended it, if something did."""
        if isinstance(self._error, ChangeFeedError):
            raise own(self._error)
        if self._error is not None:
            raise copy.copy(self._error)
        if self._task.done() and not self.children:
            raise cut_short()

    async def changed(self, seconds: float) -> None:
        """Wait until there is something new, or for some seconds."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(max(0.0, seconds), _resolve, waiter)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep it going."""
        self._listeners += 1
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        try:
            yield
        finally:
            self._listeners -= 1
            if not self._listeners:
                loop = asyncio.get_running_loop()
                self._leaving = loop.call_later(self._pace.linger.total_seconds(), self.close)

    def close(self) -> None:
        """End it, and let go of what it kept; idempotent. Who waits is told so."""
        if self._leaving is not None:
            self._leaving.cancel()
        self._task.cancel()
        # P1: with the records goes the claim to cover their times.
        self._floor = self.reached + 1
        self._records.clear()
        self._times.clear()
        self._size = 0

    # --- Inside

    async def _run(self) -> None:
        failures = 0
        while not self.children:
            before = self._position
            try:
                await self._follow()
                if self._position == before and not self.children:
                    # An endless query that ends has said nothing about the partition: it is asked again.
                    raise silent_end()
                failures = 0
            except (ChangeFeedError, ForTheCaller) as error:
                failures = failures + 1 if self._position == before else 1
                if not passes_soon(error) or failures >= self._retries.attempts:
                    self._error = error
                    return
                await self._retries.pause(failures)
            except Exception as error:
                _log.exception("a query that follows a partition failed unexpectedly")
                self._error = InternalFailure("a query that follows a partition failed unexpectedly")
                self._error.__cause__ = error
                return

    async def _follow(self) -> None:
        """Read one query until it ends, or is due to be made anew."""
        renewal = self._pace.renewal.total_seconds()
        ends = monotonic() + renewal
        query = await self._queries.open(self._token, self.reached, None, life=renewal + _LIFE_AFTER_RENEWAL)
        try:
            found: list[Descendant] = []
            while monotonic() < ends or found:
                records = await query.records(self._silence)
                if records is None:
                    self.children = tuple(found)
                    return
                found += self._take(records)
                del records  # it would be held for as long as nothing follows
                self._wake()
        finally:
            query.close()

    def _take(self, records: Sequence[Record]) -> list[Descendant]:
        found: list[Descendant] = []
        for record in records:
            match record:
                case Children(partitions):
                    found += partitions
                case Heartbeat(time):
                    self._position = self._position.heard(time)
                case DataRecord():
                    self._add(record)
        self.reached = self._position.time
        return found

    def _add(self, record: DataRecord) -> None:
        identity = record.time, record.transaction, record.record
        if self._position.passed(*identity):
            return
        self._position = self._position.after(*identity)
        self._records.append(record)
        self._times.append(record.time)
        self._size += record.size
        if len(self._records) > _MOST_RECORDS or self._size > _MOST_SIZE:
            self._forget()

    def _forget(self) -> None:
        """Let the older half go."""
        half = len(self._records) // 2 + 1
        self._floor = self._times[half - 1] + 1
        self._size -= sum(record.size for record in self._records[:half])
        del self._records[:half], self._times[:half]

    def _wake(self) -> None:
        for waiter in self._waiters:
            _resolve(waiter)


def _resolve(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
