"""A page together with its wire records, each made once however many streams send it."""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from sys import getsizeof
from typing import Final, NamedTuple, Protocol

from changefeed_gateway.core.answer import Batch, ChangeEncoder, Heartbeat
from changefeed_gateway.core.columns import Columns
from changefeed_gateway.core.cursors import LazyCursors
from changefeed_gateway.core.model import Change, ChangeType, Cursor, Feed, Page, PageRead, Scope, SnapshotProgress

_BYTES_OBJECT: Final = getsizeof(b"")
_A_TURN: Final = 1_000
"""Changes encoded in one turn of the loop: some 3 ms."""
_MESSAGE_BYTES: Final = 600
"""A message beside its records and its token: its times, its tags, the objects themselves."""


class TextBytes(NamedTuple):
    """Bytes of a page's items."""

    held: int
    """As Python holds them."""
    encoded: int
    """In records."""


class EncodedPage:
    """A page whose records are encoded on first use and then shared by everything cut from it."""

    __slots__ = (
        "_by_key",
        "_encode",
        "_keep",
        "_messages",
        "_origins",
        "_record_bytes",
        "_records",
        "_source",
        "_text_bytes",
        "content",
        "live",
        "weight",
    )

    def __init__(
        self,
        page: Page,
        source: Callable[[bool], list[bytes]],
        *,
        live: bool = False,
        origins: "Sequence[EncodedPage]" = (),
        keep: Callable[[int], None] | None = None,
    ) -> None:
        """`keep`: many streams send the page, so its messages are kept with it; called with the bytes of each."""
        self.content = page
        self.live = live
        """True when it was read at a tail, not behind it in the log."""
        self._origins = origins
        self._source = source
        self._records: dict[bool, list[bytes]] = {}
        self._record_bytes: dict[bool, int] = {}
        self._keep = keep
        self._encode: Callable[..., list[bytes]] | None = None
        """Some changes of a provider's page."""
        self._messages: dict[tuple[Scope, bool], Batch | Heartbeat] = {}
        self.weight: int | None = None
        """Bytes of its records, as the budget of pages in hand counts them."""
        self._by_key: dict[str | None, list[int]] | None = None
        self._text_bytes: TextBytes | None = None

    @classmethod
    def of(cls, feed: Feed, page: Page, encoder: ChangeEncoder, *, live: bool = False) -> "EncodedPage":
        """Wrap a provider's page, its changes column by column from here on."""
        if page.changes:
            page = replace(page, changes=Columns.of(page.changes))
        encoded = cls(page, lambda items: encoder(feed, page.changes, items=items), live=live)
        encoded._encode = partial(encoder, feed)
        return encoded

    def records(self, *, items: bool) -> list[bytes]:
        """One wire record a change."""
        records = self._records.get(items)
        if records is None:
            records = self._records[items] = self._source(items)
        return records

    async def encode(self, *, items: bool) -> None:
        """Make the records, in several turns of the loop where there are many."""
        changes, records = self.content.changes, list[bytes]()
        if self._encode is not None and len(changes) > _A_TURN and items not in self._records:
            for low in range(0, len(changes), _A_TURN):
                records += self._encode(changes[low : low + _A_TURN], items=items)
                await asyncio.sleep(0)
            self._records.setdefault(items, records)
        self.records(items=items)

    def record_bytes(self, *, items: bool) -> int:
        """The bytes of the records together."""
        size = self._record_bytes.get(items)
        if size is None:
            size = self._record_bytes[items] = sum(map(len, self.records(items=items)))
        return size

    def message(self, scope: Scope, token: Callable[[Scope, Cursor], str], *, items: bool) -> Batch | Heartbeat:
        """The whole page as one message of a scope; `token` makes the token of its end.

        One for all who send it, if the page is one of many.
        """
        message = self._messages.get((scope, items))
        if message is None:
            message = self._make_message(token(scope, self.content.cursor), items=items)
            if self._keep is not None:
                self._messages[scope, items] = message
                self._keep(self.record_bytes(items=items) + len(message.token) + _MESSAGE_BYTES)
        return message

    def _make_message(self, token: str, *, items: bool) -> Batch | Heartbeat:
        page, shared = self.content, self._keep is not None
        if not page.changes:
            return Heartbeat(token=token, expire_time=page.expire_time, watermark=page.watermark, shared=shared)
        return Batch(
            records=self.records(items=items),
            token=token,
            expire_time=page.expire_time,
            watermark=page.watermark,
            snapshot=page.snapshot,
            shared=shared,
        )

    @property
    def origins(self) -> "Sequence[EncodedPage]":
        """The pages that came from a provider and whose changes and records this one shares; itself if it did."""
        # Not kept: a page that refers to itself would wait for the collector.
        return self._origins or (self,)

    @property
    def text_bytes(self) -> "TextBytes":
        """What the items of the page take."""
        if self._text_bytes is None:
            items = [item for item in Columns.of(self.content.changes).items if item is not None]
            encoded = sum(map(len, items))
            self._text_bytes = TextBytes(encoded + _BYTES_OBJECT * len(items), encoded)
        return self._text_bytes

    def after(self, cursor: Cursor) -> "EncodedPage":
        """The part behind a cursor of the same order; the page itself when that is all of it."""
        passed = bisect_right(self.content.cursors, cursor) if cursor > self.content.start else 0
        return self if passed == 0 else self.cut(passed, len(self.content.changes), start=cursor)

    def until(self, cursor: Cursor) -> "EncodedPage":
        """The part up to a cursor of the same order, from which more follows; the page itself when it ends there."""
        if cursor == self.content.cursor:
            return self
        part = self.cut(0, bisect_right(self.content.cursors, cursor))
        content = replace(
            part.content,
            cursor=cursor,
            more_available=True,
            expire_time=self.content.start_expire_time,
            watermark=None,
        )
        return EncodedPage(content, lambda items: part.records(items=items), live=self.live, origins=self.origins)

    def cut(self, low: int, high: int, *, start: Cursor | None = None) -> "EncodedPage":
        """Changes `low` to `high`; what is true of its end (retirement, forecasts) stays only if `high` is its end."""
        page = self.content
        whole = high == len(page.changes)
        if whole and low == 0:
            return self
        cursor = page.cursor if whole else page.cursors[high - 1] if high else page.start
        part = replace(
            page,
            changes=page.changes[low:high],
            cursors=page.cursors[low:high],
            start=start if start is not None else (page.cursors[low - 1] if low else page.start),
            cursor=cursor,
            more_available=page.more_available or not whole,
            retired=page.retired and whole,
            children=page.children if whole else (),
            expire_time=page.expire_time if whole else page.start_expire_time,
            watermark=page.watermark if whole else None,
            snapshot=page.snapshot if whole else page.snapshot and _without(page.snapshot, page.changes[high:]),
        )
        return EncodedPage(
            part, lambda items: self.records(items=items)[low:high], live=self.live, origins=self.origins
        )

    @property
    def partition_keys(self) -> dict[str | None, list[int]]:
        """Which changes belong to which partition key; under None those that concern every key."""
        if self._by_key is None:
            self._by_key = {}
            columns = Columns.of(self.content.changes)
            for index, (change_type, key) in enumerate(zip(columns.change_types, columns.partition_keys, strict=True)):
                name = None if change_type is ChangeType.TRUNCATE else key.decode()
                self._by_key.setdefault(name, []).append(index)
        return self._by_key

    def concerns(self, partition_key: str) -> bool:
        """Whether any change belongs to a partition key, or to all."""
        return partition_key in self.partition_keys or None in self.partition_keys

    def of_partition_key(self, partition_key: str) -> "EncodedPage":
        """The changes of one partition key; the cursor still passes the whole page."""
        keys = self.partition_keys
        chosen = sorted([*keys.get(partition_key, ()), *keys.get(None, ())])
        page = self.content
        part = replace(
            page,
            changes=Columns.of(page.changes).chosen(chosen),
            cursors=LazyCursors(chosen, page.cursors.__getitem__),
        )

        def records(items: bool) -> list[bytes]:
            encoded = self.records(items=items)
            return [encoded[i] for i in chosen]

        return EncodedPage(part, records, live=self.live, origins=self.origins)


def _without(progress: SnapshotProgress, cut_off: Sequence[Change]) -> SnapshotProgress:
    """How far a snapshot has come before the end of a page."""
    items = sum(change_type is ChangeType.SNAPSHOT for change_type in Columns.of(cut_off).change_types)
    return replace(progress, items=progress.items - items, finished=False)


class Reader(Protocol):
    """Reads pages with their records: straight from a provider, or through a shared tail."""

    async def read(self, feed: Feed, read: PageRead) -> EncodedPage:
        """Like `Provider.read_page`."""
        ...


def batches(records: Sequence[bytes], *, max_bytes: int, max_count: int) -> Iterator[tuple[int, int]]:
    """Cut records into runs below a number of bytes and of records; one record alone may exceed `max_bytes`."""
    low = size = 0
    for index, record in enumerate(records):
        if index > low and (size + len(record) > max_bytes or index - low == max_count):
            yield low, index
            low, size = index, 0
        size += len(record)
    if low < len(records):
        yield low, len(records)
