"""Snapshot and stream of one feed: items in the order of their keys, and meanwhile the changes of those that came.

A page: if the place is far behind the newest tick, the changes up to it, for the keys whose items have come. Otherwise
the next items, by one statement in one snapshot S; a tick, which has everything that S sees; and the changes up to it,
those of the new items only if S does not see them. So nothing is held between two pages but the place, which the token
has: no transaction, no lock, nothing that grows with what was read.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from changefeed_gateway.core.columns import Columns
from changefeed_gateway.core.cursors import LazyCursors
from changefeed_gateway.core.errors import UnsupportedCapability
from changefeed_gateway.core.model import (
    After,
    CapabilityName,
    Cursor,
    EntireCollection,
    Page,
    PageRead,
    PhysicalPartition,
    SnapshotProgress,
)
from changefeed_gateway.providers.postgres.connections import Connections
from changefeed_gateway.providers.postgres.cursor import Position, RowCursors, encode_position, mark_of
from changefeed_gateway.providers.postgres.feeds import capture_stopped
from changefeed_gateway.providers.postgres.log.images import ImageReader
from changefeed_gateway.providers.postgres.log.items import ItemReader, ItemsRead
from changefeed_gateway.providers.postgres.log.partitions import View
from changefeed_gateway.providers.postgres.log.reading import LogReader, Stretch
from changefeed_gateway.providers.postgres.log.snapshot_place import (
    BEYOND,
    IN_PART,
    READ,
    Part,
    SnapshotPlace,
    decode_place,
    encode_place,
    keys_to_place,
    passing,
    seen_by,
)
from changefeed_gateway.providers.postgres.mapping import (
    DELETE,
    IMAGE,
    KEY,
    OP,
    SEQ,
    STOPPED,
    TRUNCATE,
    XID,
    ChangeMaker,
    Row,
    captured,
)
from changefeed_gateway.providers.postgres.statements import Statements
from changefeed_gateway.providers.postgres.ticks.feed import FeedTicks
from changefeed_gateway.providers.postgres.ticks.tick import Tick

_WINDOW: Final = 1_000
"""Changes that are looked for between two ticks around the items, at least: a reader of small pages must get on too."""

Look = Callable[[PageRead, Tick], Awaitable[View]]
"""What a read can see when a tick is the newest one."""


@dataclass
class _Draft:
    """A page in the making: its changes, and the place after each of them."""

    start: SnapshotPlace
    end: SnapshotPlace
    room: int
    bytes_left: int
    count: int = 0
    """Changes so far."""
    times: dict[int, datetime] = field(default_factory=dict)
    """When ticks were made, of all places."""
    calls: int = 0
    _runs: list[tuple[int, Columns, Callable[[int], SnapshotPlace]]] = field(default_factory=list)
    """Some changes, before which there are so many, and the place after each of them, by its index among these."""

    def add(self, changes: Columns, place: Callable[[int], SnapshotPlace]) -> None:
        """Append changes; `place` tells the place after each of them, by its index among these."""
        if changes:
            self._runs.append((self.count, changes, place))
            self.count += len(changes)
            self.room -= len(changes)
            self.bytes_left -= sum(map(len, filter(None, changes.items)))

    @property
    def changes(self) -> Columns:
        """All of them."""
        return Columns.joined([changes for _, changes, _ in self._runs])

    def place_after(self, index: int) -> SnapshotPlace:
        """The place after the change at an index."""
        first, _, place = next(run for run in reversed(self._runs) if run[0] <= index)
        return place(index - first)

    def cut(self, count: int) -> None:
        """Keep so many of the first changes, one at least."""
        if self.count > count:
            self.end = self.place_after(count - 1)
            self._runs = [
                (first, changes[: count - first], place) for first, changes, place in self._runs if first < count
            ]
            self.count = count

    def cursor_after(self, index: int) -> Cursor:
        """The cursor after the change at an index."""
        return self.encode(self.place_after(index))

    def encode(self, place: SnapshotPlace) -> Cursor:
        """A place as a cursor."""
        return encode_place(place, self.times[place.position.batch])


class SnapshotReader:
    """Reads the pages of a feed's snapshots."""

    def __init__(
        self,
        connections: Connections,
        statements: Statements,
        ticks: FeedTicks,
        log: LogReader,
        images: ImageReader,
        maker: ChangeMaker,
        look: Look,
        expire_time: Callable[[Tick], datetime],
    ) -> None:
        self._connections, self._statements, self._ticks = connections, statements, ticks
        self._log, self._images, self._maker = log, images, maker
        self._look, self._expire_time = look, expire_time
        self._items = ItemReader(connections, statements, ticks.definition)

    async def read_page(self, read: PageRead) -> Page:
        """`Provider.read_page` from a snapshot's start, or from a place in one."""
        if isinstance(read.scope, PhysicalPartition):
            raise UnsupportedCapability(
                "a physical partition may be merged meanwhile: take the entire collection, or a logical partition",
                reason=CapabilityName.SNAPSHOT_PHYSICAL_PARTITION_SCOPE.value,
            )
        if not self._ticks.definition.snapshots:
            raise UnsupportedCapability("this feed has no snapshots here", reason=CapabilityName.SNAPSHOT.value)
        place, newest = await self._start(read)
        draft = _Draft(place, place, read.max_changes, read.max_bytes)
        draft.times[place.position.batch] = await self._ticks.time_of(place.position)
        if not read.max_changes:
            await self._ticks.window.check(place.position.tick)
        elif place.complete and place.part is None:
            return await self._page(draft, finished=True)
        else:
            await self._fill(draft, read, newest)
        return await self._page(draft, finished=False)

    # --- From where

    async def _start(self, read: PageRead) -> tuple[SnapshotPlace, Tick]:
        ticks = self._ticks
        ticks.notice_other_server()
        if not isinstance(read.start, After):
            if ticks.definition.stopped is not None:
                raise capture_stopped(ticks.definition.name, ticks.definition.stopped)
            newest = await ticks.ticker.refresh()
            # Of one partition's items nobody has counted any.
            estimate = await self._items.estimate() if isinstance(read.scope, EntireCollection) else None
            return SnapshotPlace(Position(newest.id), estimate=estimate), newest
        place, mark = decode_place(read.start.cursor)
        # Only a tick made after the items of a part has all that they saw.
        newest = await (ticks.ticker.refresh() if place.part else ticks.ticker.recent())
        if place.position > Position(newest.id):
            newest = await ticks.ticker.refresh()
        if place.position > Position(newest.id):
            raise ticks.beyond()
        await ticks.check_mark(place.position, mark)
        if place.part is not None and place.part.tick:
            if place.part.tick > newest.id:
                raise ticks.beyond()
            await ticks.check_mark(Position(place.part.tick), place.part.mark)
        return place, newest

    # --- What makes a page

    async def _fill(self, draft: _Draft, read: PageRead, newest: Tick) -> None:
        view = await self._look(read, newest)
        if await self._is_behind(draft.end, newest, read):
            stretch = await self._read_log(draft, newest, read, view, self._images.rows_for(read))
            await self._add_changes(draft, stretch, newest, read, view)
            if await self._is_behind(draft.end, newest, read):
                draft.room = 0
        if draft.room > 0 and draft.bytes_left > 0 and not draft.end.complete:
            await self._add_items(draft, read, view)
        draft.cut(read.max_changes)

    async def _is_behind(self, place: SnapshotPlace, newest: Tick, read: PageRead) -> bool:
        """Whether there is more than what a page may leave to the changes after its items.

        A part must have ended, too, before the next one begins.
        """
        if place.part is not None or place.position.seq:
            return True
        (base,) = await self._ticks.window.between(place.position.tick, place.position.tick)
        return 2 * (newest.last_seq - base.last_seq) > read.max_changes

    async def _read_log(self, draft: _Draft, until: Tick, read: PageRead, view: View, size: int) -> Stretch:
        position = draft.end.position
        if position >= Position(until.id):
            return Stretch([], [], position, statements=0)
        stretch = await self._log.read(position, until.id, until, size, view.part(read.scope))
        await self._ticks.check_mark(position, mark_of(draft.times[position.batch]))
        draft.calls += stretch.statements
        draft.times.update(stretch.times)
        draft.times[stretch.end.batch] = await self._ticks.time_of(stretch.end)
        return stretch

    async def _add_changes(self, draft: _Draft, stretch: Stretch, until: Tick, read: PageRead, view: View) -> None:
        """Add what of a stretch of the log is for the consumer; at `until` the newest part is one with the others."""
        rows = captured(stretch.rows)
        stops = len(rows) < len(stretch.rows)
        if stops and not rows:
            if draft.count:
                return
            raise capture_stopped(self._ticks.definition.name, (stretch.rows[0][IMAGE] or b"").decode())
        if stops:
            stretch, _ = _parted(stretch, len(rows))
        where = await self._where(draft, draft.end, rows)
        await self._add_rows(draft, draft.end, stretch, read, view, where)
        if draft.end.part is not None and draft.end.position == Position(until.id):
            draft.end = draft.end._replace(part=None)

    async def _add_rows(
        self,
        draft: _Draft,
        place: SnapshotPlace,
        stretch: Stretch,
        read: PageRead,
        view: View,
        where: dict[bytes, int],
    ) -> None:
        """Add those of some rows that are for the consumer at a place, and move behind them if all of those fit."""
        rows, end = stretch.rows, stretch.end
        kept = passing(place, rows, where)
        chosen, ticks = [rows[i] for i in kept], [stretch.ticks[i] for i in kept]
        shown = await self._images.illustrate(chosen, replace(read, max_bytes=max(1, draft.bytes_left)))
        whole = len(shown.rows) == len(chosen)
        cursors = RowCursors(
            ticks, [row[SEQ] for row in chosen], len(shown.rows), complete=not end.seq, times=stretch.times
        )
        changes = self._maker.make(shown.rows, shown.items, view.ids_of(shown.rows, ticks))
        draft.add(changes, lambda index: place._replace(position=cursors.position(index)))
        draft.end = place._replace(position=end if whole else cursors.position(len(shown.rows) - 1))

    async def _add_items(self, draft: _Draft, read: PageRead, view: View) -> None:
        before = draft.end
        bounded = replace(read, max_bytes=draft.bytes_left)
        several = len(view.topology.partitions) > 1
        items = await self._items.read(before.key, draft.room, bounded, with_bucket=several)
        # P1: all that the items saw lies up to it.
        known = self._ticks.ticker.newest
        until = await self._ticks.with_numbers(items.numbers)
        draft.calls += 1 if until is known else 2
        window = await self._read_log(draft, until, read, view, max(read.max_changes, _WINDOW))
        sees = seen_by(items.snapshot)
        plain = _is_plain(window, until, sees)
        gone = await self._gone(draft, window, sees)
        if plain and gone and (first_new := _seen_at_first(window, sees)):
            # Whoever stops behind one of these must get on: in their own order they move the place.
            old, window = _parted(window, first_new)
            await self._add_changes(draft, old, until, read, view)
            if draft.end.position != old.end:
                return
            gone = await self._gone(draft, window, sees)
        if len(gone) >= draft.room or draft.bytes_left <= 0 or not plain:
            # In their own order they get on; the items are read again when these changes have come.
            await self._add_changes(draft, window, until, read, view)
            return
        before = draft.end
        await self._add_front(draft, before, window, gone, read, view)
        part = Part(before.key, items.snapshot, until.id, mark_of(until.at))
        after = before._replace(
            key=before.key if items.last is None else items.last,
            complete=items.last is None,
            part=part,
            items=before.items + len(items.keys),
        )
        self._add_read(draft, before, part, items, bounded, view)
        where = await self._where(draft, after, window.rows)
        await self._add_rows(draft, after, window, read, view, where)
        if draft.end.position == Position(until.id):
            draft.end = draft.end._replace(part=None)

    async def _gone(self, draft: _Draft, window: Stretch, sees: Callable[[int], bool]) -> list[int]:
        """Deletes of keys that were not read yet, and which the items saw."""
        rows = window.rows
        seen = [index for index, row in enumerate(rows) if row[OP] == DELETE and sees(row[XID])]
        where = await self._where(draft, draft.end, [rows[i] for i in seen])
        return [index for index in seen if where[rows[index][KEY]] != READ]

    async def _add_front(
        self, draft: _Draft, place: SnapshotPlace, window: Stretch, gone: Sequence[int], read: PageRead, view: View
    ) -> None:
        """Add deletes that the items saw already: an earlier try at this page may have brought what is gone."""
        rows = [window.rows[i] for i in gone]
        shown = await self._images.illustrate(rows, read)
        changes = self._maker.make(shown.rows, shown.items, view.ids_of(shown.rows, [window.ticks[i] for i in gone]))
        draft.add(changes, lambda index: place)

    def _add_read(
        self, draft: _Draft, before: SnapshotPlace, part: Part, items: ItemsRead, read: PageRead, view: View
    ) -> None:
        draft.add(
            self._items.changes(items, view.ids_of_buckets([bucket or 0 for bucket in items.buckets]), read),
            lambda index: before._replace(key=items.keys[index].decode(), part=part, items=before.items + index + 1),
        )

    async def _where(self, draft: _Draft, place: SnapshotPlace, rows: Sequence[Row]) -> dict[bytes, int]:
        """Where the keys of some changes lie."""
        keys = keys_to_place(rows)
        if not keys or not place.needs_order:
            return dict.fromkeys(keys, IN_PART if place.part else BEYOND)
        arguments = {
            "keys": [key.decode() for key in keys],
            "low": place.low,
            "high": place.high if place.part else None,
        }
        ((places,),) = await self._connections.fetch(self._statements.places, arguments)
        draft.calls += 1
        if places is None:
            raise capture_stopped(self._ticks.definition.name, "a value of the key's type is gone or has another name")
        return dict(zip(keys, places, strict=True))

    async def _page(self, draft: _Draft, *, finished: bool) -> Page:
        start, end = draft.start, draft.end
        (first,) = await self._ticks.window.between(start.position.tick, start.position.tick)
        (tick,) = await self._ticks.window.between(end.position.tick, end.position.tick)
        at_end = encode_position(end.position, draft.times[end.position.batch]) if finished else draft.encode(end)
        return Page(
            changes=draft.changes,
            cursors=LazyCursors(range(draft.count), draft.cursor_after),
            start=draft.encode(start),
            cursor=at_end,
            more_available=True,
            expire_time=self._expire_time(tick),
            start_expire_time=self._expire_time(first),
            comparable=False,
            provider_calls=draft.calls,
            snapshot=SnapshotProgress(items=end.items, estimate=end.estimate, finished=finished),
        )


def _seen_at_first(stretch: Stretch, sees: Callable[[int], bool]) -> int:
    """How many rows come before the first one that a snapshot does not see."""
    return next((index for index, row in enumerate(stretch.rows) if not sees(row[XID])), len(stretch.rows))


def _parted(stretch: Stretch, count: int) -> tuple[Stretch, Stretch]:
    """The first rows of a stretch, at least one, and the others."""
    if count == len(stretch.rows):
        return stretch, replace(stretch, rows=[], ticks=[])
    seqs = [row[SEQ] for row in stretch.rows]
    cursors = RowCursors(stretch.ticks, seqs, len(seqs), complete=not stretch.end.seq, times=stretch.times)
    first = replace(stretch, rows=stretch.rows[:count], ticks=stretch.ticks[:count], end=cursors.position(count - 1))
    return first, replace(stretch, rows=stretch.rows[count:], ticks=stretch.ticks[count:])


def _is_plain(window: Stretch, until: Tick, sees: Callable[[int], bool]) -> bool:
    """Whether items may stand before the changes around them: all these are there, and none empties what was read."""
    return window.end >= Position(until.id) and not any(
        row[OP] == STOPPED or (row[OP] == TRUNCATE and sees(row[XID])) for row in window.rows
    )
