"""One stream's way to the end of a feed and along it: by the log, by the ring of a tail, or alone."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from changefeed_gateway.core.clock import monotonic
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
from changefeed_gateway.core.ring import Ring
from changefeed_gateway.core.shared import own
from changefeed_gateway.core.tail import Listener, Tail, TailKey
from changefeed_gateway.core.tails import Tails
from changefeed_gateway.core.token import fingerprint

_ASKED_A_MOMENT_AGO: Final = 2.0
"""Seconds for which an answer of the log holds for a stream that stands alone."""


class _Place:
    """Where one stream stands in one scope."""

    __slots__ = ("alone", "asked_at", "compares", "key", "listener", "tail")

    def __init__(self, key: TailKey, scope: Scope) -> None:
        self.key = key
        self.listener = Listener(scope.partition_key if isinstance(scope, LogicalPartition) else None)
        self.tail: Tail | None = None
        self.alone: Page | None = None
        """The end of the page that reached it, where no ring holds its cursor: there the stream waits by itself."""
        self.asked_at = 0.0
        """When that page came, on the monotonic clock."""
        self.compares = False
        """Whether the last page's cursor compares with those of a ring."""


class Follower:
    """One stream's reader: from the log until the ring of a tail holds its cursor, and back if it falls off."""

    def __init__(self, tails: Tails) -> None:
        self._tails = tails
        self._places: dict[Scope, _Place] = {}
        self._last: tuple[Scope | None, _Place | None] = (None, None)
        """The scope that was read last, which most streams read all the time, and its place."""
        self._closed = False

    def read(self, feed: Feed, read: PageRead) -> Coroutine[None, None, EncodedPage]:
        """Like `Provider.read_page`, shared where it can be; `EncodedPage.live` says that nothing older is missing."""
        place = self._place(feed, read.scope)
        if place is None or not read.max_changes:
            return self._read_alone(feed, read, place)
        return self._read_shared(feed, read, place)

    async def _read_alone(self, feed: Feed, read: PageRead, place: _Place | None) -> EncodedPage:
        page = await self._read_log(feed, read)
        page.live = not page.content.more_available
        if place is not None:
            place.compares = page.content.comparable
        return page

    def _place(self, feed: Feed, scope: Scope) -> _Place | None:
        """Where the stream stands in a scope; None where no tail serves it."""
        place = self._last[1] if self._last[0] is scope else self._places.get(scope)
        if place is None and (shared := _shared_scope(feed, scope)) is not None:
            place = self._places[scope] = _Place(TailKey(fingerprint(feed), feed.item_state, shared), scope)
        self._last = scope, place
        return place

    async def _read_log(self, feed: Feed, read: PageRead) -> EncodedPage:
        return await (self._tails.patient if read.max_wait else self._tails.catching_up).read(feed, read)

    async def _read_shared(self, feed: Feed, read: PageRead, place: _Place) -> EncodedPage:
        """The answer of the ring, of a place where the stream stands alone at the end, or of the log."""
        deadline = monotonic() + read.max_wait.total_seconds() if read.max_wait else 0.0
        start = read.start
        while True:
            if isinstance(start, After):
                tail = self._tail_near(feed, place, start.cursor)
                page = None if tail is None else await self._read_ring(place, tail, start.cursor, read, deadline)
                page = page or self._alone_at_the_end(place, start.cursor, deadline)
                if page is not None:
                    return page
            page = await self._from_log(feed, replace(read, start=start), place, deadline)
            content = page.content
            waits = not content.changes and _left(deadline) and not self._tails.direct.draining
            if content.retired or content.more_available or not waits:
                return page
            start = After(content.cursor)

    def _alone_at_the_end(self, place: _Place, cursor: Cursor, deadline: float) -> EncodedPage | None:
        """Nothing, for a stream that stands where no tail is, has no time to wait, and asked a moment ago.

        Each such stream would ask for itself with every heartbeat; it asks when it waits. While other partitions of it
        bring something without a pause it never waits, so it asks in between.
        """
        before = place.alone
        if before is None or cursor != before.cursor or _left(deadline):
            return None
        if monotonic() - place.asked_at > _ASKED_A_MOMENT_AGO:
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
            self._join(feed, place, page)
        if not content.more_available:
            page.live = True
            if place.tail is None or not place.compares or not place.tail.holds(content.cursor):
                place.alone, place.asked_at = replace(content, changes=(), cursors=()), monotonic()
        return page

    def _tail_near(self, feed: Feed, place: _Place, cursor: Cursor) -> Tail | None:
        """The tail that was joined, or else one whose ring holds a cursor, joined now."""
        if not place.compares:
            return None
        tail = place.tail
        if tail is not None and tail.finished and not tail.holds(cursor):
            self._leave(place)
            # P6: what ended it may be a history that is gone. The log tells whether this place is one of what is there.
            return None
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
        start, its_turn, waited = cursor, False, not read.max_wait
        ring.stand(self, cursor)
        while ring.holds(cursor):
            if ring.goes_beyond(cursor):
                if not its_turn:
                    # Before it is looked at: whatever comes meanwhile is in the same page.
                    await self._tails.turns.come()
                    its_turn = True
                    continue
                page = ring.page_after(
                    cursor,
                    max_changes=read.max_changes,
                    max_bytes=read.max_bytes,
                    partition_key=place.listener.partition_key,
                )
                if page is not None:
                    return page if len(page.content.changes) <= read.max_changes else page.cut(0, read.max_changes)
            if tail.error is not None and not self._tails.direct.draining:
                self._leave(place)
                if cursor > ring.end:
                    # What failed lies before this stream's place.
                    return None
                raise own(tail.error)
            if cursor < ring.end:
                cursor = ring.end
                ring.stand(self, cursor)
            if (waited and deadline <= monotonic()) or self._tails.direct.draining:
                if cursor == ring.end and place.listener.partition_key is None:
                    return ring.nothing
                watermark = ring.watermark if cursor >= ring.end else None
                return _nothing(start, cursor, expire_time=ring.expire_time, watermark=watermark)
            cursor = max(cursor, await tail.wait(place.listener, deadline) or cursor)
            its_turn, waited = place.listener.told, True
        return None

    def _join(self, feed: Feed, place: _Place, page: EncodedPage) -> None:
        """Follow the tail from now on, also while it is far away: so its ring is there when this stream comes near."""
        content = page.content
        if place.tail is not None and place.tail.finished:
            self._leave(place)
        if place.tail is None and not self._closed and not self._tails.direct.draining:
            place.tail = self._tails.join(feed, place.key)
        if place.tail is None:
            return
        if not content.more_available:
            place.tail.begin(content)
        # Elsewhere a place may have several cursors, each of the question that came to it: who stands there by
        # another one than the kept page's would be given a change again.
        if feed.single_order and place.tail.ring is not None and place.listener.partition_key is None:
            place.tail.ring.extend(page)

    def _leave(self, place: _Place) -> None:
        tail, place.tail = place.tail, None
        place.listener.close()
        if tail is not None:
            if tail.ring is not None:
                tail.ring.leave(self)
            self._tails.leave(tail)

    def ring_of(self, scope: Scope, cursor: Cursor) -> Ring | None:
        """The ring that holds all that follows a cursor in a scope, if there is one."""
        place = self._places.get(scope)
        tail = place.tail if place is not None and place.compares else None
        return tail.ring if tail is not None and tail.error is None and tail.holds(cursor) else None

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
