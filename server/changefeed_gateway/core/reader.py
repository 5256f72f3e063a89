"""Reads straight from a provider: one read one answer, with patience in its outages, or shared while catching up."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Final, Protocol, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential_jitter

from changefeed_gateway.core.answer import ChangeEncoder
from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import ChangeFeedError, Throttled
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import After, Feed, Page, PageRead
from changefeed_gateway.core.page import EncodedPage, Reader
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.core.shared import SharedQuestion
from changefeed_gateway.core.token import fingerprint

_T = TypeVar("_T")

_FIRST_PAUSE: Final = timedelta(milliseconds=50)
_PAUSES: Final = wait_exponential_jitter(multiplier=0.05, max=2.0, jitter=0.1)


class DirectReader:
    """Reads pages from a provider; a read that waits answers at once when the gateway drains."""

    def __init__(self, provider: Provider, encoder: ChangeEncoder) -> None:
        self._provider = provider
        self._encoder = encoder
        self._draining = False
        self._undrained: set[asyncio.Future[None]] = set()
        """Of each read that a drain cuts short, what it waits for."""
        self._abandoned: set[asyncio.Task[EncodedPage]] = set()

    @property
    def draining(self) -> bool:
        """Whether `begin_drain` was called."""
        return self._draining

    def begin_drain(self) -> None:
        """Let every waiting read answer at once, now and from now on."""
        self._draining = True
        for over in self._undrained:
            _resolve(over)

    async def read(self, feed: Feed, read: PageRead) -> EncodedPage:
        """Like `Provider.read_page`."""
        if read.max_wait and isinstance(read.start, After):
            nothing = nothing_after(read.start, more_available=False)
            return await self.unless_draining(self.read_through(feed, read), nothing)
        return await self.read_through(feed, read)

    async def read_through(self, feed: Feed, read: PageRead) -> EncodedPage:
        """As `read`, whether the gateway drains or not."""
        return EncodedPage.of(feed, await self._provider.read_page(feed, read), self._encoder)

    async def unless_draining(self, work: Coroutine[None, None, EncodedPage], otherwise: EncodedPage) -> EncodedPage:
        """The page that some work brings, or another one as soon as the gateway drains."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        reading = loop.create_task(_do(work, over))
        self._undrained.add(over)
        if self._draining:
            # Behind the first step of the work, which may be all of it.
            loop.call_soon(_resolve, over)
        try:
            await over
        except asyncio.CancelledError:
            await _end(reading)
            raise
        finally:
            self._undrained.discard(over)
        if reading.done():
            return reading.result()
        # A database that does not answer does not hold up the drain either.
        reading.cancel()
        self._abandoned.add(reading)
        reading.add_done_callback(self._forget)
        return otherwise

    def _forget(self, reading: "asyncio.Task[EncodedPage]") -> None:
        self._abandoned.discard(reading)
        if not reading.cancelled():
            reading.exception()

    async def aclose(self) -> None:
        """Wait for the reads that the drain cut short."""
        if self._abandoned:
            await asyncio.wait(set(self._abandoned))


def _resolve(over: "asyncio.Future[None]") -> None:
    """Unless it is resolved already."""
    if not over.done():
        over.set_result(None)


async def _do(work: Coroutine[None, None, _T], over: "asyncio.Future[None]") -> _T:
    try:
        return await work
    finally:
        # Not by a callback of the task, which would be called a turn of the loop later.
        _resolve(over)


async def _end(task: "asyncio.Task[_T]") -> None:
    """Cancel a task and wait until it has ended; what it brought or raised does not matter."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


class ReaderOfOwnTask:
    """Reads for a task that is cancelled when the gateway drains: its reads wait in it, and need none of their own."""

    def __init__(self, direct: DirectReader) -> None:
        self._direct = direct

    def read(self, feed: Feed, read: PageRead) -> Coroutine[None, None, EncodedPage]:
        """Like `Provider.read_page`."""
        return self._direct.read_through(feed, read)

    @property
    def draining(self) -> bool:
        """Whether the gateway is closing its streams."""
        return self._direct.draining


class SharedReader:
    """Reads of streams that are not at a tail: equal ones as one, and few at a time, in the order they were asked for.

    So those that resume from one token cost one read, and however many catch up, the tails find the provider free.
    """

    def __init__(self, direct: DirectReader, limits: Limits) -> None:
        self.count = 0
        """Reads so far."""
        self._direct = direct
        self._question: SharedQuestion[EncodedPage] = SharedQuestion(at_once=limits.max_catch_up_reads)

    async def read(self, feed: Feed, read: PageRead) -> EncodedPage:
        """Like `Provider.read_page`, for reads that do not wait for changes."""
        asking = self._question.ask((fingerprint(feed), feed.item_state, read), lambda: self._read(feed, read))
        if read.max_changes and isinstance(read.start, After):
            return await self._direct.unless_draining(asking, nothing_after(read.start, more_available=True))
        return await asking

    @property
    def under_way(self) -> int:
        """Reads that the provider is asked now."""
        return self._question.under_way

    @property
    def waiting(self) -> int:
        """Reads that wait for their turn."""
        return self._question.waiting

    async def _read(self, feed: Feed, read: PageRead) -> EncodedPage:
        self.count += 1
        page = await self._direct.read(feed, read)
        # Encoded in its turn: what several catch up with takes no more of the loop at once than of the provider.
        await page.encode(items=read.items)
        return page

    @property
    def draining(self) -> bool:
        """Whether the gateway is closing its streams."""
        return self._direct.draining

    async def aclose(self) -> None:
        """Send away whoever waits."""
        await self._question.aclose()


class _DrainingReader(Reader, Protocol):
    @property
    def draining(self) -> bool: ...


class PatientReader:
    """Sits out a provider's short outages, so that a stream survives them."""

    def __init__(self, reader: _DrainingReader, limits: Limits) -> None:
        self._reader = reader
        self._limits = limits

    async def read(self, feed: Feed, read: PageRead) -> EncodedPage:
        """Like `Provider.read_page`; a retryable error surfaces only after `Limits.outage_patience`.

        Who throttles is not asked again before the time that it names: where less patience is left, its error surfaces.
        """
        until = monotonic() + self._limits.outage_patience.total_seconds()
        try:
            # Nearly always the only time, and making a retry takes longer than the gateway's part of a read.
            return await self._reader.read(feed, read)
        except ChangeFeedError as error:
            if not self._may_pass(error) or monotonic() + _asked_for(error) >= until:
                raise
            pause = max(_FIRST_PAUSE.total_seconds(), _asked_for(error))
        await asyncio.sleep(pause)
        retrying = AsyncRetrying(
            sleep=asyncio.sleep,
            retry=retry_if_exception(self._may_pass),
            wait=lambda state: max(_PAUSES(state), _asked_for(_failure(state))),
            stop=lambda state: monotonic() + _asked_for(_failure(state)) >= until,
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                return await self._reader.read(feed, read)
        raise AssertionError("unreachable: the last attempt re-raises")

    def _may_pass(self, error: BaseException) -> bool:
        return isinstance(error, ChangeFeedError) and error.retryable and not self.draining

    @property
    def draining(self) -> bool:
        """Whether the gateway is closing its streams."""
        return self._reader.draining


def _failure(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _asked_for(error: BaseException | None) -> float:
    """Seconds for which a service that throttles wants to be left alone; what is away cannot know when it is back."""
    if not isinstance(error, Throttled) or error.retry_after is None:
        return 0.0
    return error.retry_after.total_seconds()


def nothing_after(start: After, *, more_available: bool) -> EncodedPage:
    """An empty page that did not move."""
    page = Page(changes=(), cursors=(), start=start.cursor, cursor=start.cursor, more_available=more_available)
    return EncodedPage(page, lambda items: [])
