"""Tails whose rings are filled and sent from, in a process of their own, so that its memory is theirs."""

import asyncio
import gc
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from bench.processes import Answer, rss_mb
from bench.workers.control import ready
from changefeed_gateway.api.wire.records import encode_changes
from changefeed_gateway.core.follower import Follower
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import (
    Address,
    After,
    Change,
    ChangeType,
    Cursor,
    EntireCollection,
    Feed,
    ItemState,
    Key,
    KeyComponent,
    Page,
    PageRead,
    Partition,
    PartitionId,
    Start,
)
from changefeed_gateway.core.tails import Tails

_PAGE_CHANGES: Final = 10
_OVERFILL: Final = 2.5
"""How many times the budget passes through the rings: what left must have been given back."""


class _Source:
    """Endless changes with items of one text, each a text of its own, as a driver gives them."""

    provider_id = "ring"

    def __init__(self, item: str) -> None:
        self._raw = item.encode()
        self.limit = 0
        self.news = asyncio.Event()

    async def start(self) -> None:
        return

    async def ping(self) -> None:
        """Nothing that could fail."""

    async def open_feed(self, address: Address) -> Feed:
        raise NotImplementedError

    async def list_partitions(self, feed: Feed, start: Start | None = None) -> Sequence[Partition]:
        return ()

    async def read_page(self, feed: Feed, read: PageRead) -> Page:
        start = int.from_bytes(read.start.cursor) if isinstance(read.start, After) else 0
        while start >= self.limit and read.max_wait:
            await self.news.wait()
        end = min(self.limit, start + _PAGE_CHANGES) if read.max_changes else start
        return Page(
            changes=[self._change(number) for number in range(start, end)],
            cursors=[Cursor((number + 1).to_bytes(20)) for number in range(start, end)],
            start=Cursor(start.to_bytes(20)),
            cursor=Cursor(end.to_bytes(20)),
            more_available=end < self.limit,
        )

    def _change(self, number: int) -> Change:
        text = f"{number:020}"
        key = Key(text, (KeyComponent("id", text),))
        item, now = self._raw.decode(), datetime.now(UTC)
        return Change(
            f"event-{text}", ChangeType.UPDATE, key, ItemState.INCLUDED, item, now, PartitionId("0-255"), text
        )

    async def aclose(self) -> None:
        return


def fill(item: str, tails: int, budget: int) -> Answer:
    """Fill the rings of so many tails beyond the budget, each page sent in both ways; how the memory grew."""
    ready()
    return asyncio.run(_fill(item, tails, budget))


async def _fill(item: str, count: int, budget: int) -> Answer:
    source = _Source(item)
    tails = Tails(source, encode_changes, Limits(ring_bytes=budget))
    feeds = [_feed(number) for number in range(count)]
    followers = [Follower(tails) for _ in feeds]
    places = [Cursor((0).to_bytes(20))] * count
    read = PageRead(
        scope=EntireCollection(),
        start=After(places[0]),
        max_changes=0,
        max_bytes=3_500_000,
        max_item_bytes=3_000_000,
    )
    for follower, feed in zip(followers, feeds, strict=True):
        await follower.read(feed, read)
        await follower.read(feed, replace(read, max_changes=_PAGE_CHANGES))
    gc.collect()
    before, passed, most = rss_mb(os.getpid()), 0, 0.0
    a_page = _PAGE_CHANGES * (3 * sys.getsizeof(item) + 1_000)
    while passed < _OVERFILL * budget:
        source.limit += _PAGE_CHANGES
        source.news.set()
        source.news = asyncio.Event()
        for number, follower in enumerate(followers):
            waiting = replace(read, start=After(places[number]), max_changes=100, max_wait=timedelta(seconds=60))
            page = await follower.read(feeds[number], waiting)
            for items in (True, False):
                page.records(items=items)
            places[number] = page.content.cursor
            passed += a_page
        most = max(most, rss_mb(os.getpid()))
    # Memory is told in units of 2^20, the budget in bytes.
    grown = (most - before) * 2**20 / 1e6
    answer = {"grown_mb": grown, "held_mb": tails.budget.held / 1e6, "budget_mb": budget / 1e6}
    for follower in followers:
        await follower.aclose()
    await tails.aclose()
    return answer


def _feed(number: int) -> Feed:
    return Feed(
        address=Address(connection="main", database="", collection=f"collection-{number}"),
        provider_id="ring",
        incarnation="1",
        capabilities=(),
        item_state=ItemState.INCLUDED,
        single_order=True,
    )
