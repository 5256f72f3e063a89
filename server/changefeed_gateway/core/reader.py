"""Reads straight from a provider, one read one answer; for streams with patience in its outages."""

import asyncio

from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

from changefeed_gateway.core.answer import ChangeEncoder
from changefeed_gateway.core.errors import ChangeFeedError
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import After, Feed, Page, PageRead
from changefeed_gateway.core.page import EncodedPage
from changefeed_gateway.core.provider import Provider


class DirectReader:
    """Reads pages from a provider; a read that waits answers at once when the gateway drains."""

    def __init__(self, provider: Provider, encoder: ChangeEncoder) -> None:
        self._provider = provider
        self._encoder = encoder
        self._drain = asyncio.Event()

    @property
    def draining(self) -> bool:
        """Whether `begin_drain` was called."""
        return self._drain.is_set()

    def begin_drain(self) -> None:
        """Let every waiting read answer at once, now and from now on."""
        self._drain.set()

    async def read(self, feed: Feed, read: PageRead) -> EncodedPage:
        """Like `Provider.read_page`."""
        if read.max_wait and isinstance(read.start, After):
            page = await self._read_unless_draining(feed, read, read.start)
        else:
            page = await self._provider.read_page(feed, read)
        return EncodedPage.of(feed, page, self._encoder)

    async def _read_unless_draining(self, feed: Feed, read: PageRead, start: After) -> Page:
        reading = asyncio.ensure_future(self._provider.read_page(feed, read))
        draining = asyncio.ensure_future(self._drain.wait())
        try:
            await asyncio.wait({reading, draining}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return reading.result()
            return Page(
                changes=(),
                cursors=(),
                start=start.cursor,
                cursor=start.cursor,
                more_available=False,
            )
        finally:
            reading.cancel()
            draining.cancel()


class PatientReader:
    """Reads straight from a provider and sits out its short outages, so that a stream survives them."""

    def __init__(self, direct: DirectReader, limits: Limits) -> None:
        self._direct = direct
        self._limits = limits

    async def read(self, feed: Feed, read: PageRead) -> EncodedPage:
        """Like `Provider.read_page`; a retryable error surfaces only after `Limits.outage_patience`."""
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda e: isinstance(e, ChangeFeedError) and e.retryable and not self.draining),
            wait=wait_exponential_jitter(multiplier=0.05, max=2.0, jitter=0.1),
            stop=stop_after_delay(self._limits.outage_patience.total_seconds()),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                return await self._direct.read(feed, read)
        raise AssertionError("unreachable: the last attempt re-raises")

    @property
    def draining(self) -> bool:
        """Whether the gateway is closing its streams."""
        return self._direct.draining
