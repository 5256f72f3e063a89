"""DynamoDB as a provider of change feeds: a table's stream, whose shards are the physical partitions."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import (
    FeedNotProvisioned,
    InternalFailure,
    NotFound,
    ProviderAuthorizationFailed,
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
    PhysicalPartition,
    Scan,
    Snapshot,
    Start,
)
from changefeed_gateway.core.pace import Pace
from changefeed_gateway.providers.dynamodb.cursor import RETENTION, Position, decode, encode, horizon
from changefeed_gateway.providers.dynamodb.errors import ShardGone, StreamGone, expired
from changefeed_gateway.providers.dynamodb.gathering import NOTHING, Gathered, gather
from changefeed_gateway.providers.dynamodb.life import Life
from changefeed_gateway.providers.dynamodb.mapping import ChangeMaker
from changefeed_gateway.providers.dynamodb.reading import MOST_RECORDS, ShardReader
from changefeed_gateway.providers.dynamodb.scanning import SEGMENT_BYTES, scan
from changefeed_gateway.providers.dynamodb.sdk import Endpoint, Retries, Sdk
from changefeed_gateway.providers.dynamodb.shards import Genealogy, Listing, Shard, list_shards
from changefeed_gateway.providers.dynamodb.table import Stream, capabilities, find_stream, what_instead

_NO_TABLE: Final = "changefeed-gateway.no-such-table"
_SHARD_ID: Final = re.compile(r"[a-zA-Z0-9-]{28,65}")
_LOOKS_FOR_CHILDREN: Final = (0.0, 0.05, 0.1, 0.2)
"""Seconds before each look: children may be listed after their parent has ended."""
_LISTED_WITHIN: Final = 3_600
"""Seconds after its first record within which a shard is listed, for sure: it takes a few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamoDBOptions:
    """How the provider treats one region of one account."""

    endpoint: Endpoint = field(default_factory=Endpoint)
    tables: frozenset[str] = frozenset()
    """The tables that are served; every one that the credentials may read when it is empty."""
    at_timestamp: bool = False
    """The endpoint knows the iterator type AT_TIMESTAMP: a reader may start at a time."""
    time_granularity: timedelta = timedelta(seconds=1)
    """To which the endpoint rounds a record's time down: AWS a second, DynamoDB Local a minute."""
    segment_bytes: int = SEGMENT_BYTES
    """Of a table, for each segment in which its items are scanned."""
    max_calls: int = 16
    """Calls under way at once."""
    retries: Retries = field(default_factory=Retries)
    pace: Pace = field(default_factory=Pace)


class DynamoDBProvider:
    """One region of one account. Implements `changefeed_gateway.core.provider.Provider`; a collection is a table."""

    def __init__(self, options: DynamoDBOptions = DynamoDBOptions()) -> None:
        self._options = options
        self._sdk = Sdk(options.endpoint, options.retries, max_calls=options.max_calls)
        self._lives: dict[Stream, Life] = {}

    @property
    def provider_id(self) -> str:
        """The provider's name: "dynamodb"."""
        return "dynamodb"

    async def start(self) -> None:
        """Load the SDK and find credentials, so that the first call need not. Raises ProviderAuthenticationFailed."""
        await self._sdk.connect()

    async def ping(self) -> None:
        """Ask both APIs whether they answer and take the credentials. Raises ChangeFeedError when one does not.

        It asks for the first table of the settings; that it is missing, or has no stream, is its readers' matter. Where
        none is named it asks for one that nobody has, so that "no such table", or no right to ask for it, is an answer.
        """
        try:
            stream = await find_stream(self._sdk, min(self._options.tables, default=_NO_TABLE))
            await self._sdk.call("DescribeStream", StreamArn=stream.arn, Limit=1)
        except (NotFound, FeedNotProvisioned, StreamGone):
            return
        except ProviderAuthorizationFailed:
            if self._options.tables:
                raise

    async def open_feed(self, address: Address) -> Feed:
        """Ask for the table, whose stream must be on. The database of an address is the region."""
        await self._sdk.connect()
        if address.database not in ("", self._sdk.region):
            raise NotFound(
                f"the connection {address.connection!r} is to the region {self._sdk.region}: leave the database"
                " empty, or name a connection to the other region",
                reason=Reason.DATABASE_NOT_FOUND,
            )
        if self._options.tables and address.collection not in self._options.tables:
            raise NotFound(f"the connection {address.connection!r} does not serve this table: name it in its settings")
        stream = await find_stream(self._sdk, address.collection)
        self._forget_other_lives(stream)
        return Feed(
            address=replace(address, database=self._sdk.region),
            provider_id="dynamodb",
            incarnation=stream.arn,
            capabilities=capabilities(stream, at_timestamp=self._options.at_timestamp),
            item_state=stream.item_state,
            single_order=False,
            commit_time="about when the item was written, rounded down to a second by the service",
            retention=RETENTION,
            provider_data=stream,
        )

    async def list_partitions(self, feed: Feed, start: Start | None = None) -> Sequence[Partition]:
        """The shards of the stream, as far as it lists them."""
        stream = feed.opened_as(Stream)
        try:
            return (await self._life(stream).genealogy.listing()).partitions()
        except StreamGone as error:
            raise await what_instead(self._sdk, stream) from error

    async def read_page(self, feed: Feed, read: PageRead) -> Page:
        """Read one shard, or the table's items for a `Scan`."""
        if isinstance(read.start, Scan):
            return await self._scan(feed.opened_as(Stream), read, read.start)
        if not isinstance(read.scope, PhysicalPartition):
            raise UnsupportedCapability(
                "a shard holds many partition keys: read the entire collection, and choose",
                reason=CapabilityName.LOGICAL_PARTITION_SCOPE.value,
            )
        stream, shard_id = feed.opened_as(Stream), read.scope.partition_id
        if not _SHARD_ID.fullmatch(shard_id):
            raise _no_shard(shard_id)
        try:
            with self._life(stream).reader(shard_id) as reader:
                return await self._read(stream, shard_id, reader, read)
        except StreamGone as error:
            raise await what_instead(self._sdk, stream) from error
        except ShardGone as error:
            raise expired() if isinstance(read.start, After) else _no_shard(shard_id) from error

    async def aclose(self) -> None:
        """Stop everything; idempotent. Who waits is told so; calls under way end by themselves."""
        self._sdk.close()
        for life in self._lives.values():
            life.close()

    async def _scan(self, stream: Stream, read: PageRead, start: Scan) -> Page:
        try:
            return await scan(self._sdk, stream, read, start, self._options.segment_bytes)
        except StreamGone as error:
            raise await what_instead(self._sdk, stream) from error

    # --- One shard

    async def _read(self, stream: Stream, shard_id: PartitionId, reader: ShardReader, read: PageRead) -> Page:
        deadline = monotonic() + read.max_wait.total_seconds()
        calls = reader.calls
        start = position = await self._resolve(stream, shard_id, reader, read.start)
        if not read.max_changes:
            if isinstance(read.start, After):
                await reader.check(position)
            return _page(start, position, NOTHING, more_available=True)
        maker, waiting = ChangeMaker(stream.schema, shard_id), bool(read.max_wait)
        limit = MOST_RECORDS if waiting else min(read.max_changes, MOST_RECORDS)
        found, at_end = NOTHING, False
        children: tuple[Child, ...] = ()
        while not (waiting and await _rest(reader, position, deadline)):
            fetched = await reader.fetch(position, limit, join=waiting)
            found = gather(fetched.records, maker, read)
            position = found.positions[-1] if found.positions else position.seen_empty(fetched.as_of)
            if fetched.ended and found.whole:
                # Later, a child may be gone, and what descends from it leads nowhere.
                reader.check_age(position)
                children = await self._children(stream, shard_id, position, waiting=waiting)
                if children:
                    # A shard goes before its children do: as long as it is there, none of them is missing.
                    await reader.check_lives()
            at_end = bool(children) or (fetched.at_tip and found.whole)
            if found.changes or children or (fetched.at_tip and not waiting):
                break
        return replace(
            _page(start, position, found, more_available=bool(found.changes) and not at_end),
            retired=bool(children),
            children=children,
            provider_calls=reader.calls - calls,
        )

    async def _resolve(self, stream: Stream, shard_id: str, reader: ShardReader, start: Start) -> Position:
        match start:
            case Beginning():
                return await self._beginning(stream, shard_id, reader)
            case Now():
                return await reader.now()
            case AtTime(time):
                return await reader.at_time(time)
            case After(cursor):
                return decode(cursor)
            case Snapshot() | Scan():
                raise InternalFailure("a snapshot has no position among the changes")

    async def _beginning(self, stream: Stream, shard_id: str, reader: ShardReader) -> Position:
        """Before the oldest record of a shard, or of what goes on where it ended and holds nothing."""
        position = await reader.beginning()
        if position is not None:
            return position
        # What its children hold may be almost a day old, and is lost with the first of it.
        life = self._life(stream)
        starts: list[Position] = []
        for child in (await life.genealogy.recent()).children_of(shard_id):
            with life.reader(child.shard_id) as child_reader:
                starts.append(await self._beginning(stream, child.shard_id, child_reader))
        return horizon(min([self._sdk.time - _LISTED_WITHIN, *(start.as_of for start in starts)]))

    def _life(self, stream: Stream) -> Life:
        if stream not in self._lives:
            self._lives[stream] = Life(
                Genealogy(self._sdk, stream.arn), lambda shard_id: self._make_reader(stream, shard_id)
            )
        return self._lives[stream]

    def _make_reader(self, stream: Stream, shard_id: str) -> ShardReader:
        return ShardReader(
            self._sdk,
            stream.arn,
            shard_id,
            self._options.pace,
            times=self._options.at_timestamp,
            granularity=int(self._options.time_granularity.total_seconds()),
        )

    def _forget_other_lives(self, stream: Stream) -> None:
        for known in [known for known in self._lives if known.table == stream.table and known != stream]:
            del self._lives[known]

    async def _children(
        self, stream: Stream, shard_id: PartitionId, position: Position, *, waiting: bool
    ) -> tuple[Child, ...]:
        """What goes on where a shard ended; nothing while that is not listed yet. Raises StreamGone."""
        listing = Listing(shards=(), enabled=True)
        seen: list[Shard] = []
        for pause in _LOOKS_FOR_CHILDREN:
            await asyncio.sleep(pause)
            listing = await list_shards(self._sdk, stream.arn, children_of=shard_id)
            children, seen = seen, listing.children_of(shard_id)
            # Two looks that agree: one child of a split may be listed before the other.
            if seen and seen == children:
                self._life(stream).forget_others(await list_shards(self._sdk, stream.arn))
                return tuple(
                    Child(
                        partition_id=PartitionId(child.shard_id),
                        parents=(shard_id,),
                        # Its first record was written after the parent's last one.
                        start=encode(horizon(position.as_of)),
                    )
                    for child in children
                )
            if not listing.enabled:
                break
        if waiting and not listing.enabled:
            # Who only wants what there is reads the other shards to their ends first.
            raise StreamGone
        return ()


async def _rest(reader: ShardReader, position: Position, deadline: float) -> bool:
    """Wait until it is time to ask for what follows a position; tell whether the deadline came first."""
    while (pause := min(reader.delay(position), deadline - monotonic())) > 0:  # noqa: ASYNC110 - others ask meanwhile
        await asyncio.sleep(pause)
    return monotonic() >= deadline


def _page(start: Position, end: Position, found: Gathered, *, more_available: bool) -> Page:
    return Page(
        changes=found.changes,
        cursors=[encode(position) for position in found.positions],
        start=encode(start),
        cursor=encode(end),
        more_available=more_available,
        expire_time=end.expire_time,
        start_expire_time=start.expire_time,
        comparable=end.comparable,
    )


def _no_shard(shard_id: str) -> NotFound:
    return NotFound(
        f"there is no shard {shard_id!r} in the table's stream: list the partitions anew",
        reason=Reason.PARTITION_NOT_FOUND,
    )
