"""Snapshot and stream under one token, for feeds without a single order.

The position of the changes is fixed, the items are scanned, and the changes follow from that position. A feed of one
order reads its snapshots itself, within that order.
"""

import json
from base64 import b85decode, b85encode
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from changefeed_gateway.core.cursors import LazyCursors
from changefeed_gateway.core.errors import InternalFailure, InvalidRequest, Reason
from changefeed_gateway.core.model import (
    After,
    AtTime,
    CapabilityName,
    Cursor,
    Feed,
    Now,
    Page,
    PageRead,
    PortabilityWarning,
    Scan,
    Snapshot,
    SnapshotProgress,
    Start,
)
from changefeed_gateway.core.page import EncodedPage, Reader

SNAPSHOTS: Final = (
    CapabilityName.SNAPSHOT,
    CapabilityName.SNAPSHOT_PHYSICAL_PARTITION_SCOPE,
    CapabilityName.SNAPSHOT_LOGICAL_PARTITION_SCOPE,
)
"""What a collection without snapshots lacks."""

SNAPSHOT_CONVERGES: Final = PortabilityWarning(
    code="SNAPSHOT_CONVERGES",
    message="a change that is made while a snapshot is read may arrive before and after its item: the last one wins",
)
"""On the pages of a `Scan` that reads items as they are at that time."""

_MARK: Final = b"\0snapshot\0"
"""How the cursor of a place in a snapshot begins, and no other."""
_ASSUMED_RATE: Final = 1_000
"""Items a second that are expected of a snapshot before enough of it has come to know better."""
_ENOUGH: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a snapshot stands, and where its changes begin."""

    changes: Cursor
    expires: int | None
    """Second in which the history after `changes` is expected to be lost."""
    items_expire: int | None
    """Second after which the items can no longer be read as they were; None where they are read as they are."""
    began: int
    estimate: int | None
    scan: Cursor
    """After the last item that was delivered."""
    items: int = 0
    complete: bool = False
    """Every item was delivered, and only the end is to be said."""

    def encode(self) -> Cursor:
        times = [self.expires, self.items_expire, self.began]
        body = [_text(self.changes), *times, self.estimate, _text(self.scan), self.items, self.complete]
        return Cursor(_MARK + json.dumps(body, separators=(",", ":")).encode())

    @classmethod
    def decode(cls, cursor: Cursor) -> "_Place | None":
        """The place of a cursor; None for one of changes. Raises InvalidRequest for what `encode` did not make."""
        if not cursor.startswith(_MARK):
            return None
        try:
            changes, expires, items_expire, began, estimate, scan, items, complete = json.loads(cursor[len(_MARK) :])
            return cls(
                changes=Cursor(b85decode(changes)),
                expires=expires,
                items_expire=items_expire,
                began=began,
                estimate=estimate,
                scan=Cursor(b85decode(scan)),
                items=items,
                complete=complete,
            )
        except (ValueError, TypeError) as error:
            raise InvalidRequest.field(
                "start_position.continuation_token", "not a place in a snapshot", reason=Reason.TOKEN_MALFORMED
            ) from error

    @property
    def last_second(self) -> int | None:
        """The last one from which a reader gets on."""
        ends = [self.expires] if self.complete else [self.expires, self.items_expire]
        return min((end for end in ends if end is not None), default=None)

    @property
    def expire_time(self) -> datetime | None:
        return None if self.last_second is None else datetime.fromtimestamp(self.last_second, UTC)

    def page(self, warnings: tuple[PortabilityWarning, ...] = ()) -> Page:
        """Nothing, at this place."""
        cursor = self.encode()
        return Page(
            changes=(),
            cursors=(),
            start=cursor,
            cursor=cursor,
            more_available=True,
            expire_time=self.expire_time,
            start_expire_time=self.expire_time,
            comparable=False,
            snapshot=SnapshotProgress(items=self.items, estimate=self.estimate),
            warnings=warnings,
        )


class Scanning:
    """A Reader of one scope whose snapshots scan the items, after the position of its changes is fixed."""

    def __init__(self, items: Reader, changes: Reader) -> None:
        """`items` reads a `Scan` of the scope, `changes` everything else."""
        self._items = items
        self._changes = changes

    async def read(self, feed: Feed, read: PageRead) -> EncodedPage:
        """Like `Provider.read_page`, with `Snapshot` as a start."""
        start = read.start
        if isinstance(start, Snapshot):
            place, begun = await self._begin(feed, read)
            return await self._scan(feed, read, place, begun) if read.max_changes else _empty(begun)
        place_read = _Place.decode(start.cursor) if isinstance(start, After) else None
        if place_read is None:
            return await self._changes.read(feed, read)
        if not read.max_changes or _is_over(place_read.expire_time):
            # P6: the read finds out whether the history is still there.
            await self._resolve(feed, read, After(place_read.changes))
        if place_read.complete:
            return _end(place_read) if read.max_changes else _empty(place_read.page())
        if read.max_changes:
            return await self._scan(feed, read, place_read)
        look = await self._look(feed, read, Scan(place_read.scan))
        return _empty(place_read.page((*look.warnings, *_late(place_read))))

    async def _begin(self, feed: Feed, read: PageRead) -> tuple[_Place, Page]:
        """P1: the position of the changes is fixed before the first item is read, or is where all items were read."""
        if feed.items_as_of:
            look = await self._look(feed, read, Scan(None))
            if look.watermark is None:
                raise InternalFailure("a scan of items as they were says when that was")
            changes = await self._resolve(feed, read, AtTime(look.watermark))
        else:
            changes = await self._resolve(feed, read, Now())
            look = await self._look(feed, read, Scan(None))
        place = _Place(
            changes=changes.cursor,
            expires=_second(changes.expire_time),
            items_expire=_second(look.expire_time),
            began=int(_now().timestamp()),
            estimate=look.snapshot.estimate if look.snapshot else None,
            scan=look.cursor,
        )
        return place, replace(
            place.page((*look.warnings, *_late(place))),
            provider_calls=look.provider_calls + changes.provider_calls,
            request_charge=look.request_charge + changes.request_charge,
        )

    async def _look(self, feed: Feed, read: PageRead, start: Scan) -> Page:
        """The place of a scan, and no items."""
        return (await self._items.read(feed, _resolving(read, start))).content

    async def _resolve(self, feed: Feed, read: PageRead, start: Start) -> Page:
        return (await self._changes.read(feed, _resolving(read, start))).content

    async def _scan(self, feed: Feed, read: PageRead, place: _Place, begun: Page | None = None) -> EncodedPage:
        """The next items; `begun`: what the start brought, when it was asked for with them."""
        page = await self._items.read(feed, replace(read, start=Scan(place.scan), max_wait=timedelta(0)))
        found = page.content
        complete = found.snapshot is not None and found.snapshot.finished
        end = replace(place, scan=found.cursor, items=place.items + len(found.changes), complete=complete)

        def cursor_after(index: int) -> Cursor:
            return replace(place, scan=found.cursors[index], items=place.items + index + 1).encode()

        content = replace(
            end.page((*found.warnings, *_late(end))),
            changes=found.changes,
            cursors=LazyCursors(range(len(found.changes)), cursor_after),
            start=place.encode(),
            start_expire_time=place.expire_time,
            provider_calls=sum(each.provider_calls for each in (begun, found) if each),
            request_charge=sum(each.request_charge for each in (begun, found) if each),
        )
        return EncodedPage(content, lambda items: page.records(items=items), origins=page.origins)


def _end(place: _Place) -> EncodedPage:
    """The page that says that a snapshot is finished: behind it are changes only."""
    progress = SnapshotProgress(items=place.items, estimate=place.estimate, finished=True)
    return _empty(replace(place.page(), cursor=place.changes, snapshot=progress))


def _empty(page: Page) -> EncodedPage:
    return EncodedPage(page, lambda items: [])


def _resolving(read: PageRead, start: Start) -> PageRead:
    return replace(read, start=start, max_changes=0, max_wait=timedelta(0))


def _late(place: _Place) -> tuple[PortabilityWarning, ...]:
    """A warning when a snapshot is expected to end after the history of its changes."""
    if place.last_second is None or place.estimate is None or place.complete:
        return ()
    now = _now().timestamp()
    elapsed = now - place.began
    rate = place.items / elapsed if place.items >= _ENOUGH and elapsed > 0 else _ASSUMED_RATE
    if now + max(0, place.estimate - place.items) / rate <= place.last_second:
        return ()
    return (
        PortabilityWarning(
            code="SNAPSHOT_OUTLIVES_HISTORY",
            message=f"{place.items} of about {place.estimate} items have come; at {rate:.0f} a second the snapshot ends"
            " after what it needs has begun to expire: read it faster, or lengthen the retention",
        ),
    )


def _is_over(time: datetime | None) -> bool:
    return time is not None and time <= _now()


def _second(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp())


def _now() -> datetime:
    return datetime.now(UTC)


def _text(cursor: Cursor) -> str:
    return b85encode(cursor).decode()
