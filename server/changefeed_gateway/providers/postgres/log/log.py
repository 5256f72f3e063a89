"""One feed's change log, as a provider serves it: from where to read, when to wait, what makes a page."""

from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Final

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import (
    CheckpointExpired,
    InternalFailure,
    NotFound,
    Reason,
)
from changefeed_gateway.core.model import (
    After,
    AtTime,
    Beginning,
    LogicalPartition,
    Now,
    Page,
    PageRead,
    Partition,
    PartitionId,
    PhysicalPartition,
    Scan,
    Snapshot,
)
from changefeed_gateway.core.supervision import Supervisor
from changefeed_gateway.providers.postgres.connections import Connections
from changefeed_gateway.providers.postgres.cursor import (
    Position,
    RowCursors,
    decode_position,
    encode_position,
)
from changefeed_gateway.providers.postgres.feeds import FeedDefinition, capture_stopped
from changefeed_gateway.providers.postgres.log.images import ImageReader
from changefeed_gateway.providers.postgres.log.partitions import BucketPartition, Buckets, Topology, View
from changefeed_gateway.providers.postgres.log.read_ahead import Place, ReadAhead
from changefeed_gateway.providers.postgres.log.reading import LogReader, Stretch
from changefeed_gateway.providers.postgres.log.snapshot import SnapshotReader
from changefeed_gateway.providers.postgres.log.snapshot_place import is_place
from changefeed_gateway.providers.postgres.mapping import IMAGE, SEQ, ChangeMaker, captured
from changefeed_gateway.providers.postgres.statements import Statements
from changefeed_gateway.providers.postgres.ticks.feed import FeedTicks
from changefeed_gateway.providers.postgres.ticks.tick import Tick
from changefeed_gateway.providers.postgres.ticks.ticker import Cadence

_FIRST_TICK: Final = 1


class FeedLog:
    """What all readers of one feed share in a process."""

    def __init__(
        self,
        connections: Connections,
        definition: FeedDefinition,
        cadence: Cadence,
        *,
        supervisor: Supervisor,
        listening: Callable[[], bool],
        reading_ahead: set[ReadAhead],
    ) -> None:
        """`listening` tells whether the doorbell can be heard; without it the feed is polled.

        `reading_ahead`: of which logs of the connection something has been read ahead.
        """
        self._connections = connections
        self._statements = Statements.of_feed(definition.feed_id, definition.image_function)
        self.ticks = FeedTicks(
            connections, definition, self._statements, cadence, supervisor=supervisor, listening=listening
        )
        self._topology: Topology | None = None
        self._topology_of = self.ticks.generation
        self._reader = LogReader(connections, self._statements, self.ticks.window, self.ticks.live)
        self._ahead = ReadAhead(reading_ahead)
        self._images = ImageReader(connections, self._statements, definition.image_mode)
        self._maker = ChangeMaker(
            incarnation=definition.incarnation,
            key_columns=definition.key_columns,
            key_types=definition.key_types,
        )
        self._snapshots = SnapshotReader(
            connections,
            self._statements,
            self.ticks,
            self._reader,
            self._images,
            self._maker,
            look=self._view,
            expire_time=self._expire_time,
        )

    async def list_partitions(self) -> list[Partition]:
        """`Provider.list_partitions` for this feed."""
        oldest = await self.ticks.window.oldest()
        return (await self._load_topology()).retained(oldest.id)

    async def read_page(self, read: PageRead) -> Page:
        """`Provider.read_page` for this feed."""
        try:
            return await self._read_page(read)
        except CheckpointExpired:
            if not isinstance(read.start, Beginning):
                raise
            # What the beginning was has been dropped since it was looked up.
            return await self._read_page(read)

    async def _read_page(self, read: PageRead) -> Page:
        if isinstance(read.start, Snapshot) or (isinstance(read.start, After) and is_place(read.start.cursor)):
            return await self._snapshots.read_page(read)
        deadline = monotonic() + min(read.max_wait, read.watermark_within or read.max_wait).total_seconds()
        start, began_at, view, fresh = await self._start(read)
        # P6: whoever stands at a tick that a fail-over loses must not go on behind another one of its number.
        stands_at = began_at
        stretch = Stretch([], [], start, statements=0)
        while read.max_changes and not stretch.rows:
            if stretch.end < view.end:
                stretch = await self._read_log(stretch.end, read, view)
                await self.ticks.window.check_same(stands_at)
                if stretch.end < view.end:
                    break
                stands_at = await self.ticks.window.tick(stretch.end.batch)
            elif view.retired:
                break
            elif read.max_wait:
                if (found := await self._wait(view, read, deadline)) is None:
                    break
                view = await self._view(read, found)
            elif not fresh:
                view, fresh = await self._view(read, await self.ticks.ticker.refresh()), True
            else:
                break
        if read.max_changes and not (fresh or read.max_wait) and stretch.end >= Position(view.newest.id):
            # The newest tick may be older than the call: only a fresh one can say that there is nothing more.
            view = await self._view(read, await self.ticks.ticker.refresh())
        await self.ticks.window.check_same(stands_at)
        return await self._page(read, start, began_at, stretch, view)

    async def aclose(self) -> None:
        """Stop making ticks; idempotent."""
        try:
            await self._ahead.aclose()
        finally:
            # Who closes may be cancelled, and those who wait for changes are to be sent away all the same.
            await self.ticks.aclose()

    # --- From where

    async def _start(self, read: PageRead) -> tuple[Position, Tick, View, bool]:
        """The position to read after, its batch's tick, up to where something is there, and whether that is fresh."""
        self.ticks.notice_other_server()
        mark: int | None = None
        began_at: Tick | None = None
        fresh = False
        match read.start:
            case Now():
                if self.ticks.definition.stopped is not None:
                    raise capture_stopped(self.ticks.definition.name, self.ticks.definition.stopped)
                newest, fresh = await self.ticks.ticker.refresh(), True
                position = Position(newest.id)
            case Beginning():
                position, newest = Position((await self.ticks.window.oldest()).id), await self.ticks.ticker.recent()
            case AtTime(time):
                position, newest = await self._position_at(time), await self.ticks.ticker.recent()
            case Snapshot() | Scan():
                raise InternalFailure("a snapshot has no position among the changes")
            case After(cursor):
                position, mark = decode_position(cursor)
                newest = await self.ticks.ticker.recent()
        if position > Position(newest.id) or await self._reaches_newest(position, newest, read):
            newest, fresh = await self.ticks.ticker.refresh(), True
        if position > Position(newest.id):
            raise self.ticks.beyond()
        if mark is not None:
            began_at = await self.ticks.check_mark(position, mark)
        view = await self._view(read, newest)
        if view.partition is not None:
            if view.retired and mark is None and not view.partition.retained((await self.ticks.window.oldest()).id):
                raise _no_partition(view.partition.partition_id)
            if (clipped := view.partition.clip(position)) != position:
                position, began_at = clipped, None
        if not read.max_changes:
            await self.ticks.window.check(position.tick)
        return position, began_at or await self.ticks.window.tick(position.batch), view, fresh

    async def _view(self, read: PageRead, newest: Tick) -> View:
        """What a read can see when `newest` is the newest tick. Raises NotFound."""
        topology = self._topology if self._topology_of == self.ticks.generation else None
        if topology is None or topology.tick < newest.topology:
            topology = await self._load_topology()
        if not isinstance(read.scope, PhysicalPartition):
            return View(newest, topology, None)
        if (partition := topology.find(read.scope.partition_id)) is None:
            # Its tick may be later than the newest one that this process knows.
            topology = await self._load_topology()
            partition = topology.find(read.scope.partition_id)
        if partition is None:
            raise _no_partition(read.scope.partition_id)
        if partition.start_tick > newest.id:
            newest = await self.ticks.ticker.refresh()
        return View(newest, topology, partition)

    async def _load_topology(self) -> Topology:
        generation, feed_id = self.ticks.generation, self.ticks.definition.feed_id
        rows = await self._connections.fetch(self._statements.partitions, {"feed_id": feed_id})
        self._topology_of = generation
        self._topology = Topology(
            BucketPartition(PartitionId(pid), Buckets(low, high), start, end) for pid, low, high, start, end in rows
        )
        return self._topology

    async def _position_at(self, time: datetime) -> Position:
        tick = await self.ticks.window.at(time)
        if tick is not None:
            return Position(tick.id)
        oldest = await self.ticks.window.oldest()
        why = "the feed began then" if oldest.id == _FIRST_TICK else "its retention dropped what was before"
        raise CheckpointExpired(
            f"there is no history before {oldest.at.isoformat()}, {why}: start at that time or later, from beginning"
            " or now",
            reason=Reason.START_TIME_BEFORE_RETENTION,
            metadata={"earliest_time": oldest.at.isoformat()},
        )

    async def _reaches_newest(self, position: Position, newest: Tick, read: PageRead) -> bool:
        """Whether a read that does not wait would come to the newest tick: what committed before it belongs to it."""
        if read.max_wait or not read.max_changes:
            return False
        if position.tick == newest.id or isinstance(read.scope, LogicalPartition):
            return True
        (base,) = await self.ticks.window.between(position.tick, position.tick)
        return newest.last_seq - base.last_seq <= read.max_changes

    # --- Until when

    async def _wait(self, view: View, read: PageRead, deadline: float) -> Tick | None:
        if (seconds := deadline - monotonic()) <= 0:
            return None
        with self.ticks.live.waited_for() if view.part(read.scope) is None else nullcontext():
            return await self.ticks.ticker.wait(view.newest.id, seconds)

    # --- What makes a page

    async def _read_log(self, after: Position, read: PageRead, view: View) -> Stretch:
        ahead = await self._ahead.come(self._place(after, read, view))
        # Where the log had no row at the time it may have some by now.
        if ahead is not None and ahead.rows:
            return ahead
        return await self._reader.read(
            after, view.end.tick, view.newest, self._images.rows_for(read), view.part(read.scope)
        )

    def _place(self, position: Position, read: PageRead, view: View) -> Place:
        end_tick = view.partition.end_tick if view.partition is not None else None
        return Place(position, view.part(read.scope), end_tick, read.max_changes, self.ticks.generation)

    def _go_on(self, start: Position, end: Position, read: PageRead, view: View) -> None:
        """Read what follows a page, where whoever reads is likely to come for it and nobody waits for a connection."""
        if end < view.end and not self._connections.waited_for:
            self._ahead.page_ended(
                self._place(start, read, view),
                self._place(end, read, view),
                lambda: self._reader.read(
                    end, view.end.tick, view.newest, self._images.rows_for(read), view.part(read.scope)
                ),
            )

    async def _page(self, read: PageRead, start: Position, began_at: Tick, stretch: Stretch, view: View) -> Page:
        """`began_at` is the tick of the start's batch."""
        rows = captured(stretch.rows[: read.max_changes])
        if stretch.rows and not rows and read.max_changes:
            raise capture_stopped(self.ticks.definition.name, (stretch.rows[0][IMAGE] or b"").decode())
        shown = await self._images.illustrate(rows, read)
        cursors = RowCursors(
            stretch.ticks,
            [row[SEQ] for row in stretch.rows],
            len(shown.rows),
            complete=not stretch.end.seq,
            times=stretch.times,
        )
        whole = len(shown.rows) == len(stretch.rows)
        end = stretch.end if whole else cursors.position(len(shown.rows) - 1)
        first = began_at if not start.seq else await self.ticks.window.tick(start.tick)
        tick = await self.ticks.window.tick(end.tick)
        end_time = stretch.times.get(end.batch) if stretch.rows else None
        retired = view.retired and end >= view.end
        if shown.rows:
            self._go_on(start, end, read, view)
        return Page(
            changes=self._maker.make(shown.rows, shown.items, view.ids_of(shown.rows, stretch.ticks)),
            cursors=cursors,
            start=encode_position(start, began_at.at),
            cursor=encode_position(end, end_time or await self.ticks.time_of(end)),
            more_available=end < view.end,
            retired=retired,
            children=view.children(tick.at) if retired else (),
            expire_time=self._expire_time(tick),
            start_expire_time=self._expire_time(first),
            watermark=self._watermark(end),
            provider_calls=stretch.statements,
        )

    def _watermark(self, end: Position) -> datetime | None:
        """The time before which everything committed lies up to a position; on an idle feed it moves without ticks."""
        if not end.seq and (time := self.ticks.ticker.complete_to(end.tick)) is not None:
            return time
        # What commits between a tick's snapshot and its time belongs to the next batch; before the time of the tick
        # before, nothing does.
        before = self.ticks.window.known(end.tick - 1)
        return before.at if before is not None else None

    def _expire_time(self, tick: Tick) -> datetime:
        """Ticks are dropped by whole days (UTC), not before the retention after their end is over."""
        at = tick.at.astimezone(UTC)
        end_of_day = at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        return end_of_day + self.ticks.definition.retention


def _no_partition(partition_id: PartitionId) -> NotFound:
    return NotFound(
        f"there is no partition {partition_id!r}: list the partitions anew", reason=Reason.PARTITION_NOT_FOUND
    )
