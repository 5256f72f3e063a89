"""One tail per feed and process: each live page is read once and shared by every stream that follows it."""

import asyncio
from contextvars import Context
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

from changefeed_gateway.core.answer import ChangeEncoder
from changefeed_gateway.core.errors import ChangeFeedError
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import (
    After,
    Cursor,
    EntireCollection,
    Feed,
    LogicalPartition,
    Page,
    PageRead,
    PhysicalPartition,
    Scope,
)
from changefeed_gateway.core.page import EncodedPage
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.core.reader import DirectReader, PatientReader
from changefeed_gateway.core.ring import Ring
from changefeed_gateway.core.token import fingerprint


class _TailKey(NamedTuple):
    fingerprint: str
    scope: Scope


class _Tail:
    """Follows one scope of one feed while anybody listens."""

    def __init__(self, reader: PatientReader, limits: Limits, feed: Feed, scope: Scope, before: Page) -> None:
        self.ring = Ring(before, max_bytes=limits.ring_bytes)
        self.error: ChangeFeedError | None = None
        self.followers = 0
        self._reader, self._limits, self._feed, self._scope = reader, limits, feed, scope
        self._waiters: set[_Waiter] = set()
        self._waiters_by_key: dict[str, set[_Waiter]] = {}
        # Outside the context of the call that came first: its request id is not the tail's.
        self._task = asyncio.create_task(self._run(), context=Context())

    async def _run(self) -> None:
        try:
            while not self.ring.ended:
                page = await self._next_page()
                self.ring.append(page)
                self._wake(page)
        except ChangeFeedError as error:
            self.error = error
        finally:
            self.wake_all()

    async def _next_page(self) -> EncodedPage:
        limits = self._limits
        read = PageRead(
            scope=self._scope,
            start=After(self.ring.end),
            max_changes=limits.default_page_size,
            max_bytes=limits.max_message_bytes,
            max_item_bytes=limits.max_item_bytes,
            max_wait=limits.max_wait,
        )
        page = await self._reader.read(self._feed, read)
        page.live = True
        return page

    async def wait(self, partition_key: str | None, seconds: float) -> Cursor:
        """Wait for a page with something for this listener, the tail's failure, or for some seconds.

        Answers a position up to which there is nothing for the listener: fixed at the moment of waking, so that a
        page which arrives before the listener runs again is not skipped.
        """
        loop = asyncio.get_running_loop()
        waiter: _Waiter = loop.create_future()
        group = self._waiters if partition_key is None else self._waiters_by_key.setdefault(partition_key, set())
        group.add(waiter)
        timer = loop.call_later(seconds, lambda: _resolve(waiter, self.ring.end))
        try:
            return await waiter
        finally:
            timer.cancel()
            group.discard(waiter)
            if partition_key is not None and not group:
                self._waiters_by_key.pop(partition_key, None)

    def _wake(self, page: EncodedPage) -> None:
        nothing_before = page.page.start
        if page.page.retired:
            self.wake_all()
        elif page.page.changes:
            for waiter in self._waiters:
                _resolve(waiter, nothing_before)
            for partition_key in self._waiters_by_key if None in page.partition_keys else page.partition_keys:
                for waiter in self._waiters_by_key.get(partition_key or "", ()):
                    _resolve(waiter, nothing_before)

    def wake_all(self) -> None:
        """Wake every listener, whatever it waits for, without moving it."""
        for group in (self._waiters, *self._waiters_by_key.values()):
            for waiter in group:
                _resolve(waiter, Cursor(b""))

    async def aclose(self) -> None:
        """Stop following."""
        self._task.cancel()
        await asyncio.wait({self._task})


_Waiter = asyncio.Future[Cursor]


def _resolve(waiter: _Waiter, nothing_before: Cursor) -> None:
    if not waiter.done():
        waiter.set_result(nothing_before)


class Tails:
    """The tails of one provider; `follow` gives a stream its reader."""

    def __init__(self, provider: Provider, encoder: ChangeEncoder, limits: Limits) -> None:
        self.direct = DirectReader(provider, encoder)
        self.patient = PatientReader(self.direct, limits)
        self._limits = limits
        self._tails: dict[_TailKey, _Tail] = {}

    def follow(self) -> "Follower":
        """A reader for one stream; close it with `aclose`."""
        return Follower(self)

    def join(self, feed: Feed, scope: Scope, before: Page) -> _Tail:
        """Follow a tail, starting it after a page that reached the end if nobody did before."""
        key = _TailKey(fingerprint(feed), scope)
        tail = self._tails.get(key)
        if tail is None or tail.error is not None:
            tail = self._tails[key] = _Tail(self.patient, self._limits, feed, scope, before)
        tail.followers += 1
        return tail

    async def leave(self, tail: _Tail) -> None:
        """Stop following; the last one stops the tail."""
        tail.followers -= 1
        if tail.followers == 0:
            for key in [key for key, known in self._tails.items() if known is tail]:
                del self._tails[key]
            await tail.aclose()

    def begin_drain(self) -> None:
        """Every waiting read answers at once, now and from now on."""
        self.direct.begin_drain()
        for tail in self._tails.values():
            tail.wake_all()

    async def aclose(self) -> None:
        """Stop every tail."""
        for tail in list(self._tails.values()):
            await tail.aclose()
        self._tails.clear()


class Follower:
    """One stream's reader: from the log until it reaches the tail, then from the ring, and back if it falls off."""

    def __init__(self, tails: Tails) -> None:
        self._tails = tails
        self._joined: dict[Scope, _Tail] = {}
        self._alone: dict[Scope, Page] = {}
        """The page that reached the end, where no ring holds its place: there it waits by itself."""

    async def read(self, feed: Feed, read: PageRead) -> EncodedPage:
        """Like `Provider.read_page`, shared where it can be; `EncodedPage.live` says that nothing older is missing."""
        shared = _shared_scope(feed, read.scope) if read.max_changes else None
        if shared is None:
            page = await self._tails.patient.read(feed, read)
            page.live = not page.page.more_available
            return page
        page = await self._read_shared(feed, read, shared)
        return page if len(page.page.changes) <= read.max_changes else page.cut(0, read.max_changes)

    async def _read_shared(self, feed: Feed, read: PageRead, shared: Scope) -> EncodedPage:
        deadline = asyncio.get_running_loop().time() + read.max_wait.total_seconds()
        start = read.start
        while True:
            tail = self._joined.get(shared)
            if tail is not None and isinstance(start, After) and tail.ring.holds(start.cursor):
                page = await self._read_ring(tail, start.cursor, read.scope, deadline)
                if page is not None:
                    return page
            before = self._alone.get(shared)
            alone = before is not None and start == After(before.cursor)
            wait = _left(deadline) if alone else timedelta(0)
            if before is not None and alone and not wait:
                # Each stream would ask for itself with every heartbeat; it asks when it waits.
                return _nothing(before.cursor, before.cursor, expire_time=before.expire_time)
            page = await self._tails.patient.read(feed, replace(read, start=start, max_wait=wait))
            self._alone.pop(shared, None)
            if page.page.more_available or page.page.retired:
                return page
            if page.page.comparable:
                await self._join(feed, shared, page.page)
            page.live = True
            start = After(page.page.cursor)
            if not self._holds(shared, start.cursor):
                self._alone[shared] = page.page
            if page.page.changes or not _left(deadline) or self._tails.direct.draining:
                return page

    def _holds(self, shared: Scope, cursor: Cursor) -> bool:
        tail = self._joined.get(shared)
        return tail is not None and tail.ring.holds(cursor)

    async def _read_ring(self, tail: _Tail, cursor: Cursor, scope: Scope, deadline: float) -> EncodedPage | None:
        """Read from the ring, waiting at its end; None when the stream fell off."""
        key = scope.partition_key if isinstance(scope, LogicalPartition) else None
        start = cursor
        while tail.ring.holds(cursor):
            ring = tail.ring
            page = ring.page_after(cursor) if key is None else ring.page_of_key_after(cursor, key)
            if page is not None:
                return page
            if tail.error is not None:
                await self._leave(tail)
                raise tail.error
            cursor = max(cursor, ring.end)
            timeout = deadline - asyncio.get_running_loop().time()
            if timeout <= 0 or self._tails.direct.draining:
                watermark = ring.watermark if cursor >= ring.end else None
                return _nothing(start, cursor, expire_time=ring.expire_time, watermark=watermark)
            cursor = max(cursor, await tail.wait(key, timeout))
        return None

    async def _join(self, feed: Feed, scope: Scope, before: Page) -> None:
        tail = self._joined.get(scope)
        if tail is not None and tail.error is not None:
            await self._leave(tail)
            tail = None
        if tail is None:
            self._joined[scope] = self._tails.join(feed, scope, before)

    async def _leave(self, tail: _Tail) -> None:
        self._joined = {scope: known for scope, known in self._joined.items() if known is not tail}
        await self._tails.leave(tail)

    async def aclose(self) -> None:
        """Leave every tail."""
        for tail in list(self._joined.values()):
            await self._leave(tail)


def _shared_scope(feed: Feed, scope: Scope) -> Scope | None:
    """The scope whose tail serves a scope; None where it cannot be shared."""
    match scope:
        case LogicalPartition():
            return EntireCollection() if feed.single_order else None
        case PhysicalPartition() | EntireCollection():
            return scope


def _left(deadline: float) -> timedelta:
    return timedelta(seconds=max(0.0, deadline - asyncio.get_running_loop().time()))


def _nothing(
    start: Cursor, cursor: Cursor, *, expire_time: datetime | None, watermark: datetime | None = None
) -> EncodedPage:
    page = Page(
        changes=(),
        cursors=(),
        start=start,
        cursor=cursor,
        more_available=False,
        expire_time=expire_time,
        watermark=watermark,
    )
    return EncodedPage(page, lambda items: [], live=True)
