"""Counts what is asked of a provider, and whether it still answers."""

import math
from collections.abc import Awaitable, Sequence
from typing import Final, TypeVar

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import ChangeFeedError, ProviderAccessFailed, Reason, TransientFailure
from changefeed_gateway.core.model import Address, Feed, Page, PageRead, Partition, Start
from changefeed_gateway.core.observation import ConnectionCounts, Measured, ReadTrace
from changefeed_gateway.core.provider import Provider

KEEPS_FAILING: Final = 2.0
"""Seconds for which the reads of a feed have failed, without one that succeeded: then it does not move."""
ANSWERED_JUST_NOW: Final = 1.2
"""Seconds."""
_FORGOTTEN_AFTER: Final = 30.0
"""Seconds without a further failure: nobody reads the feed any more."""

_Answer = TypeVar("_Answer")


class _Failing:
    __slots__ = ("last", "problem", "since")

    def __init__(self, now: float) -> None:
        self.since = self.last = now
        self.problem = ""


class ObservedProvider:
    """A provider as the router asks it. Implements `changefeed_gateway.core.provider.Provider`."""

    def __init__(
        self, provider: Provider, connection: str, counts: ConnectionCounts, trace: ReadTrace | None = None
    ) -> None:
        """`trace` is told of each question after it, within the context of who asked."""
        self.provider = provider
        self._connection, self._counts, self._trace = connection, counts, trace
        self._failing: dict[Address, _Failing] = {}
        self._answered_at = -math.inf

    @property
    def provider_id(self) -> str:
        """The provider's name."""
        return self.provider.provider_id

    async def start(self) -> None:
        """See `Provider.start`."""
        await self.provider.start()

    async def open_feed(self, address: Address) -> Feed:
        """See `Provider.open_feed`."""
        return await self._asked("open_feed", self.provider.open_feed(address))

    async def list_partitions(self, feed: Feed, start: Start | None = None) -> Sequence[Partition]:
        """See `Provider.list_partitions`."""
        return await self._asked("list_partitions", self.provider.list_partitions(feed, start))

    async def read_page(self, feed: Feed, read: PageRead) -> Page:
        """See `Provider.read_page`."""
        began = monotonic()
        counts = self._counts
        try:
            page = await self.provider.read_page(feed, read)
        except Exception as error:
            self._failed("read_page", began, error)
            self._note_failure(feed.address, error)
            raise
        counts.answered["read_page"] += 1
        counts.page(page)
        if self._failing:
            self._failing.pop(feed.address, None)
        if not read.max_wait:
            self._answered_at = monotonic()
            counts.of("read_page").seconds.observe(self._answered_at - began)
        if self._trace is not None and (page.changes or not read.max_wait):
            self._trace(self._connection, "read_page", monotonic() - began, page, None)
        return page

    async def ping(self) -> None:
        """See `Provider.ping`; raises TransientFailure too while the reads of a feed keep failing.

        A provider without tasks of its own is not asked when it has just answered something: what its database's
        service is asked for may cost money, or be rationed.
        """
        if isinstance(self.provider, Measured) or monotonic() - self._answered_at > ANSWERED_JUST_NOW:
            await self.provider.ping()
            self._answered_at = monotonic()
        now = monotonic()
        for address, failing in list(self._failing.items()):
            if now - failing.last > _FORGOTTEN_AFTER:
                del self._failing[address]
            elif now - failing.since >= KEEPS_FAILING:
                raise TransientFailure(f"the feed of {address.collection!r} does not move: {failing.problem}")

    async def aclose(self) -> None:
        """See `Provider.aclose`."""
        await self.provider.aclose()

    async def _asked(self, operation: str, question: Awaitable[_Answer]) -> _Answer:
        began = monotonic()
        try:
            answer = await question
        except Exception as error:
            self._failed(operation, began, error)
            raise
        self._answered_at = monotonic()
        self._counts.answered[operation] += 1
        self._counts.of(operation).seconds.observe(self._answered_at - began)
        if self._trace is not None:
            self._trace(self._connection, operation, monotonic() - began, None, None)
        return answer

    def _failed(self, operation: str, began: float, error: Exception) -> None:
        reason = error.reason if isinstance(error, ChangeFeedError) else Reason.INTERNAL.value
        self._counts.of(operation).errors[reason] += 1
        if self._trace is not None:
            self._trace(self._connection, operation, monotonic() - began, None, error)

    def _note_failure(self, address: Address, error: Exception) -> None:
        # What one reader asked for wrongly, or too late, says nothing of the feed.
        if isinstance(error, TransientFailure | ProviderAccessFailed):
            now = monotonic()
            failing = self._failing.setdefault(address, _Failing(now))
            failing.last, failing.problem = now, error.reason
