"""One page of the pages of many partitions, with the vector after each of its changes."""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate
from typing import NamedTuple, overload

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.columns import Columns
from changefeed_gateway.core.cursors import LazyCursors
from changefeed_gateway.core.model import After, Cursor, Page, PageRead, PartitionId, Start
from changefeed_gateway.core.pace import LATE
from changefeed_gateway.core.page import EncodedPage
from changefeed_gateway.core.vector import Vector


class Segment(NamedTuple):
    """Part of a joined page: what was taken of one partition's page."""

    partition_id: PartitionId
    page: EncodedPage


class _VectorCursors(Sequence[Cursor]):
    """The vector after each change of a joined page, computed when asked."""

    def __init__(self, first: Vector, segments: Sequence[Segment]) -> None:
        self._first, self._segments = first, segments
        self._ends = list(accumulate(len(s.page.content.changes) for s in segments))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Cursor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Cursor]: ...
    def __getitem__(self, index: int | slice) -> Cursor | Sequence[Cursor]:
        if isinstance(index, slice):
            return LazyCursors(range(len(self))[index], self.__getitem__)
        index = range(len(self))[index]
        number = bisect_right(self._ends, index)
        vector = self._first.copy()
        for segment in self._segments[:number]:
            vector.pass_over(segment.partition_id, segment.page.content)
        segment = self._segments[number]
        cursor = segment.page.content.cursors[index - (self._ends[number - 1] if number else 0)]
        # The forecast of the page is one for its end; what was true before the page is true within it.
        vector.advance(segment.partition_id, vector.open[segment.partition_id]._replace(cursor=cursor))
        return vector.encode()


class Joining:
    """A joined page in the making: the position before it, what it holds, and the position after that."""

    def __init__(self, first: Vector, read: PageRead) -> None:
        self.first, self.vector = first, first.copy()
        self.segments: list[Segment] = []
        self.complete = True
        """Every partition was read to its end."""
        self.room = read.max_changes
        self._bytes_left = read.max_bytes
        self._late_at = monotonic() + LATE

    @property
    def full(self) -> bool:
        """Whether there is no room for more."""
        return self.room <= 0 or self._bytes_left <= 0

    @property
    def any_changes(self) -> bool:
        """Whether it has changes so far."""
        return any(segment.page.content.changes for segment in self.segments)

    @property
    def late(self) -> bool:
        """Whether what opened while the page was read is left to the next one."""
        return monotonic() >= self._late_at

    def add(self, partition_id: PartitionId, page: EncodedPage) -> None:
        """Take as much of a partition's page as there is room for."""
        part = page if len(page.content.changes) <= self.room else page.cut(0, self.room)
        self.complete = self.complete and not part.content.more_available
        if page.content.changes and not part.content.changes:
            return
        self.vector.pass_over(partition_id, part.content)
        self.segments.append(Segment(partition_id, part))
        self.room -= len(part.content.changes)
        self._bytes_left -= part.text_bytes.encoded


def joined(
    first: Vector, last: Vector, segments: Sequence[Segment], *, start: Start, more_available: bool
) -> EncodedPage:
    """The page of `segments` between two vectors; its records are those of the partitions' pages."""
    page = Page(
        changes=Columns.joined([segment.page.content.changes for segment in segments]),
        cursors=_VectorCursors(first, segments),
        start=start.cursor if isinstance(start, After) else first.encode(),
        cursor=last.encode(),
        more_available=more_available,
        expire_time=last.expire_time,
        start_expire_time=first.expire_time,
        watermark=_watermark(last, segments),
        provider_calls=sum(segment.page.content.provider_calls for segment in segments),
        request_charge=sum(segment.page.content.request_charge for segment in segments),
    )

    def records(items: bool) -> list[bytes]:
        return [record for segment in segments for record in segment.page.records(items=items)]

    return EncodedPage(
        page,
        records,
        live=bool(segments) and all(segment.page.live for segment in segments),
        origins=[origin for segment in segments for origin in segment.page.origins],
    )


def _watermark(last: Vector, segments: Sequence[Segment]) -> datetime | None:
    """The minimum over all open partitions; None unless each was read for this page and knows its own."""
    known = {segment.partition_id: segment.page.content.watermark for segment in segments}
    marks = [known.get(pid) for pid in last.open]
    certain = [mark for mark in marks if mark is not None]
    return min(certain) if certain and len(certain) == len(marks) and not last.waiting else None
