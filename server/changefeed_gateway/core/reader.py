"""Reads straight from a provider, one read one answer."""

import asyncio

from changefeed_gateway.core.answer import ChangeEncoder
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
