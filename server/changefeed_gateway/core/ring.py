"""The newest pages of a feed, for every stream that has come as far."""

import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Final

from changefeed_gateway.core.columns import Columns
from changefeed_gateway.core.model import Cursor, Page
from changefeed_gateway.core.page import EncodedPage
from changefeed_gateway.core.ring_budget import RingBudget

_PAGE_BYTES: Final = 1_500
"""The objects around a page's changes."""
_CHANGE_BYTES: Final = 600
"""The objects around a change's texts: tuples, their places in lists, time, cursor, place in the index by key."""
_BEHIND: Final = -sys.maxsize
"""Where a follower stands that has not come to the oldest page yet."""
_GONE: Final = -1
"""The number of a page that is in no ring."""
_RUNS: Final = 4
"""Runs of pages that are kept as one page: those that are behind stand at few places."""


class _Kept:
    """A page in a ring, as the budget counts it."""

    __slots__ = ("messages", "number", "page", "records", "texts")

    def __init__(self, page: EncodedPage) -> None:
        self.page = page
        self.texts = _text_bytes(page.content)
        self.records = self.messages = 0
        self.number = _GONE

    @property
    def size(self) -> int:
        return self.texts + self.records + self.messages


class _Run:
    """Several pages of a ring as one, while it is kept; only its messages are its own."""

    __slots__ = ("kept", "messages", "page")

    def __init__(self) -> None:
        self.page: EncodedPage
        self.messages = 0
        self.kept = True


class Ring:
    """The most recent pages of one tail, in one order of cursors."""

    def __init__(self, before: Page, budget: RingBudget) -> None:
        """Begin after a page that reached the tail."""
        self.start = before.cursor
        self.end = before.cursor
        self.ended = False
        """True once the tail's partition is retired: nothing follows."""
        self.expire_time = before.expire_time
        self.watermark = before.watermark
        self._budget = budget
        self._pages: list[_Kept] = []
        self._ends: list[Cursor] = []
        self._first = 0
        """The number of the oldest page here: pages are numbered in the order of the feed."""
        self._has_let_go = False
        """Whether a page had to leave."""
        self._places: dict[object, int] = {}
        """The first page that each follower has not passed."""
        self._standing: Counter[int] = Counter()
        """How many followers stand at a page, or behind all of them."""
        self._last: Page | None = None
        """The end of a retired partition, without its changes."""
        self._nothing: EncodedPage | None = None
        """What all are told who wait at the end."""
        self._runs: dict[tuple[int, int, bool], _Run] = {}
        """The runs of pages that were asked for last: many followers stand at the same place."""

    # --- The tail's side

    def append(self, page: EncodedPage) -> None:
        """Add the page that begins at `end`; the least useful pages of all rings leave when the budget is spent."""
        self._nothing = None
        self.end = page.content.cursor
        self.ended = page.content.retired
        self.expire_time, self.watermark = page.content.expire_time, page.content.watermark
        if self.ended:
            self._last = replace(page.content, changes=(), cursors=(), start=page.content.cursor)
        if not page.content.changes:
            return
        kept = self._kept(page, page)
        self._pages.append(kept)
        self._ends.append(self.end)
        kept.number = self._budget.enter(self, kept.size)
        self._budget.rank(self)
        self._budget.trim()

    def extend(self, page: EncodedPage) -> None:
        """Keep a page of the log that leads up to `start`, if there is room: who comes from there finds it here.

        Of streams that open on a busy feed, as after a restart, each would read it otherwise.
        """
        start = page.content.start
        if self._has_let_go or not start < self.start <= page.content.cursor:
            return
        shown = page.until(self.start)
        if shown.content.changes:
            kept = self._kept(page, shown)
            if not self._budget.has_room(kept.size):
                return
            self._pages.insert(0, kept)
            self._ends.insert(0, self.start)
            self._first -= 1
            kept.number = self._budget.enter(self, kept.size)
        self.start = start
        self._budget.rank(self)

    def _kept(self, page: EncodedPage, shown: EncodedPage) -> _Kept:
        """Take a page, of which a part is shown."""
        kept = _Kept(page)
        kept.page = EncodedPage(
            shown.content,
            lambda items: self._encoded(kept, page, shown, items),
            live=True,
            keep=lambda size: self._keep_message(kept, size),
        )
        return kept

    def _encoded(self, kept: _Kept, page: EncodedPage, shown: EncodedPage, items: bool) -> list[bytes]:
        """The records of a page, counted from now on."""
        records = page.records(items=items)
        if kept.number != _GONE:
            size = _record_bytes(records)
            kept.records += size
            self._budget.held += size
            self._budget.trim()
        return shown.records(items=items)

    def _keep_message(self, kept: _Kept, size: int) -> None:
        if kept.number != _GONE:
            kept.messages += size
            self._budget.held += size
            self._budget.trim()

    def drop_oldest(self) -> None:
        """Let the oldest page go; who stands there reads the log."""
        kept = self._pages[0]
        self._has_let_go = True
        self.start = self._ends[0]
        del self._pages[0], self._ends[0]
        self._standing[_BEHIND] += self._standing.pop(self._first, 0)
        self._first += 1
        self._let_go_of_runs()
        self._let_go(kept)

    def release(self) -> None:
        """Let every page go: nobody follows any more."""
        self._let_go_of_runs()
        for kept in self._pages:
            self._let_go(kept)
        self.start, self._first = self.end, self._first + len(self._pages)
        self._has_let_go = True
        self._pages, self._ends = [], []
        self._places, self._standing = {}, Counter()
        self._budget.rank(self)

    def _let_go(self, kept: _Kept) -> None:
        self._budget.leave(kept.number, kept.size)
        kept.number = _GONE
        # The page knows its account, so that without this only the garbage collector would find them.
        del kept.page
        self._budget.rank(self)

    def _let_go_of_runs(self) -> None:
        while self._runs:
            self._let_go_of_run(next(iter(self._runs)))

    def _let_go_of_run(self, key: tuple[int, int, bool]) -> None:
        run = self._runs.pop(key)
        self._budget.held -= run.messages
        run.kept = False
        # As for a page.
        del run.page

    # --- The followers' side

    @property
    def oldest_is_passed(self) -> bool:
        """Whether there is a page that no follower has still before it."""
        standing = self._standing.get
        return bool(self._pages) and not standing(_BEHIND) and not standing(self._first)

    def stand(self, follower: object, cursor: Cursor) -> None:
        """Note how far a follower has come."""
        place = _BEHIND if cursor < self.start else self._first + bisect_right(self._ends, cursor)
        before = self._places.get(follower)
        if place != before:
            self._leave(follower)
            self._places[follower] = place
            self._standing[place] += 1
            if before is None or before <= self._first or place <= self._first:
                self._budget.rank(self)

    def leave(self, follower: object) -> None:
        """Forget a follower."""
        self._leave(follower)
        self._budget.rank(self)

    def _leave(self, follower: object) -> None:
        place = self._places.pop(follower, None)
        if place is None:
            return
        place = place if place >= self._first else _BEHIND
        self._standing[place] -= 1
        if not self._standing[place]:
            del self._standing[place]

    def holds(self, cursor: Cursor) -> bool:
        """Tell whether nothing between a cursor and the tail is missing here."""
        return cursor >= self.start

    @property
    def pages(self) -> int:
        """How many pages it holds."""
        return len(self._pages)

    @property
    def changes(self) -> int:
        """How many changes they have."""
        return sum(len(kept.page.content.changes) for kept in self._pages)

    def changes_after(self, cursor: Cursor, partition_key: str | None = None) -> int:
        """How many of its changes follow a cursor, of one partition key or of all."""
        if cursor >= self.end:
            return 0
        total = 0
        for index in range(bisect_right(self._ends, cursor), len(self._pages)):
            page = self._pages[index].page
            if partition_key is not None:
                # Its index is there: those that wait for one partition key are woken by it.
                keys = page.partition_keys
                total += len(keys.get(partition_key, ())) + len(keys.get(None, ()))
            else:
                total += len(page.content.changes)
        return total

    @property
    def nothing(self) -> EncodedPage:
        """The empty page at the end."""
        if self._nothing is None:
            page = Page(
                changes=(),
                cursors=(),
                start=self.end,
                cursor=self.end,
                more_available=False,
                expire_time=self.expire_time,
                watermark=self.watermark,
            )
            # Its message is as small as itself.
            self._nothing = EncodedPage(page, lambda items: [], live=True, keep=lambda size: None)
        return self._nothing

    def goes_beyond(self, cursor: Cursor) -> bool:
        """Whether something follows a cursor."""
        return self._last is not None or (bool(self._ends) and self._ends[-1] > cursor)

    def page_after(
        self, cursor: Cursor, *, max_changes: int, max_bytes: int, partition_key: str | None = None
    ) -> EncodedPage | None:
        """What follows a cursor, of one partition key or of all; None at the tail, or when the rest is of others.

        Several pages become one, so that who is late comes to the end in few steps: up to `max_changes` changes and
        `max_bytes` in memory, or one page, which may have more of both.
        """
        if partition_key is not None:
            return self._page_of_key_after(cursor, partition_key, max_changes, max_bytes)
        index = bisect_right(self._ends, cursor)
        if index == len(self._pages):
            return None if self._last is None else EncodedPage(self._last, lambda items: [], live=True)
        last, changes, size = index, 0, 0
        for number in range(index, len(self._pages)):
            changes += len(self._pages[number].page.content.changes)
            size += self._pages[number].texts
            if number > index and (changes > max_changes or size > max_bytes):
                break
            last = number
        return self._run(index, last).after(cursor)

    def _run(self, first: int, last: int) -> EncodedPage:
        """Some pages in a row as one."""
        more = last + 1 < len(self._pages)
        if first == last and not more:
            return self._pages[last].page
        key = self._pages[first].number, self._pages[last].number, more
        run = self._runs.get(key)
        if run is None:
            if len(self._runs) == _RUNS:
                self._let_go_of_run(next(iter(self._runs)))
            run = self._runs[key] = _Run()
            pages = [kept.page for kept in self._pages[first : last + 1]]
            run.page = _joined(pages, more=more, keep=partial(self._keep_message_of_run, run))
        return run.page

    def _keep_message_of_run(self, run: _Run, size: int) -> None:
        if run.kept:
            run.messages += size
            self._budget.held += size
            self._budget.trim()

    def _page_of_key_after(
        self, cursor: Cursor, partition_key: str, max_changes: int, max_bytes: int
    ) -> EncodedPage | None:
        parts: list[EncodedPage] = []
        changes = size = 0
        for index in range(bisect_right(self._ends, cursor), len(self._pages)):
            page = self._pages[index].page
            if not page.concerns(partition_key):
                continue
            part = page.after(cursor).of_partition_key(partition_key)
            changes += len(part.content.changes)
            size += part.text_bytes.held
            if parts and (changes > max_changes or size > max_bytes):
                return _joined(parts, more=True)
            if part.content.changes:
                parts.append(part)
        if len(parts) > 1:
            return _joined(parts, more=False)
        return parts[0] if parts else None


def _joined(pages: Sequence[EncodedPage], *, more: bool, keep: Callable[[int], None] | None = None) -> EncodedPage:
    first, last = pages[0].content, pages[-1].content
    page = replace(
        last,
        changes=Columns.joined([page.content.changes for page in pages]),
        cursors=list(chain.from_iterable(page.content.cursors for page in pages)),
        start=first.start,
        start_expire_time=first.start_expire_time,
        more_available=more or last.more_available,
    )
    return EncodedPage(
        page,
        lambda items: [record for part in pages for record in part.records(items=items)],
        live=True,
        keep=keep,
    )


def _text_bytes(page: Page) -> int:
    """What a page's changes hold."""
    columns = Columns.of(page.changes)
    texts: tuple[Sequence[object], ...] = (
        columns.event_ids,
        columns.partition_keys,
        columns.sort_keys,
        columns.items,
        columns.sequences,
        columns.annotations,
        *columns.key_values,
    )
    total = sum(map(sys.getsizeof, chain.from_iterable(texts)))
    return _PAGE_BYTES + _CHANGE_BYTES * len(columns) + total


def _record_bytes(records: Sequence[bytes]) -> int:
    return sys.getsizeof(records) + sum(map(sys.getsizeof, records))
