"""The life of one stream: opened, batches and heartbeats, closing."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from changefeed_gateway.core.answer import (
    Batch,
    ChildToken,
    Closing,
    ClosingReason,
    Heartbeat,
    Opened,
    Retired,
    StateChanged,
    StreamItem,
    SubscriptionState,
)
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

_RECONNECT_SPREAD = timedelta(seconds=5)

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


async def stream(plan: Plan, reader: Reader, limits: Limits) -> AsyncGenerator[StreamItem]:
    """Yield what a subscriber is sent, in order; ends after `Closing`. Raises ChangeFeedError."""
    resolved = (await reader.read(plan.feed, replace(plan.read, max_changes=0))).page
    yield Opened(
        feed=plan.feed,
        token=plan.token(plan.read.scope, resolved.cursor),
        heartbeat=plan.heartbeat,
        expire_time=resolved.expire_time,
    )
    run = _Run(plan, reader, limits, resolved.cursor)
    try:
        async for item in run.items():
            yield item
    finally:
        await run.stop()


class _Run:
    """The loop of one stream: at most one page in hand and one being read ahead."""

    def __init__(self, plan: Plan, reader: Reader, limits: Limits, cursor: Cursor) -> None:
        self._plan, self._reader, self._limits = plan, reader, limits
        self._cursor = cursor
        self._delivered = 0
        self._page_size = min(_FIRST_PAGE, plan.read.max_changes)
        self._state: SubscriptionState | None = None
        self._ahead: tuple[Cursor, asyncio.Task[EncodedPage]] | None = None
        age = limits.max_stream_age.total_seconds() * random.uniform(0.9, 1.0)  # noqa: S311 - spread, not secrecy
        self._ends_at = _now() + age
        self._heard_at = _now()

    async def items(self) -> AsyncIterator[StreamItem]:
        """Everything after `Opened`."""
        yield self._set_state(SubscriptionState.CATCHING_UP)
        while True:
            try:
                page = await self._next_page()
            except ChangeFeedError as error:
                if not _is_gone(error):
                    raise
                yield self._closing(ClosingReason.FEED_DROPPED)
                return
            caught_up = not page.page.more_available
            if not caught_up and not page.live and self._state is SubscriptionState.LIVE:
                yield self._set_state(SubscriptionState.CATCHING_UP)
            for item in self._deliver(page):
                yield item
            if caught_up and self._state is SubscriptionState.CATCHING_UP:
                yield self._set_state(SubscriptionState.LIVE)
            if page.page.retired and not self._full and isinstance(self._plan.read.scope, PhysicalPartition):
                yield self._retired(page.page, self._plan.read.scope.partition_id)
            if (reason := self._reason_to_close(page.page)) is not None:
                yield self._closing(reason)
                return

    async def stop(self) -> None:
        """Give up the page being read ahead."""
        if self._ahead is not None:
            self._ahead[1].cancel()

    async def _next_page(self) -> EncodedPage:
        page = await self._take_ahead() or await self._reader.read(self._plan.feed, self._read_after(self._cursor))
        self._page_size = self._plan.read.max_changes
        if page.page.more_available and not page.live:
            # The database works on the next page while this one is written.
            following = self._reader.read(self._plan.feed, self._read_after(page.page.cursor))
            self._ahead = page.page.cursor, asyncio.create_task(following)
        return page

    async def _take_ahead(self) -> EncodedPage | None:
        """The page read ahead, unless the last one was delivered only in part."""
        if self._ahead is None:
            return None
        (cursor, task), self._ahead = self._ahead, None
        if cursor == self._cursor:
            return await task
        task.cancel()
        return None

    def _read_after(self, cursor: Cursor) -> PageRead:
        live = self._state is SubscriptionState.LIVE
        wait = self._heartbeat_due - _now() if live else 0.0
        return replace(
            self._plan.read,
            start=After(cursor),
            max_changes=self._page_size,
            max_wait=timedelta(seconds=max(0.0, wait)),
        )

    @property
    def _heartbeat_due(self) -> float:
        return self._heard_at + self._plan.heartbeat.total_seconds()

    def _deliver(self, page: EncodedPage) -> list[StreamItem]:
        """Turn a page into batches, or an empty one into a heartbeat."""
        if not page.page.changes:
            self._cursor = page.page.cursor
            silent = page.page.retired or _now() < self._heartbeat_due
            return [] if silent else [self._heartbeat(page.page)]
        room = self._plan.max_events - self._delivered if self._plan.max_events else len(page.page.changes)
        page = page if len(page.page.changes) <= room else page.cut(0, room)
        page = self._plan.requirement.admit(page)
        records = page.records(items=self._plan.read.items)
        cuts = batches(records, max_bytes=self._limits.max_message_bytes, max_count=self._plan.read.max_changes)
        return [self._batch(page, low, high) for low, high in cuts]

    def _batch(self, page: EncodedPage, low: int, high: int) -> Batch:
        part = page.cut(low, high)
        self._cursor = part.page.cursor
        self._delivered += high - low
        self._heard_at = _now()
        return Batch(
            records=part.records(items=self._plan.read.items),
            token=self._token(),
            expire_time=part.page.expire_time,
            watermark=part.page.watermark,
        )

    def _heartbeat(self, page: Page) -> Heartbeat:
        self._heard_at = _now()
        return Heartbeat(token=self._token(), expire_time=page.expire_time, watermark=page.watermark)

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
        if _now() >= self._ends_at:
            return ClosingReason.MAX_AGE
        return None

    def _closing(self, reason: ClosingReason) -> Closing:
        spread = _RECONNECT_SPREAD if reason in (ClosingReason.DRAINING, ClosingReason.MAX_AGE) else timedelta(0)
        return Closing(reason=reason, token=self._token(), reconnect_after=spread * random.random())  # noqa: S311

    def _set_state(self, state: SubscriptionState) -> StateChanged:
        self._state = state
        return StateChanged(state=state)

    def _token(self) -> str:
        return self._plan.token(self._plan.read.scope, self._cursor)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _is_gone(error: ChangeFeedError) -> bool:
    """Whether the collection, or its feed, is not what it was when the stream began."""
    recreated = error.reason == Reason.TOKEN_RESOURCE_RECREATED.value
    return recreated or isinstance(error, NotFound | FeedNotProvisioned)
