"""Reads an entire collection over many partitions: parents before children, one vector of positions."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from changefeed_gateway.core.cancellation import only_own_cancellation
from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import NotFound, Reason, TransientFailure
from changefeed_gateway.core.joining import Joining, Segment, joined
from changefeed_gateway.core.model import (
    After,
    Cursor,
    Feed,
    Now,
    PageRead,
    PartitionId,
    PartitionState,
    PhysicalPartition,
    Start,
)
from changefeed_gateway.core.pace import IdlePlaces
from changefeed_gateway.core.page import EncodedPage, Reader
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.core.together import A_TURN, gather, give_up
from changefeed_gateway.core.token import fingerprint
from changefeed_gateway.core.vector import Place, Vector

_AT_ONCE = 8
"""Partitions read concurrently for one page."""

_LISTS = 3
"""Lists of partitions tried for one start: each may be out of date."""


class FanOut:
    """A Reader of the entire collection for feeds that have one order per partition only."""

    def __init__(self, reader: Reader, provider: Provider, idle: IdlePlaces | None = None) -> None:
        """`idle`: each read costs the provider a call, so where nothing was found is not asked with every page."""
        self._reader = reader
        self._provider = provider
        self._idle = idle

    async def read(self, feed: Feed, read: PageRead) -> EncodedPage:
        """Like `Provider.read_page` for `EntireCollection`; splits and merges are followed and never shown."""
        with only_own_cancellation():
            return await (self._read(feed, read) if read.max_changes else self._resolved(feed, read))

    async def _resolved(self, feed: Feed, read: PageRead) -> EncodedPage:
        """An empty page at a start, once every partition has said that its position is still there."""
        if isinstance(read.start, After):
            vector = Vector.decode(read.start.cursor)
            resolved: Mapping[PartitionId, EncodedPage] = await self._resolve(feed, read, _after_each(vector))
        else:
            vector, resolved = await self._start(feed, read, read.start)
        at_starts = [Segment(pid, resolved[pid]) for pid in vector.open]
        return joined(vector, vector, at_starts, start=read.start, more_available=True)

    async def _read(self, feed: Feed, read: PageRead) -> EncodedPage:
        deadline = monotonic() + read.max_wait.total_seconds()
        if isinstance(read.start, After):
            vector = Vector.decode(read.start.cursor)
        else:
            vector, _ = await self._start(feed, read, read.start)
        joining = Joining(vector, read)
        await self._fill(feed, read, joining)
        left = timedelta(seconds=deadline - monotonic())
        if joining.complete and left > timedelta(0) and not joining.any_changes:
            await self._wait(feed, replace(read, max_wait=left), joining)
        # What follows takes its time with a thousand partitions, and so did what came before.
        await asyncio.sleep(0)
        more = not joining.complete
        return joined(vector, joining.vector, joining.segments, start=read.start, more_available=more)

    async def _start(
        self, feed: Feed, read: PageRead, start: Start
    ) -> tuple[Vector, Mapping[PartitionId, EncodedPage]]:
        """Fix every partition's position before the answer, so that none of them can age or be missed later."""
        for _ in range(_LISTS):
            partitions = await self._provider.list_partitions(feed, start)
            if isinstance(start, Now):
                partitions = [p for p in partitions if p.state is PartitionState.ACTIVE]
            try:
                resolved = await self._resolve(feed, read, {p.partition_id: start for p in partitions})
            except NotFound as error:
                # The topology moved on between the list and the read: list again.
                if error.reason != Reason.PARTITION_NOT_FOUND.value:
                    raise
            else:
                places = {pid: Place.after(page.content, page.content.cursor) for pid, page in resolved.items()}
                return Vector.beginning(partitions, places), resolved
        raise TransientFailure(
            "the list of the collection's partitions names one that is gone: try again",
            retry_after=timedelta(seconds=1),
        )

    async def _resolve(
        self, feed: Feed, read: PageRead, starts: Mapping[PartitionId, Start]
    ) -> dict[PartitionId, EncodedPage]:
        """An empty page at each start; the read finds out whether the position is still there."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def resolve(partition_id: PartitionId, start: Start) -> EncodedPage:
            async with gate:
                return await self._reader.read(feed, _resolving(read, partition_id, start))

        pages = await gather(resolve(pid, start) for pid, start in starts.items())
        return dict(zip(starts, pages, strict=True))

    async def _fill(self, feed: Feed, read: PageRead, joining: Joining) -> None:
        """Read every open partition in turn until the page is full or all of them were read to their end.

        What rests is left to the next page where more is to come anyway, and to the wait where one follows: a page that
        has changes waits no more, so then too more may be there.
        """
        resting = self._resting(feed, joining.vector)
        await self._read_in_turn(feed, read, joining, [pid for pid in joining.vector.open if pid not in resting])
        if not resting:
            return
        if read.max_wait or read.then_waits:
            joining.complete = joining.complete and not joining.any_changes
        elif joining.complete and not joining.full:
            await self._read_in_turn(feed, read, joining, resting)
        else:
            joining.complete = False

    def _resting(self, feed: Feed, vector: Vector) -> list[PartitionId]:
        """The partitions where it is too early to ask again."""
        if self._idle is None:
            return []
        of_feed = fingerprint(feed)
        return [pid for pid, at in vector.open.items() if self._idle.rests((of_feed, pid, at.cursor))]

    async def _read_in_turn(
        self, feed: Feed, read: PageRead, joining: Joining, partition_ids: Sequence[PartitionId]
    ) -> None:
        unread, known = list(partition_ids), set(joining.vector.open)
        while unread and not joining.full:
            turn, unread = unread[:_AT_ONCE], unread[_AT_ONCE:]
            quota = max(1, joining.room // len(turn))
            cursors = [joining.vector.open[pid].cursor for pid in turn]
            parts = [
                _part(
                    read,
                    pid,
                    cursor,
                    max_changes=quota,
                    parts=len(turn),
                    then_waits=bool(read.max_wait) or read.then_waits,
                )
                for pid, cursor in zip(turn, cursors, strict=True)
            ]
            pages = await gather(self._read_part(feed, pid, part) for pid, part in zip(turn, parts, strict=True))
            for pid, page in zip(turn, pages, strict=True):
                joining.add(pid, page)
                if page.content.retired:
                    opened = [child for child in joining.vector.open if child not in known]
                    known.update(opened)
                    if joining.late:
                        joining.complete = False
                    else:
                        unread += opened
        joining.complete = joining.complete and not unread

    async def _read_part(self, feed: Feed, partition_id: PartitionId, part: PageRead) -> EncodedPage:
        page = await self._reader.read(feed, part)
        # While others are still under way.
        await page.encode(items=part.items)
        if self._idle is not None and isinstance(part.start, After):
            content, of_feed = page.content, fingerprint(feed)
            place = of_feed, partition_id, part.start.cursor
            if content.changes or content.more_available or content.retired:
                self._idle.found_something(place)
            else:
                self._idle.found_nothing(place, (of_feed, partition_id, content.cursor))
        return page

    async def _wait(self, feed: Feed, read: PageRead, joining: Joining) -> None:
        """Wait on every open partition; the first that brings something ends the wait for all."""
        tasks: dict[asyncio.Task[EncodedPage], PartitionId] = {}
        try:
            for pid, at in joining.vector.open.items():
                part = _part(read, pid, at.cursor, max_changes=read.max_changes, wait=read.max_wait)
                tasks[asyncio.create_task(self._reader.read(feed, part))] = pid
                if len(tasks) % A_TURN == 0:
                    await asyncio.sleep(0)
            pending, news = set(tasks), False
            while pending and not news:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    page = task.result()
                    joining.add(tasks[task], page)
                    # One that has more has not waited, and asks for it in the next page.
                    news = news or page.content.retired or page.content.more_available or bool(page.content.changes)
                    # Its children were not read.
                    joining.complete = joining.complete and not page.content.retired
        finally:
            await give_up(tasks)


def _after_each(vector: Vector) -> dict[PartitionId, Start]:
    return {pid: After(at.cursor) for pid, at in vector.open.items()}


def _resolving(read: PageRead, partition_id: PartitionId, start: Start) -> PageRead:
    return replace(
        read,
        scope=PhysicalPartition(partition_id),
        start=start,
        max_changes=0,
        max_wait=timedelta(0),
    )


def _part(
    read: PageRead,
    partition_id: PartitionId,
    cursor: Cursor,
    *,
    max_changes: int,
    parts: int = 1,
    wait: timedelta = timedelta(0),
    then_waits: bool = False,
) -> PageRead:
    return replace(
        read,
        scope=PhysicalPartition(partition_id),
        start=After(cursor),
        max_changes=max_changes,
        max_bytes=max(1, read.max_bytes // parts),
        max_wait=wait,
        then_waits=then_waits,
    )
