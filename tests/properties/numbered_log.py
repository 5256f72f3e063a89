"""A single-order log of numbered changes: the smallest thing that a tail can follow, with faults to order."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from changefeed_gateway.core.errors import CheckpointExpired, TransientFailure
from changefeed_gateway.core.model import (
    Address,
    After,
    Beginning,
    Change,
    ChangeType,
    Cursor,
    EntireCollection,
    Feed,
    ItemState,
    Key,
    LogicalPartition,
    Now,
    Page,
    PageRead,
    Partition,
    PartitionId,
    PhysicalPartition,
    Scope,
    Start,
)

FEED = Feed(
    address=Address(connection="log", database="", collection="numbers"),
    provider_id="log",
    incarnation="1",
    capabilities=(),
    item_state=ItemState.INCLUDED,
    single_order=True,
)

READ = PageRead(
    scope=EntireCollection(),
    start=Beginning(),
    max_changes=10,
    max_bytes=10**6,
    max_item_bytes=10**6,
    max_wait=timedelta(seconds=0.2),
)


def cursor(position: int) -> Cursor:
    return Cursor(position.to_bytes(8))


def position_of(place: Cursor) -> int:
    return int.from_bytes(place)


class Log:
    """A log that grows, is trimmed and, as a physical partition, retires."""

    provider_id = "log"

    def __init__(self, *, item: str | None = None) -> None:
        self.keys: list[str] = []
        self.floor = 0
        """Positions before it have lost their history."""
        self.retired = False
        self.comparable = True
        self.reads = 0
        self.reads_of: list[PageRead] = []
        self.failures = 0
        """How many of the next reads fail with TransientFailure."""
        self.faults: deque[BaseException | None] = deque()
        """What the next reads raise, one each."""
        self.turns = 0
        """How often others run while a read is under way."""
        self.gate: asyncio.Event | None = None
        """Holds the reads that do not wait for changes, until it is set."""
        self.under_way = self.most_under_way = 0
        self._item = item
        self._news = asyncio.Event()

    async def append(self, *keys: str) -> None:
        self.write(*keys)

    def write(self, *keys: str) -> None:
        self.keys += keys
        self._announce()

    def retire(self) -> None:
        self.retired = True
        self._announce()

    def _announce(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def start(self) -> None: ...

    async def ping(self) -> None:
        pass

    async def open_feed(self, address: Address) -> Feed:
        return FEED

    async def list_partitions(self, feed: Feed, start: Start | None = None) -> Sequence[Partition]:
        return ()

    async def read_page(self, feed: Feed, read: PageRead) -> Page:
        self.reads += 1
        self.reads_of.append(read)
        self.under_way += not read.max_wait
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self._suffer(read)
            start = self._start(read)
            await self._await_news(read, start)
            return self._page(read, start)
        finally:
            self.under_way -= not read.max_wait

    async def _suffer(self, read: PageRead) -> None:
        fault = self.faults.popleft() if self.faults else None
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if self.gate is not None and not read.max_wait:
            await self.gate.wait()
        if fault is not None:
            raise fault
        if self.failures:
            self.failures -= 1
            raise TransientFailure("out for a moment")

    def _start(self, read: PageRead) -> int:
        match read.start:
            case After(place):
                start = position_of(place)
            case Now():
                return len(self.keys)
            case _:
                return self.floor
        if start < self.floor:
            raise CheckpointExpired("trimmed")
        return start

    async def _await_news(self, read: PageRead, start: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(read.max_wait.total_seconds()):
                while start >= len(self.keys) and read.max_wait and not self._ended(read.scope):
                    await self._news.wait()
        if start < self.floor:
            raise CheckpointExpired("trimmed")

    def _ended(self, scope: Scope) -> bool:
        return self.retired and isinstance(scope, PhysicalPartition)

    def _page(self, read: PageRead, start: int) -> Page:
        end = min(len(self.keys), start + read.max_changes)
        mine = [i for i in range(start, end) if within(self.keys[i], read.scope)]
        return Page(
            changes=[change(i, self.keys[i], self._item) for i in mine],
            cursors=[cursor(i + 1) for i in mine],
            start=cursor(start),
            cursor=cursor(end),
            more_available=end < len(self.keys),
            retired=self._ended(read.scope) and end == len(self.keys),
            comparable=self.comparable,
        )

    async def aclose(self) -> None: ...


def within(key: str, scope: Scope) -> bool:
    return not isinstance(scope, LogicalPartition) or key == scope.partition_key


def change(number: int, key: str, item: str | None = None) -> Change:
    state = ItemState.OMITTED if item is None else ItemState.INCLUDED
    return Change(str(number), ChangeType.UPDATE, Key(key, ()), state, item, None, PartitionId("p"), str(number))


def encode(feed: Feed, changes: Sequence[Change], *, items: bool) -> list[bytes]:
    return [change.event_id.encode() for change in changes]
