"""The newest pages of a feed, for every stream that has come as far."""

from bisect import bisect_right
from typing import Final

from changefeed_gateway.core.model import Cursor, Page
from changefeed_gateway.core.page import EncodedPage

_CHANGE_OVERHEAD_BYTES: Final = 500


class Ring:
    """The most recent pages of one tail, bounded in bytes, in one order of cursors."""

    def __init__(self, before: Page, *, max_bytes: int) -> None:
        """Begin after a page that reached the tail."""
        self.start = before.cursor
        self.end = before.cursor
        self.ended = False
        """True once the tail's partition is retired: nothing follows."""
        self.expire_time = before.expire_time
        self.watermark = before.watermark
        self._max_bytes = max_bytes
        self._bytes = 0
        self._pages: list[EncodedPage] = []
        self._ends: list[Cursor] = []

    def append(self, page: EncodedPage) -> None:
        """Add the page that begins at `end`; the oldest ones leave when the ring is full."""
        self.end = page.page.cursor
        self.ended = page.page.retired
        self.expire_time, self.watermark = page.page.expire_time, page.page.watermark
        if not page.page.changes and not self.ended:
            return
        self._pages.append(page)
        self._ends.append(self.end)
        self._bytes += _size(page.page)
        while self._bytes > self._max_bytes and len(self._pages) > 1:
            self._bytes -= _size(self._pages[0].page)
            self.start = self._ends[0]
            del self._pages[0], self._ends[0]

    def holds(self, cursor: Cursor) -> bool:
        """Tell whether nothing between a cursor and the tail is missing here."""
        return cursor >= self.start

    def page_after(self, cursor: Cursor) -> EncodedPage | None:
        """What follows a cursor, up to the end of the page it lies in; None at the tail."""
        index = bisect_right(self._ends, cursor)
        if index < len(self._pages):
            return self._pages[index].after(cursor)
        if self.ended:
            last = self._pages[-1]
            return last.cut(len(last.page.changes), len(last.page.changes))
        return None

    def page_of_key_after(self, cursor: Cursor, partition_key: str) -> EncodedPage | None:
        """The next page with changes of one partition key; None when there is none up to the tail."""
        for index in range(bisect_right(self._ends, cursor), len(self._pages)):
            page = self._pages[index]
            if page.concerns(partition_key):
                rest = page.after(cursor).of_partition_key(partition_key)
                if rest.page.changes:
                    return rest
        return None


def _size(page: Page) -> int:
    return sum(len(change.item or "") for change in page.changes) + _CHANGE_OVERHEAD_BYTES * len(page.changes)
