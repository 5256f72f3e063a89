"""Reads an entire collection over many partitions: parents before children, one vector of positions."""

import asyncio
from bisect import bisect_right
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import accumulate
from typing import TypeVar, overload

from changefeed_gateway.core.errors import NotFound, Reason, TransientFailure
from changefeed_gateway.core.model import (
    After,
    Change,
    Cursor,
    Feed,
    Now,
    Page,
    PageRead,
    PartitionId,
    PartitionState,
    PhysicalPartition,
    Start,
)
from changefeed_gateway.core.page import EncodedPage, Reader
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.core.vector import Place, Vector

_T = TypeVar("_T")

_AT_ONCE = 8
"""Partitions read concurrently for one page."""

_LISTS = 3
"""Lists of partitions tried for one start: each may be out of date."""


@dataclass(frozen=True, slots=True)
class _Segment:
    """Part of a joined page: one partition's page, and the vector before it."""

    partition_id: PartitionId
    page: EncodedPage
    before: Vector


class _VectorCursors(Sequence[Cursor]):
    """The vector after each change of a joined page, computed when asked."""

    def __init__(self, segments: Sequence[_Segment]) -> None:
        self._segments = segments
        self._ends = list(accumulate(len(s.page.page.changes) for s in segments))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Cursor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Cursor]: ...
    def __getitem__(self, index: int | slice) -> Cursor | list[Cursor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        number = bisect_right(self._ends, index)
        segment = self._segments[number]
        offset = index - (self._ends[number - 1] if number else 0)
        page = segment.page.page
        return segment.before.advanced(segment.partition_id, Place.after(page, page.cursors[offset])).encode()


class FanOut:
    """A Reader of the entire collection for feeds that have one order per partition only."""

    def __init__(self, reader: Reader, provider: Provider) -> None:
        self._reader = reader
        self._provider = provider

    async def read(self, feed: Feed, read: PageRead) -> EncodedPage:
        """Like `Provider.read_page` for `EntireCollection`; splits and merges are followed and never shown."""
        deadline = asyncio.get_running_loop().time() + read.max_wait.total_seconds()
        if isinstance(read.start, After):
            vector = Vector.decode(read.start.cursor)
            resolved: Mapping[PartitionId, EncodedPage] = (
                {} if read.max_changes else await self._resolve(feed, read, _after_each(vector))
            )
        else:
            vector, resolved = await self._start(feed, read, read.start)
        if not read.max_changes:
            at_starts = [_Segment(pid, resolved[pid], vector) for pid in vector.open]
            return _joined(vector, vector, at_starts, more_available=True)
        first = vector
        segments: list[_Segment] = []
        vector, complete = await self._fill(feed, read, vector, segments)
        left = timedelta(seconds=deadline - asyncio.get_running_loop().time())
        if complete and left > timedelta(0) and not _count(segments):
            vector, complete = await self._wait(feed, replace(read, max_wait=left), vector, segments)
        return _joined(first, vector, segments, more_available=not complete)

    async def _start(
        self, feed: Feed, read: PageRead, start: Start
    ) -> tuple[Vector, Mapping[PartitionId, EncodedPage]]:
        """Fix every partition's position before the answer, so that none of them can age or be missed later."""
        for _ in range(_LISTS):
            partitions = await self._provider.list_partitions(feed)
            if isinstance(start, Now):
                partitions = [p for p in partitions if p.state is PartitionState.ACTIVE]
            try:
                resolved = await self._resolve(feed, read, {p.partition_id: start for p in partitions})
            except NotFound as error:
                # The topology moved on between the list and the read: list again.
                if error.reason != Reason.PARTITION_NOT_FOUND.value:
                    raise
            else:
                places = {pid: Place.after(page.page, page.page.cursor) for pid, page in resolved.items()}
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

        pages = await _gather(resolve(pid, start) for pid, start in starts.items())
        return dict(zip(starts, pages, strict=True))

    async def _fill(self, feed: Feed, read: PageRead, vector: Vector, segments: list[_Segment]) -> tuple[Vector, bool]:
        """Read every open partition in turn until the page is full; tell whether all of them were read to their end."""
        unread = list(vector.open)
        complete = True
        while unread:
            turn, unread = unread[:_AT_ONCE], unread[_AT_ONCE:]
            room = read.max_changes - _count(segments)
            quota = max(1, room // len(turn))
            reads = [_part(read, pid, vector.open[pid].cursor, max_changes=quota, parts=len(turn)) for pid in turn]
            pages = await _gather(self._reader.read(feed, part) for part in reads)
            for pid, page in zip(turn, pages, strict=True):
                if len(page.page.changes) > read.max_changes - _count(segments):
                    return vector, False
                before = vector
                vector = _apply(vector, pid, page.page)
                segments.append(_Segment(pid, page, before))
                complete = complete and not page.page.more_available
                unread += [child for child in vector.open if child not in before.open]
            if _count(segments) >= read.max_changes or _item_bytes(segments) >= read.max_bytes:
                return vector, complete and not unread
        return vector, complete

    async def _wait(self, feed: Feed, read: PageRead, vector: Vector, segments: list[_Segment]) -> tuple[Vector, bool]:
        """Wait on every open partition; the first that brings something ends the wait for all."""
        tasks = {
            asyncio.ensure_future(
                self._reader.read(feed, _part(read, pid, at.cursor, max_changes=read.max_changes, wait=read.max_wait))
            ): pid
            for pid, at in vector.open.items()
        }
        complete = True
        try:
            pending = set(tasks)
            while pending and not any(s.page.page.changes or s.page.page.retired for s in segments):
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    page = task.result()
                    if len(page.page.changes) > read.max_changes - _count(segments):
                        complete = False
                        continue
                    before = vector
                    vector = _apply(vector, tasks[task], page.page)
                    segments.append(_Segment(tasks[task], page, before))
                    complete = complete and not (page.page.more_available or page.page.retired)
        finally:
            for task in tasks:
                task.cancel()
        return vector, complete


async def _gather(coroutines: Iterable[Coroutine[None, None, _T]]) -> list[_T]:
    """Run all at once; the first failure cancels the rest and is raised as it is."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _apply(vector: Vector, partition_id: PartitionId, page: Page) -> Vector:
    moved = vector.advanced(partition_id, Place.after(page, page.cursor))
    return moved.retired(page, partition_id) if page.retired else moved


def _count(segments: Sequence[_Segment]) -> int:
    return sum(len(segment.page.page.changes) for segment in segments)


def _item_bytes(segments: Sequence[_Segment]) -> int:
    return sum(len(change.item or "") for segment in segments for change in segment.page.page.changes)


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
) -> PageRead:
    return replace(
        read,
        scope=PhysicalPartition(partition_id),
        start=After(cursor),
        max_changes=max_changes,
        max_bytes=max(1, read.max_bytes // parts),
        max_wait=wait,
    )


def _joined(first: Vector, last: Vector, segments: Sequence[_Segment], *, more_available: bool) -> EncodedPage:
    changes: list[Change] = [change for segment in segments for change in segment.page.page.changes]
    page = Page(
        changes=changes,
        cursors=_VectorCursors(segments),
        start=first.encode(),
        cursor=last.encode(),
        more_available=more_available,
        expire_time=last.expire_time,
        watermark=_watermark(last, segments),
        provider_calls=sum(segment.page.page.provider_calls for segment in segments),
    )

    def records(items: bool) -> list[bytes]:
        return [record for segment in segments for record in segment.page.records(items=items)]

    return EncodedPage(page, records, live=bool(segments) and all(segment.page.live for segment in segments))


def _watermark(last: Vector, segments: Sequence[_Segment]) -> datetime | None:
    """The minimum over all open partitions; None unless each was read for this page and knows its own."""
    known = {segment.partition_id: segment.page.page.watermark for segment in segments}
    marks = [known.get(pid) for pid in last.open]
    certain = [mark for mark in marks if mark is not None]
    return min(certain) if certain and len(certain) == len(marks) and not last.waiting else None
