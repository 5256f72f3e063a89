"""One tail per feed and process: each live page is read once and shared by every stream that follows it."""

import asyncio
from contextvars import Context
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

import structlog

from changefeed_gateway.core.answer import ChangeEncoder
from changefeed_gateway.core.cancellation import cut_short
from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import ChangeFeedError, InternalFailure
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import (
    After,
    Cursor,
    EntireCollection,
    Feed,
    LogicalPartition,
    Now,
    Page,
    PageRead,
    PhysicalPartition,
    Scope,
)
from changefeed_gateway.core.page import EncodedPage
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.core.reader import DirectReader, PatientReader, SharedReader
from changefeed_gateway.core.ring import Ring, RingBudget
from changefeed_gateway.core.shared import own
from changefeed_gateway.core.token import fingerprint

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class TailKey(NamedTuple):
    """What a tail follows."""

    fingerprint: str
    scope: Scope


class Tail:
    """Follows one scope of one feed while anybody listens."""

    def __init__(self, reader: PatientReader, limits: Limits, budget: RingBudget, feed: Feed, scope: Scope) -> None:
        """It asks for the newest position by itself, and begins there unless `begin` comes first."""
        self.ring: Ring | None = None
        self.error: ChangeFeedError | None = None
        """What ended it."""
        self.followers = 0
        self._reader, self._limits, self._budget, self._feed, self._scope = reader, limits, budget, feed, scope
        self._begun: asyncio.Future[Ring] = asyncio.get_running_loop().create_future()
        self._waiters: set[_Waiter] = set()
        self._waiters_by_key: dict[str, set[_Waiter]] = {}
        # Outside the context of the call that came first: its request id is not the tail's.
        self.task = asyncio.create_task(self._run(), name=f"tail of {feed.address.collection}", context=Context())
        self.task.add_done_callback(self._end)

    def begin(self, before: Page) -> None:
        """Follow from the end of a page that reached it; the first such page counts."""
        if not self._begun.done():
            self.ring = Ring(before, self._budget)
            self._begun.set_result(self.ring)

    def holds(self, cursor: Cursor) -> bool:
        """Whether nothing between a cursor and the tail is missing here."""
        return self.ring is not None and self.ring.holds(cursor)

    @property
    def finished(self) -> bool:
        """Nothing comes any more, except what the ring holds: nobody new should follow."""
        return self.error is not None or self.task.done()

    async def _run(self) -> None:
        try:
            await self._follow(await self._begin())
        except ChangeFeedError as error:
            self.error = error
        except Exception as error:
            _log.exception("a tail failed unexpectedly", collection=self._feed.address.collection)
            self.error = InternalFailure("a tail failed unexpectedly")
            self.error.__cause__ = error

    def _end(self, task: asyncio.Task[None]) -> None:
        """Tell whoever follows; here, because a task may be cancelled before its first step."""
        if task.cancelled():
            self.error = cut_short()
        self.wake_all()

    async def _begin(self) -> Ring:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(self._ask_newest())
            ring = await self._begun
            asking.cancel()
        return ring

    async def _ask_newest(self) -> None:
        try:
            page = (await self._reader.read(self._feed, self._read(Now(), max_changes=0))).content
        except ChangeFeedError:
            # Whoever comes to the end has a page from which it can begin.
            return
        if page.comparable and not page.retired:
            self.begin(page)

    async def _follow(self, ring: Ring) -> None:
        while not ring.ended and await self._take_page(ring):
            pass

    async def _take_page(self, ring: Ring) -> bool:
        """Read the next page into the ring, and hold it no longer than the ring does; False when the gateway drains."""
        page = await self._reader.read(self._feed, self._read(After(ring.end), self._limits.default_page_size))
        if self._reader.draining:
            # Who follows goes, and what a drain cuts short is no page of the feed.
            return False
        ring.append(page)
        self._wake(page)
        return True

    def _read(self, start: Now | After, max_changes: int) -> PageRead:
        limits = self._limits
        return PageRead(
            scope=self._scope,
            start=start,
            max_changes=max_changes,
            max_bytes=limits.max_message_bytes,
            max_item_bytes=limits.max_item_bytes,
            max_wait=limits.max_wait if max_changes else timedelta(0),
        )

    async def wait(self, partition_key: str | None, seconds: float) -> Cursor | None:
        """Wait for a page with something for this listener, the tail's end, or for some seconds.

        Answers a position up to which there is nothing for the listener, if one is known: fixed at the moment of
        waking, so that a page which arrives before the listener runs again is not skipped.
        """
        loop = asyncio.get_running_loop()
        waiter: _Waiter = loop.create_future()
        group = self._waiters if partition_key is None else self._waiters_by_key.setdefault(partition_key, set())
        group.add(waiter)
        timer = loop.call_later(seconds, lambda: _resolve(waiter, self.ring.end if self.ring else None))
        try:
            return await waiter
        finally:
            timer.cancel()
            group.discard(waiter)
            if partition_key is not None and not group and self._waiters_by_key.get(partition_key) is group:
                del self._waiters_by_key[partition_key]

    def _wake(self, page: EncodedPage) -> None:
        nothing_before = page.content.start
        if page.content.retired:
            self.wake_all()
        elif page.content.changes:
            for waiter in self._waiters:
                _resolve(waiter, nothing_before)
            if self._waiters_by_key:
                for partition_key in self._waiters_by_key if None in page.partition_keys else page.partition_keys:
                    for waiter in self._waiters_by_key.get(partition_key or "", ()):
                        _resolve(waiter, nothing_before)

    def wake_all(self) -> None:
        """Wake every listener, whatever it waits for, without moving it."""
        for group in (self._waiters, *self._waiters_by_key.values()):
            for waiter in group:
                _resolve(waiter, None)

    def close(self) -> None:
        """Stop following and let go of the ring; `task` ends soon."""
        self.task.cancel()
        if self.ring is not None:
            self.ring.release()


_Waiter = asyncio.Future[Cursor | None]


def _resolve(waiter: _Waiter, nothing_before: Cursor | None) -> None:
    if not waiter.done():
        waiter.set_result(nothing_before)


class Tails:
    """The tails of one provider; `follow` gives a stream its reader."""

    def __init__(
        self, provider: Provider, encoder: ChangeEncoder, limits: Limits, budget: RingBudget | None = None
    ) -> None:
        """`budget` is shared by the tails of all providers of a process."""
        self.direct = DirectReader(provider, encoder)
        self.patient = PatientReader(self.direct, limits)
        self._shared = SharedReader(self.direct, limits)
        self.catching_up = PatientReader(self._shared, limits)
        self._limits = limits
        self.budget = budget or RingBudget(limits.ring_bytes)
        self._tails: dict[TailKey, Tail] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def follow(self) -> "Follower":
        """A reader for one stream; close it with `aclose`."""
        return Follower(self)

    def find(self, key: TailKey) -> Tail | None:
        """The tail that a stream may join; one that has finished is none."""
        tail = self._tails.get(key)
        return None if tail is None or tail.finished else tail

    def join(self, feed: Feed, key: TailKey) -> Tail:
        """Follow a tail, starting one if there is none."""
        tail = self.find(key)
        if tail is None:
            tail = self._tails[key] = Tail(self.patient, self._limits, self.budget, feed, key.scope)
            self._ending.add(tail.task)
            tail.task.add_done_callback(self._ending.discard)
        tail.followers += 1
        return tail

    def leave(self, tail: Tail) -> None:
        """Stop following; the last one stops the tail. Awaits nothing, so that no cancellation can leave it undone."""
        tail.followers -= 1
        if tail.followers == 0:
            for key in [key for key, known in self._tails.items() if known is tail]:
                del self._tails[key]
            tail.close()

    def begin_drain(self) -> None:
        """Every waiting read answers at once, now and from now on."""
        self.direct.begin_drain()
        for tail in self._tails.values():
            tail.wake_all()

    async def aclose(self) -> None:
        """Stop every tail and every read under way."""
        for tail in self._tails.values():
            tail.close()
        self._tails.clear()
        if self._ending:
            await asyncio.wait(set(self._ending))
        await self._shared.aclose()
        await self.direct.aclose()


class _Place:
    """Where one stream stands in one scope."""

    __slots__ = ("alone", "compares", "key", "tail")

    def __init__(self, key: TailKey) -> None:
        self.key = key
        self.tail: Tail | None = None
        self.alone: Page | None = None
        """The end of the page that reached it, where no ring holds its cursor: there the stream waits by itself."""
        self.compares = False
        """Whether the last page's cursor compares with those of a ring."""


class Follower:
    """One stream's reader: from the log until the ring of a tail holds its cursor, and back if it falls off."""

    def __init__(self, tails: Tails) -> None:
        self._tails = tails
        self._places: dict[Scope, _Place] = {}
        self._closed = False

    async def read(self, feed: Feed, read: PageRead) -> EncodedPage:
        """Like `Provider.read_page`, shared where it can be; `EncodedPage.live` says that nothing older is missing."""
        shared = _shared_scope(feed, read.scope)
        if shared is None or not read.max_changes:
            page = await self._read_log(feed, read)
            page.live = not page.content.more_available
            if shared is not None:
                self._place(feed, shared).compares = page.content.comparable
            return page
        page = await self._read_shared(feed, read, self._place(feed, shared))
        return page if len(page.content.changes) <= read.max_changes else page.cut(0, read.max_changes)

    def _place(self, feed: Feed, shared: Scope) -> _Place:
        place = self._places.get(shared)
        if place is None:
            place = self._places[shared] = _Place(TailKey(fingerprint(feed), shared))
        return place

    async def _read_log(self, feed: Feed, read: PageRead) -> EncodedPage:
        return await (self._tails.patient if read.max_wait else self._tails.catching_up).read(feed, read)

    async def _read_shared(self, feed: Feed, read: PageRead, place: _Place) -> EncodedPage:
        """The answer of the ring, of a place where the stream stands alone at the end, or of the log."""
        deadline = monotonic() + read.max_wait.total_seconds()
        start = read.start
        while True:
            if isinstance(start, After):
                page = await self._from_ring(feed, replace(read, start=start), place, start.cursor, deadline)
                page = page or self._alone_at_the_end(place, start.cursor, deadline)
                if page is not None:
                    return page
            page = await self._from_log(feed, replace(read, start=start), place, deadline)
            content = page.content
            waits = not content.changes and _left(deadline) and not self._tails.direct.draining
            if content.retired or content.more_available or not waits:
                return page
            start = After(content.cursor)

    async def _from_ring(
        self, feed: Feed, read: PageRead, place: _Place, cursor: Cursor, deadline: float
    ) -> EncodedPage | None:
        """What the ring of a tail holds after a cursor, waiting at its end; None where it does not hold the cursor."""
        tail = self._tail_near(feed, place, cursor)
        return None if tail is None else await self._read_ring(place, tail, cursor, read, deadline)

    def _alone_at_the_end(self, place: _Place, cursor: Cursor, deadline: float) -> EncodedPage | None:
        """Nothing, for a stream that stands where no tail is and has no time to wait.

        Each such stream would ask for itself with every heartbeat; it asks when it waits.
        """
        before = place.alone
        if before is None or cursor != before.cursor or _left(deadline):
            return None
        return _nothing(cursor, cursor, expire_time=before.expire_time)

    async def _from_log(self, feed: Feed, read: PageRead, place: _Place, deadline: float) -> EncodedPage:
        """A page of the log; the stream is near a tail from then on, or stands alone at the end."""
        alone = place.alone is not None and read.start == After(place.alone.cursor)
        page = await self._read_log(feed, replace(read, max_wait=_left(deadline) if alone else timedelta(0)))
        content = page.content
        place.alone, place.compares = None, content.comparable
        if content.retired:
            return page
        if content.comparable:
            self._join(feed, place, content)
        if not content.more_available:
            page.live = True
            if place.tail is None or not place.compares or not place.tail.holds(content.cursor):
                place.alone = replace(content, changes=(), cursors=())
        return page

    def _tail_near(self, feed: Feed, place: _Place, cursor: Cursor) -> Tail | None:
        """The tail that was joined, or else one whose ring holds a cursor, joined now."""
        if not place.compares:
            return None
        tail = place.tail
        if tail is not None and tail.finished and not tail.holds(cursor):
            self._leave(place)
            tail = None
        if tail is None and not self._closed:
            known = self._tails.find(place.key)
            if known is not None and known.holds(cursor):
                tail = place.tail = self._tails.join(feed, place.key)
        return tail

    async def _read_ring(
        self, place: _Place, tail: Tail, cursor: Cursor, read: PageRead, deadline: float
    ) -> EncodedPage | None:
        """Read from the ring, waiting at its end; None when it does not hold the cursor, or no more."""
        if (ring := tail.ring) is None:
            return None
        key = read.scope.partition_key if isinstance(read.scope, LogicalPartition) else None
        start = cursor
        ring.stand(self, cursor)
        while ring.holds(cursor):
            page = (
                ring.page_after(cursor, max_changes=read.max_changes, max_bytes=read.max_bytes)
                if key is None
                else ring.page_of_key_after(cursor, key)
            )
            if page is not None:
                return page
            if tail.error is not None and not self._tails.direct.draining:
                self._leave(place)
                if cursor > ring.end:
                    # What failed lies before this stream's place.
                    return None
                raise own(tail.error)
            cursor = max(cursor, ring.end)
            left = deadline - monotonic()
            if left <= 0 or self._tails.direct.draining:
                watermark = ring.watermark if cursor >= ring.end else None
                return _nothing(start, cursor, expire_time=ring.expire_time, watermark=watermark)
            ring.stand(self, cursor)
            cursor = max(cursor, await tail.wait(key, left) or cursor)
        return None

    def _join(self, feed: Feed, place: _Place, page: Page) -> None:
        """Follow the tail from now on, also while it is far away: so its ring is there when this stream comes near."""
        if place.tail is not None and place.tail.finished:
            self._leave(place)
        if place.tail is None and not self._closed and not self._tails.direct.draining:
            place.tail = self._tails.join(feed, place.key)
        if place.tail is not None and not page.more_available:
            place.tail.begin(page)

    def _leave(self, place: _Place) -> None:
        tail, place.tail = place.tail, None
        if tail is not None:
            if tail.ring is not None:
                tail.ring.leave(self)
            self._tails.leave(tail)

    async def aclose(self) -> None:
        """Leave every tail, at once; and wait until those that nobody else follows have ended."""
        self._closed = True
        tails = [place.tail for place in self._places.values() if place.tail is not None]
        for place in self._places.values():
            self._leave(place)
        ended = {tail.task for tail in tails if not tail.followers}
        if ended:
            await asyncio.wait(ended)


def _shared_scope(feed: Feed, scope: Scope) -> Scope | None:
    """The scope whose tail serves a scope; None where it cannot be shared."""
    match scope:
        case LogicalPartition():
            return EntireCollection() if feed.single_order else None
        case PhysicalPartition() | EntireCollection():
            return scope


def _left(deadline: float) -> timedelta:
    return timedelta(seconds=max(0.0, deadline - monotonic()))


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
