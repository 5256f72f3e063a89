"""The life of one stream: opened, batches and heartbeats, closing."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final, NamedTuple

from changefeed_gateway.core.answer import (
    ChildToken,
    Closing,
    ClosingReason,
    Opened,
    Retired,
    SnapshotFinished,
    StateChanged,
    StreamItem,
    SubscriptionState,
)
from changefeed_gateway.core.budget import Hold, Share
from changefeed_gateway.core.cancellation import only_own_cancellation
from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import ChangeFeedError, FeedNotProvisioned, NotFound, Reason
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import (
    After,
    Cursor,
    Feed,
    Page,
    PageRead,
    PartitionId,
    PhysicalPartition,
    Scope,
)
from changefeed_gateway.core.page import EncodedPage, Reader, batches
from changefeed_gateway.core.requirement import ItemRequirement
from changefeed_gateway.core.streams import Progress
from changefeed_gateway.core.turns import Turns

_RECONNECT_SPREAD = timedelta(seconds=5)
_NO_WAIT = timedelta(0)

_FIRST_PAGE: Final = 100
"""Changes of a stream's first page, at most: the first change does not wait for a thousand to be read and encoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one stream delivers, all checks done."""

    feed: Feed
    read: PageRead
    """Scope, start and bounds of each read; `max_changes` bounds a batch."""
    heartbeat: timedelta
    max_events: int
    requirement: ItemRequirement
    token: Callable[[Scope, Cursor], str]
    draining: Callable[[], bool]
    turns: Turns = field(default_factory=Turns)
    """In which streams that are not live go on; at a tail they do so in its own."""
    progress: Progress | None = None
    """Told how far the consumer has come."""


async def stream(plan: Plan, reader: Reader, limits: Limits, share: Share) -> AsyncGenerator[StreamItem]:
    """Yield what a subscriber is sent, in order; ends after `Closing`. Raises ChangeFeedError.

    An item counts as taken once the next one is asked for.
    """
    with only_own_cancellation():
        resolved = (await reader.read(plan.feed, replace(plan.read, max_changes=0))).content
        yield Opened(
            feed=plan.feed,
            token=plan.token(plan.read.scope, resolved.cursor),
            heartbeat=plan.heartbeat,
            expire_time=resolved.expire_time,
            warnings=resolved.warnings,
        )
        run = _Stream(plan, reader, limits, share, resolved.cursor)
        try:
            yield run.begin(in_snapshot=resolved.snapshot is not None)
            while not run.ended:
                # No name here keeps a page or a batch: the next one may be long in coming.
                for item in run.deliver(await run.next_page()):
                    share.offer(run.now)
                    try:
                        yield item
                    finally:
                        share.taken()
                    run.note_progress()
                    del item
                run.note_progress()
        finally:
            await run.stop()


class _InHand(NamedTuple):
    page: EncodedPage
    hold: Hold | None
    """None for a page without changes."""


class _Stream:
    """The loop of one stream: at most one page in hand and one being read ahead."""

    def __init__(self, plan: Plan, reader: Reader, limits: Limits, share: Share, cursor: Cursor) -> None:
        self._plan, self._reader, self._limits, self._share = plan, reader, limits, share
        self._cursor = cursor
        self._delivered = 0
        self._page_size = min(_FIRST_PAGE, plan.read.max_changes)
        self._state: SubscriptionState | None = None
        self._ahead: asyncio.Task[_InHand | None] | None = None
        age = limits.max_stream_age.total_seconds() * random.uniform(0.9, 1.0)  # noqa: S311 - spread, not secrecy
        self.now = self._heard_at = monotonic()
        """When the page that is delivered came, or its last message was taken."""
        self._ends_at = self.now + age
        self._heartbeat = plan.heartbeat.total_seconds()
        self.ended = False
        """Whether `Closing` was said."""

    def begin(self, *, in_snapshot: bool) -> StreamItem:
        """What comes after `Opened`."""
        return self._set_state(SubscriptionState.SNAPSHOT if in_snapshot else SubscriptionState.CATCHING_UP)

    async def stop(self) -> None:
        """Give up the page being read ahead, and what is in hand; nothing of the stream outlives it."""
        try:
            if self._ahead is not None:
                self._ahead.cancel()
                await asyncio.wait({self._ahead})
        finally:
            self._share.close()

    def note_progress(self) -> None:
        """What was said so far has been taken."""
        if self._plan.progress is not None:
            self._plan.progress.cursor = self._cursor

    def next_page(self) -> Awaitable[_InHand | None]:
        """What was read ahead, or what follows; None when the feed is gone."""
        return self._read(self._cursor) if self._ahead is None else self._take_ahead(self._ahead)

    async def _take_ahead(self, ahead: asyncio.Task[_InHand | None]) -> _InHand | None:
        # Not awaited itself: who cancels the stream would leave it alone with its cancellation.
        await asyncio.wait({ahead})
        self._ahead = None
        return ahead.result()

    def _read_ahead(self, cursor: Cursor) -> None:
        """Let the database work on the next page while this one is written."""
        self._ahead = asyncio.create_task(self._read(cursor))
        # A failure is told when the page's turn comes; when it never does, nobody asks for it.
        self._ahead.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _read(self, cursor: Cursor) -> _InHand | None:
        """Read a page and hold it; where there is no room for it, drop it, and read it again when there is.

        None when the feed is gone. A page is not counted while it is read: `Limits.max_catch_up_reads` bounds how many
        are, and streams that read the same one hold it once.
        """
        live = self._state is SubscriptionState.LIVE
        read = self._read_after(cursor, wait=self._heartbeat_due - self.now if live else 0.0)
        hold: Hold | None = None
        try:
            page = await self._reader.read(self._plan.feed, read)
            if page.content.changes:
                hold = self._share.nothing()
                while missing := hold.settle(page, max_message_bytes=self._limits.max_message_bytes):
                    del page
                    hold.release()
                    hold = await self._share.reserve(missing)
                    page = await self._reader.read(self._plan.feed, replace(read, max_wait=_NO_WAIT))
                if not live:
                    await self._plan.turns.come()
        except BaseException as error:
            if hold is not None:
                hold.release()
            if isinstance(error, ChangeFeedError) and _is_gone(error):
                return None
            raise
        self._page_size = self._plan.read.max_changes
        return _InHand(page, hold)

    def _read_after(self, cursor: Cursor, *, wait: float) -> PageRead:
        # Not by `replace`, which takes several times as long.
        read = self._plan.read
        return PageRead(
            scope=read.scope,
            start=After(cursor),
            max_changes=self._page_size,
            max_bytes=read.max_bytes,
            max_item_bytes=read.max_item_bytes,
            items=read.items,
            max_wait=timedelta(seconds=wait) if wait > 0 else _NO_WAIT,
        )

    @property
    def _heartbeat_due(self) -> float:
        return self._heard_at + self._heartbeat

    def deliver(self, in_hand: _InHand | None) -> Iterator[StreamItem]:
        """P1: say all of a page, part by part; whatever is said of a part is judged of that part alone."""
        if in_hand is None:
            yield self._closing(ClosingReason.FEED_DROPPED)
            return
        page, hold = in_hand
        try:
            behind = page.content.more_available and not page.live
            if behind and self._state is SubscriptionState.LIVE:
                yield self._set_state(SubscriptionState.CATCHING_UP)
            admitted = self._admitted(page)
            if behind and admitted is page:
                self._read_ahead(page.content.cursor)
            for part in self._parts(admitted):
                self.now = monotonic()
                for item in self._said_of(part):
                    yield item
                    del item
                    self.now = monotonic()
                if (reason := self._reason_to_close(part.content)) is not None:
                    yield self._closing(reason)
                    return
        finally:
            if hold is not None:
                hold.release()

    def _admitted(self, page: EncodedPage) -> EncodedPage:
        """As much of a page as may be delivered."""
        if self._plan.max_events and len(page.content.changes) > self._plan.max_events - self._delivered:
            page = page.cut(0, self._plan.max_events - self._delivered)
        return self._plan.requirement.admit(page)

    def _parts(self, page: EncodedPage) -> Iterable[EncodedPage]:
        """A page cut into what fits into one message each; an empty page is one part."""
        count, items = len(page.content.changes), self._plan.read.items
        max_bytes, max_count = self._limits.max_message_bytes, self._plan.read.max_changes
        if count <= max_count and page.record_bytes(items=items) <= max_bytes:
            return (page,)
        cuts = batches(page.records(items=items), max_bytes=max_bytes, max_count=max_count)
        return (page.cut(low, high) for low, high in cuts)

    def _said_of(self, part: EncodedPage) -> Iterator[StreamItem]:
        page = part.content
        # P4: whatever is said from here on carries a token behind what was delivered, and no further.
        self._cursor = page.cursor
        if page.changes:
            self._delivered += len(page.changes)
            self._heard_at = self.now
            yield self._message(part)
        elif not page.retired and self.now >= self._heartbeat_due:
            self._heard_at = self.now
            yield self._message(part)
        if page.snapshot is not None and page.snapshot.finished:
            yield SnapshotFinished(token=self._token(), expire_time=page.expire_time, snapshot=page.snapshot)
            yield self._set_state(SubscriptionState.CATCHING_UP)
        if not page.more_available and self._state is SubscriptionState.CATCHING_UP:
            yield self._set_state(SubscriptionState.LIVE)
        if page.retired and not self._full and isinstance(self._plan.read.scope, PhysicalPartition):
            yield self._retired(page, self._plan.read.scope.partition_id)

    def _message(self, part: EncodedPage) -> StreamItem:
        return part.message(self._plan.read.scope, self._plan.token, items=self._plan.read.items)

    def _retired(self, page: Page, partition_id: PartitionId) -> Retired:
        children = tuple(
            ChildToken(
                partition_id=child.partition_id,
                parents=child.parents,
                token=self._plan.token(PhysicalPartition(child.partition_id), child.start),
            )
            for child in page.children
        )
        return Retired(partition_id=partition_id, children=children, token=self._token())

    @property
    def _full(self) -> bool:
        return 0 < self._plan.max_events <= self._delivered

    def _reason_to_close(self, page: Page) -> ClosingReason | None:
        if self._full:
            return ClosingReason.MAX_EVENTS
        if page.retired:
            return ClosingReason.PARTITION_RETIRED
        if self._plan.draining():
            return ClosingReason.DRAINING
        if self.now >= self._ends_at:
            return ClosingReason.MAX_AGE
        return None

    def _closing(self, reason: ClosingReason) -> Closing:
        self.ended = True
        spread = _RECONNECT_SPREAD if reason in (ClosingReason.DRAINING, ClosingReason.MAX_AGE) else timedelta(0)
        return Closing(reason=reason, token=self._token(), reconnect_after=spread * random.random())  # noqa: S311

    def _set_state(self, state: SubscriptionState) -> StateChanged:
        self._state = state
        return StateChanged(state=state)

    def _token(self) -> str:
        return self._plan.token(self._plan.read.scope, self._cursor)


def _is_gone(error: ChangeFeedError) -> bool:
    """Whether the collection, or its feed, is not what it was when the stream began."""
    recreated = error.reason == Reason.TOKEN_RESOURCE_RECREATED.value
    return recreated or isinstance(error, NotFound | FeedNotProvisioned)
