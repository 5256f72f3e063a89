"""Cloud Spanner as a provider of change feeds: a table's change stream, whose partition tokens are the partitions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.cursors import LazyCursors
from changefeed_gateway.core.errors import (
    ChangeFeedError,
    FeedNotProvisioned,
    InternalFailure,
    InvalidRequest,
    NotFound,
    Reason,
    UnsupportedCapability,
)
from changefeed_gateway.core.model import (
    Address,
    After,
    AtTime,
    Beginning,
    CapabilityName,
    Child,
    Feed,
    Now,
    Page,
    PageRead,
    Partition,
    PartitionId,
    PartitionState,
    PhysicalPartition,
    Scan,
    Snapshot,
    Start,
)
from changefeed_gateway.core.refusals import ForTheCaller
from changefeed_gateway.providers.spanner import instants
from changefeed_gateway.providers.spanner.catalog import Catalog
from changefeed_gateway.providers.spanner.cursor import Position, decode, encode
from changefeed_gateway.providers.spanner.errors import (
    ForeignPartition,
    OutsidePartition,
    StreamGone,
    TableGone,
    TooFarFuture,
    TooFarPast,
    before_retention,
    expired,
    no_partition,
    recreated,
    table_recreated,
    unknown,
)
from changefeed_gateway.providers.spanner.gathering import Amount
from changefeed_gateway.providers.spanner.life import Life
from changefeed_gateway.providers.spanner.mapping import ChangeMaker, has_fewer
from changefeed_gateway.providers.spanner.partitions import Census, Topology, is_creation
from changefeed_gateway.providers.spanner.query import StreamQueries
from changefeed_gateway.providers.spanner.reading import Batch, Pace, PartitionReader
from changefeed_gateway.providers.spanner.scanning import scan
from changefeed_gateway.providers.spanner.sdk import Endpoint, Retries, Sdk
from changefeed_gateway.providers.spanner.table import Described, Stream, capabilities, warnings

_LONGEST_TOKEN: Final = 4_096
"""Characters of a partition token; they have 100 to 200."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpannerOptions:
    """How the provider treats one database."""

    endpoint: Endpoint
    tables: Mapping[str, str | None] = field(default_factory=dict)
    """The tables that are served, each with its change stream, or None where only one watches it; every table that a
    change stream watches when it is empty."""
    catalog_age: timedelta = timedelta(seconds=2)
    """How long what INFORMATION_SCHEMA said is taken for true: it answers slowly, and every call of a consumer asks.
    That the stream is there is found by the read itself."""
    retries: Retries = field(default_factory=Retries)
    pace: Pace = field(default_factory=Pace)


class SpannerProvider:
    """One database. Implements `changefeed_gateway.core.provider.Provider`; a collection is a table."""

    def __init__(self, options: SpannerOptions) -> None:
        self._options = options
        self._sdk = Sdk(options.endpoint, options.retries)
        self._lives: dict[Stream, Life] = {}
        self._catalog = Catalog(self._sdk, options.tables, options.catalog_age)

    @property
    def provider_id(self) -> str:
        """The provider's name: "spanner"."""
        return "spanner"

    async def start(self) -> None:
        """Find credentials. Raises ProviderAuthenticationFailed; a database that is away is waited for."""
        await self._sdk.find_credentials()

    async def ping(self) -> None:
        """Ask the database for its time, as every read does. Raises ChangeFeedError when it does not answer."""
        await self._sdk.now()

    async def open_feed(self, address: Address) -> Feed:
        """Ask for the table, which a change stream must watch. What the catalog said may be two seconds old."""
        database = self._options.endpoint.database
        if address.database not in ("", database):
            raise NotFound(
                f"the connection {address.connection!r} is to the database {database}: leave the database empty, or"
                " name a connection to the other one",
                reason=Reason.DATABASE_NOT_FOUND,
            )
        if self._options.tables and address.collection not in self._options.tables:
            raise NotFound(f"the connection {address.connection!r} does not serve this table: name it in its settings")
        described = await self._catalog.describe(address.collection)
        stream = described.stream
        self._forget_other_lives(stream)
        return Feed(
            address=replace(address, database=database),
            provider_id="spanner",
            # Spanner tells no creation time. A stream that was made anew is told from the first by a position.
            incarnation=stream.name,
            capabilities=capabilities(stream),
            item_state=stream.item_state,
            single_order=False,
            items_as_of=True,
            commit_time="exact, by Spanner's own clock",
            retention=stream.retention,
            warnings=warnings(stream),
            provider_data=described,
        )

    async def list_partitions(self, feed: Feed, start: Start | None = None) -> Sequence[Partition]:
        """The partitions from which a reading sets out, which is one query; without a start all of their descent."""
        stream = feed.opened_as(Described).stream
        topology = self._life(stream).topology
        try:
            match start:
                case Now():
                    return _active(await topology.at_now())
                case Beginning():
                    return _active(await topology.at_beginning())
                case AtTime(time):
                    return _active(await topology.at(await self._check_time(instants.of_datetime(time))))
                case _:
                    return await topology.all()
        except ForTheCaller as error:
            raise await self._explain(error, stream, start) from error

    async def read_page(self, feed: Feed, read: PageRead) -> Page:
        """Read one partition, or the table's rows for a `Scan`."""
        if isinstance(read.start, Scan):
            return await self._scan(feed.opened_as(Described).stream, read, read.start)
        if not isinstance(read.scope, PhysicalPartition):
            raise UnsupportedCapability(
                "a change-stream partition holds many keys: read the entire collection, and choose",
                reason=CapabilityName.LOGICAL_PARTITION_SCOPE.value,
            )
        stream, token = feed.opened_as(Described).stream, read.scope.partition_id
        if not 0 < len(token) <= _LONGEST_TOKEN:
            raise no_partition(token)
        try:
            with self._life(stream).reader(token) as reader:
                return await self._read(feed, token, reader, read)
        except ForeignPartition as error:
            # A token of ours names a partition of ours, unless the stream is another one by now.
            raise recreated() if isinstance(read.start, After) else no_partition(token) from error
        except ForTheCaller as error:
            raise await self._explain(error, stream, read.start) from error

    async def _scan(self, stream: Stream, read: PageRead, start: Scan) -> Page:
        try:
            return await scan(self._sdk, self._life(stream).topology, stream, read, start)
        except ForTheCaller as error:
            raise await self._explain(error, stream, start) from error

    async def aclose(self) -> None:
        """Stop everything; idempotent. Who waits is told so."""
        self._catalog.close()
        for life in self._lives.values():
            life.close()
        await self._sdk.close()

    # --- One partition

    async def _read(self, feed: Feed, token: PartitionId, reader: PartitionReader, read: PageRead) -> Page:
        stream = feed.opened_as(Described).stream
        deadline = monotonic() + read.max_wait.total_seconds()
        calls = reader.calls
        start = await self._resolve(stream, token, reader, read.start)
        if not read.max_changes:
            if isinstance(read.start, After):
                await reader.check(start)
            return _page(stream, token, start, Batch((), (), start, more=True), read, 0)
        batch = await self._fetch(reader, start, read, deadline)
        columns = await self._columns(feed, batch) if read.items else 0
        return replace(_page(stream, token, start, batch, read, columns), provider_calls=reader.calls - calls)

    async def _fetch(self, reader: PartitionReader, start: Position, read: PageRead, deadline: float) -> Batch:
        amount = Amount(read.max_changes, read.max_bytes)
        if not read.max_wait:
            near = reader.near(start, amount) if read.then_waits else None
            return near or await reader.look(start, amount)
        position, clear_to = start, 0
        while True:
            batch = await reader.wait(position, amount, deadline, clear_to)
            if batch is not None:
                return batch
            batch = await reader.look(position, amount)
            if batch.mods or batch.children or monotonic() >= deadline:
                return batch
            position, clear_to = batch.position, batch.clear_to

    async def _columns(self, feed: Feed, batch: Batch) -> int:
        """How many columns a row has of which none is missing; 0 where none is missing of any.

        P5: the change stream may have been altered since the feed was opened, to watch fewer of them.
        """
        opened, table = feed.opened_as(Described), feed.address.collection
        if opened.stream.missing_items:
            return 0
        life, columns = self._life(opened.stream), self._catalog.columns_of(table, opened)
        fewer = [taken.record.time for taken in batch.mods if has_fewer(taken.record, columns)]
        if not fewer:
            return 0
        if not life.narrowed:
            # They may as well be of a time before a column was added, or after one was dropped.
            life.narrowed = not (await self._catalog.describe(table, since=max(fewer))).stream.whole
        return columns if life.narrowed else 0

    async def _resolve(self, stream: Stream, token: str, reader: PartitionReader, start: Start) -> Position:
        topology = self._life(stream).topology
        match start:
            case After(cursor):
                return decode(cursor)
            case Now():
                census = await topology.at_now()
                # After everything that the strong read saw.
                return await self._within(census, token, reader, Position(census.time + 1))
            case Beginning():
                census = await topology.at_beginning()
                position = await self._within(census, token, reader, Position(census.time))
                if position.time < census.time:
                    raise no_partition(token)
                return position
            case AtTime(time):
                moment = await self._check_time(instants.of_datetime(time))
                return await self._within(Census(moment, ()), token, reader, Position(moment))
            case Snapshot() | Scan():
                raise InternalFailure("a snapshot has no position among the changes")

    async def _within(self, census: Census, token: str, reader: PartitionReader, position: Position) -> Position:
        """A position that lies within the partition, or at its end where it ended before."""
        if token not in census.tokens:
            try:
                await reader.probe(census.time)
            except OutsidePartition as outside:
                if outside.first is None or outside.last is None:
                    raise unknown("a query before or after a partition") from outside
                return Position(min(max(census.time, outside.first), outside.last))
        return position

    async def _check_time(self, moment: int) -> int:
        # The moment after one that was read, with which the changes after a snapshot begin, is none of the future.
        if moment > await self._sdk.now() + 1:
            raise InvalidRequest.field("start_position.at_time", "lies in the future: name a time up to now")
        return moment

    # --- The stream

    def _forget_other_lives(self, stream: Stream) -> None:
        for known in [known for known in self._lives if known.table == stream.table and known != stream]:
            if not self._lives[known].in_use:
                self._lives.pop(known).close()

    def _life(self, stream: Stream) -> Life:
        if stream not in self._lives:
            heartbeat = int(self._options.pace.heartbeat.total_seconds() * 1_000)
            queries = StreamQueries(self._sdk, stream.name, heartbeat)

            def make_reader(token: str) -> PartitionReader:
                return PartitionReader(queries, stream.table, token, self._options.pace)

            self._lives[stream] = Life(Topology(queries, stream.retention, make_reader), make_reader)
        return self._lives[stream]

    async def _explain(self, error: ForTheCaller, stream: Stream, start: Start | None) -> ChangeFeedError:
        """What it means for the caller that the service refused."""
        match error:
            case TooFarPast(earliest=earliest):
                if not _is_held(start):
                    return before_retention() if isinstance(start, AtTime) else expired()
                made_anew = earliest is not None and is_creation(earliest, await self._sdk.now(), stream.retention)
                return recreated() if made_anew else expired()
            case TableGone():
                return table_recreated() if _is_held(start) else NotFound(f"there is no table {stream.table} any more")
            case StreamGone():
                return await self._what_instead(stream, start)
            case TooFarFuture():
                return InvalidRequest.field("start_position.at_time", "lies in the future: name a time up to now")
            case _:
                return unknown("a query of the change stream")

    async def _what_instead(self, gone: Stream, start: Start | None) -> ChangeFeedError:
        """Why a stream is not there any more."""
        try:
            await self._catalog.describe_now(self._catalog.name_of(gone))
        except (FeedNotProvisioned, NotFound) as error:
            return error
        if _is_held(start):
            return recreated()
        return FeedNotProvisioned(f"the change stream {gone.name} was dropped and made anew meanwhile: try again")


def _is_held(start: Start | None) -> bool:
    """Whether a start was answered before, and may be of another life of the stream or the table."""
    return isinstance(start, After) or (isinstance(start, Scan) and start.after is not None)


def _active(census: Census) -> list[Partition]:
    return [Partition(partition_id=PartitionId(token), state=PartitionState.ACTIVE) for token in census.tokens]


def _page(stream: Stream, token: PartitionId, start: Position, batch: Batch, read: PageRead, columns: int) -> Page:
    maker = ChangeMaker(stream.key, token, whole=stream.whole, columns=columns)
    try:
        changes = [maker.make(taken, read) for taken in batch.mods]
    except (ValueError, KeyError, TypeError) as error:
        raise unknown("a change record") from error
    return Page(
        changes=changes,
        cursors=LazyCursors(batch.positions, encode),
        start=read.start.cursor if isinstance(read.start, After) else encode(start),
        cursor=encode(batch.position),
        more_available=batch.more,
        retired=bool(batch.children),
        children=tuple(
            Child(
                partition_id=PartitionId(child.token),
                parents=tuple(PartitionId(parent) for parent in child.parents),
                start=encode(Position(child.time)),
            )
            for child in batch.children
        ),
        expire_time=batch.position.expire_time(stream.retention),
        start_expire_time=start.expire_time(stream.retention),
        watermark=batch.position.watermark,
    )
