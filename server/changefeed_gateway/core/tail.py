"""One tail per feed and process: each live page is read once and shared by every stream that follows it."""

import asyncio
from contextvars import Context
from datetime import timedelta
from typing import Final, NamedTuple

import structlog

from changefeed_gateway.core.cancellation import cut_short
from changefeed_gateway.core.errors import ChangeFeedError, InternalFailure
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import (
    After,
    Cursor,
    Feed,
    ItemState,
    Now,
    Page,
    PageRead,
    Scope,
)
from changefeed_gateway.core.page import EncodedPage
from changefeed_gateway.core.reader import PatientReader
from changefeed_gateway.core.ring import Ring
from changefeed_gateway.core.ring_budget import RingBudget
from changefeed_gateway.core.turns import Turns

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_WATERMARK_WITHIN: Final = timedelta(seconds=2.5)
"""Heartbeats of an idle collection show a watermark no older than this, and the provider's own cadence."""


class TailKey(NamedTuple):
    """What a tail follows."""

    fingerprint: str
    item_state: ItemState
    """P5: what its records can carry; a feed that was altered is another one to who opens it then."""
    scope: Scope


class Listener:
    """One stream at a tail: it hears of pages, for one partition key or for all.

    Its timer goes on from one wait to the next, and looks when it rings whether it came too early: a timer for each
    wait would be made and cancelled for each page.
    """

    __slots__ = ("due", "heard", "partition_key", "timer", "told")

    def __init__(self, partition_key: str | None) -> None:
        self.partition_key = partition_key
        self.heard: asyncio.Future[Cursor | None] | None = None
        """What it waits for now, and was not told yet."""
        self.told = False
        """Whether a page ended its last wait."""
        self.due = 0.0
        self.timer: asyncio.TimerHandle | None = None

    def tell(self, nothing_before: Cursor | None) -> None:
        """End the wait at once, if there is one."""
        heard, self.heard = self.heard, None
        if heard is not None and not heard.done():
            heard.set_result(nothing_before)

    def tell_of_page(self, turns: Turns, nothing_before: Cursor) -> None:
        """End the wait in a turn of the loop that has room: what is told is said now, and nothing else later."""
        heard, self.heard = self.heard, None
        if heard is not None:
            self.told = True
            turns.resolve(heard, nothing_before)

    def close(self) -> None:
        """It waits no more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Tail:
    """Follows one scope of one feed while anybody listens."""

    def __init__(
        self, reader: PatientReader, limits: Limits, budget: RingBudget, turns: Turns, feed: Feed, key: TailKey
    ) -> None:
        """It asks for the newest position by itself, and begins there unless `begin` comes first."""
        self.ring: Ring | None = None
        self.error: ChangeFeedError | None = None
        """What ended it."""
        self.followers = 0
        self.key, self.address = key, feed.address
        self._reader, self._limits, self._budget, self._feed = reader, limits, budget, feed
        self._turns = turns
        self._begun: asyncio.Future[Ring] = asyncio.get_running_loop().create_future()
        self._listeners: dict[Listener, None] = {}
        """Those that wait, and hear of every page, in the order in which they came."""
        self._listeners_by_key: dict[str, dict[Listener, None]] = {}
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
        if task.cancelled() and not self._reader.draining:
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
            scope=self.key.scope,
            start=start,
            max_changes=max_changes,
            max_bytes=limits.max_message_bytes,
            max_item_bytes=limits.max_item_bytes,
            max_wait=limits.max_wait if max_changes else timedelta(0),
            watermark_within=_WATERMARK_WITHIN,
        )

    async def wait(self, listener: Listener, until: float) -> Cursor | None:
        """Wait for a page with something for this listener, the tail's end, or a time of the loop's clock.

        Answers a position up to which there is nothing for the listener, if one is known: fixed at the moment of
        waking, so that a page which arrives before the listener runs again is not skipped.
        """
        key = listener.partition_key
        group = self._listeners if key is None else self._listeners_by_key.setdefault(key, {})
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[Cursor | None] = loop.create_future()
        listener.heard, listener.told, listener.due = heard, False, until
        if listener.timer is None or listener.timer.when() > until:
            self._set_timer(loop, listener)
        group[listener] = None
        try:
            return await heard
        finally:
            # After a cancellation another wait may have begun.
            if listener.heard in (heard, None):
                listener.heard = None
                group.pop(listener, None)
            if key is not None and not group and self._listeners_by_key.get(key) is group:
                del self._listeners_by_key[key]

    def _set_timer(self, loop: asyncio.AbstractEventLoop, listener: Listener) -> None:
        listener.close()
        listener.timer = loop.call_at(listener.due, self._time_is_over, loop, listener, context=Context())

    def _time_is_over(self, loop: asyncio.AbstractEventLoop, listener: Listener) -> None:
        listener.timer = None
        if listener.heard is not None:
            if listener.due > loop.time():
                self._set_timer(loop, listener)
            else:
                listener.tell(self.ring.end if self.ring else None)

    def _wake(self, page: EncodedPage) -> None:
        nothing_before = page.content.start
        if page.content.retired:
            self.wake_all()
        elif page.content.changes:
            # P1: all are told of it here. A timer that came between would pass a page over.
            for listener in self._listeners:
                listener.tell_of_page(self._turns, nothing_before)
            self._listeners.clear()
            if self._listeners_by_key:
                for partition_key in self._listeners_by_key if None in page.partition_keys else page.partition_keys:
                    for listener in self._listeners_by_key.get(partition_key or "", ()):
                        listener.tell_of_page(self._turns, nothing_before)

    def wake_all(self) -> None:
        """Wake every listener, whatever it waits for, without moving it."""
        for group in (self._listeners, *self._listeners_by_key.values()):
            for listener in group:
                listener.tell(None)

    def drain(self) -> None:
        """Let every listener go, and stop following; what the ring holds stays."""
        self.task.cancel()
        self.wake_all()

    def close(self) -> None:
        """Stop following and let go of the ring; `task` ends soon."""
        self.task.cancel()
        if self.ring is not None:
            self.ring.release()
