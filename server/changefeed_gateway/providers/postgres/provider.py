"""PostgreSQL as a provider of change feeds: the log that triggers write, cut into batches by ticks."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Final, Literal
from weakref import WeakValueDictionary

from changefeed_gateway.core.cancellation import cut_short
from changefeed_gateway.core.errors import (
    ChangeFeedError,
    FeedNotProvisioned,
    NotFound,
)
from changefeed_gateway.core.model import (
    Address,
    Capability,
    CapabilityName,
    Cursor,
    Feed,
    ItemState,
    Page,
    PageRead,
    Partition,
    PortabilityWarning,
    Start,
)
from changefeed_gateway.core.observation import Measure
from changefeed_gateway.core.snapshot import SNAPSHOTS
from changefeed_gateway.core.supervision import Done, Supervisor
from changefeed_gateway.providers.postgres.connections import Connection, Connections
from changefeed_gateway.providers.postgres.feeds import FeedDefinition, ImageMode, look_up
from changefeed_gateway.providers.postgres.log.log import FeedLog
from changefeed_gateway.providers.postgres.log.read_ahead import ReadAhead
from changefeed_gateway.providers.postgres.measures import changes_after, check_ticks, measures
from changefeed_gateway.providers.postgres.outage import Outage
from changefeed_gateway.providers.postgres.retention.run import RetentionRuns, keep_running
from changefeed_gateway.providers.postgres.ticks.doorbell import Doorbell
from changefeed_gateway.providers.postgres.ticks.feed import FeedTicks
from changefeed_gateway.providers.postgres.ticks.sequences import SequenceWatch
from changefeed_gateway.providers.postgres.ticks.ticker import Cadence

_ITEM_STATES: Final = {
    ImageMode.CAPTURED: ItemState.INCLUDED,
    ImageMode.CURRENT: ItemState.INCLUDED_CURRENT,
    ImageMode.NONE: ItemState.UNAVAILABLE,
}

_CHECK: Final = "SELECT changefeed.check_feeds(), ARRAY(SELECT f.feed_id FROM changefeed.feeds f)"

_NO_ORDER: Final = (
    "items are read in the order of the key's index: it needs a primary key, or a unique index in default order, on"
    " PostgreSQL's own types or enums"
)
_ON_A_STANDBY: Final = "a snapshot on a standby does not tell which transactions it sees: ask a gateway of the primary"

_CURRENT_ITEMS: Final = PortabilityWarning(
    code="CURRENT_ITEMS",
    message="a change carries its item as it was when the page was read: at least as new as the change; an item that"
    " was deleted by then is left out",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresOptions:
    """How the provider treats one database."""

    max_connections: int = 8
    """In the pool; one more listens."""
    statement_timeout: timedelta = timedelta(seconds=30)
    cadence: Cadence = field(default_factory=Cadence)
    idle_cadence: timedelta = timedelta(seconds=1)
    """How often ticks are made for feeds that nobody reads."""
    check_cadence: timedelta = timedelta(seconds=10)
    """How often capture is looked over: whether it goes on, and fits its tables."""
    retention_interval: timedelta | None = None
    """Time between two retention runs; none leaves them to others."""
    doorbell: Literal["notify", "poll"] = "notify"
    """poll does not listen and leaves nothing behind in a session: for a transaction pooler."""
    probe_interval: timedelta = timedelta(seconds=15)
    """Silence after which the listening connection is tried out."""
    probe_timeout: timedelta = timedelta(seconds=5)
    name: str = ""
    """The connection's in the settings, for the log."""


class PostgresProvider:
    """One database. Implements `changefeed_gateway.core.provider.Provider`.

    Everything starts by itself with the first call; `start` makes ticks for times that nobody reads in.
    """

    def __init__(self, dsn: str, options: PostgresOptions = PostgresOptions()) -> None:
        self._dsn = dsn
        self._options = options
        self._connections = Connections(
            dsn,
            max_size=options.max_connections,
            statement_timeout=options.statement_timeout,
            patience=options.cadence.outage_patience,
            pooled=options.doorbell == "poll",
            outage=Outage(options.name),
        )
        self.doorbell = Doorbell(
            dsn,
            self._connections,
            self._ring,
            probe_interval=options.probe_interval,
            probe_timeout=options.probe_timeout,
        )
        self._logs: dict[str, FeedLog] = {}
        self._reading_ahead: set[ReadAhead] = set()
        self._opened = WeakValueDictionary[Address, Feed]()
        """As each was opened last, for as long as somebody has it: one for all who stay for hours."""
        self._supervisor = Supervisor()
        self._watch: SequenceWatch | None = None
        self._retention: RetentionRuns | None = None
        self._starting = asyncio.Lock()
        self._started = False
        self._closed = False

    @property
    def provider_id(self) -> str:
        """The provider's name: "postgres"."""
        return "postgres"

    async def start(self) -> None:
        """Connect, listen and make ticks, without waiting for the database; idempotent.

        Raises TransientFailure after `aclose`.
        """
        if self._closed:
            raise cut_short()
        if self._started:
            return
        async with self._starting:
            if self._closed:
                raise cut_short()
            if not self._started:
                await self._connections.open()
                self._keep_going()
                self._started = True

    def _keep_going(self) -> None:
        """Begin what goes on whether somebody reads or not: times without a reader can be started from too."""
        options, keep = self._options, self._supervisor.keep
        if options.doorbell == "notify":
            # Without it everything is polled, and nothing lost.
            keep("doorbell", self.doorbell.run, optional=True)
        self._watch = SequenceWatch(self._connections, self._feeds, options.cadence, options.idle_cadence)
        keep("watch of the sequences", self._watch.run)
        keep("check of capture", self._check_capture)
        if (interval := options.retention_interval) is not None:
            self._retention = RetentionRuns()
            keep("retention", partial(keep_running, self._dsn, interval, self._retention))

    async def open_feed(self, address: Address) -> Feed:
        """Look the collection up by its name in changefeed.feeds: "documents", "public.orders"."""
        await self.start()

        async def work(connection: Connection) -> tuple[Address, FeedDefinition]:
            return await look_up(connection, address)

        full, definition = await self._connections.run(work)
        await self._remember(definition)
        feed = self._opened.get(full)
        if feed is None or feed.provider_data != definition:
            feed = self._opened[full] = _feed(full, definition)
        return feed

    async def list_partitions(self, feed: Feed, start: Start | None = None) -> Sequence[Partition]:
        """The ranges of buckets that hold retained changes."""
        return await self._log_of(feed).list_partitions()

    async def read_page(self, feed: Feed, read: PageRead) -> Page:
        """Read batches of the log; an entire collection is one order here."""
        await self.start()
        cause: ChangeFeedError | None = None
        try:
            page = await self._log_of(feed).read_page(read)
        except ChangeFeedError as error:
            if not isinstance(error, FeedNotProvisioned) and self._is_open(feed):
                raise
            cause = error
        else:
            # Every page comes from a connection that was asked first where it leads.
            if self._is_open(feed):
                return page
        await self._forget(feed.incarnation)
        raise NotFound(f"the feed of {feed.address.collection!r} was removed since it was opened") from cause

    async def ping(self) -> None:
        """Look at the feeds, as every read does first. Raises as `Provider.ping`."""
        await self.start()
        await self._connections.fetch("SELECT FROM changefeed.feeds LIMIT 1", {})
        self._supervisor.check()
        check_ticks(self._feeds())

    def measures(self) -> Iterable[Measure]:
        """See `Measured.measures`."""
        return measures(
            self._feeds(),
            connections=self._connections,
            supervisor=self._supervisor,
            retention=self._retention,
            doorbell=self.doorbell if self._options.doorbell == "notify" else None,
            watch=self._watch,
        )

    def changes_after(self, feed: Feed, cursor: Cursor) -> int | None:
        """See `Measured.changes_after`."""
        log = self._logs.get(feed.incarnation)
        return None if log is None else changes_after(log.ticks, cursor)

    def forget(self) -> None:
        """Know nothing of the feeds' ticks and partitions any more; the next reads look at the database."""
        for feed in self._feeds():
            feed.forget()

    async def aclose(self) -> None:
        """Stop everything; idempotent."""
        self._closed = True
        async with self._starting:
            for incarnation in list(self._logs):
                await self._forget(incarnation)
            await self._supervisor.aclose()
            await self._connections.aclose()

    def _is_open(self, feed: Feed) -> bool:
        """Whether the connections still lead to the database in which a feed was opened."""
        return self._connections.database in (None, feed.opened_as(FeedDefinition).database)

    def _log_of(self, feed: Feed) -> FeedLog:
        if self._closed:
            raise cut_short()
        definition = feed.opened_as(FeedDefinition)
        log = self._logs.get(definition.incarnation)
        if log is None:
            log = FeedLog(
                self._connections,
                definition,
                self._options.cadence,
                supervisor=self._supervisor,
                listening=self.doorbell.listening.is_set,
                reading_ahead=self._reading_ahead,
            )
            self._logs[definition.incarnation] = log
        return log

    async def _remember(self, definition: FeedDefinition) -> None:
        """Take over what may change about a feed, and forget the earlier lives of its name."""
        for incarnation, log in list(self._logs.items()):
            if incarnation == definition.incarnation:
                log.ticks.definition = definition
            elif log.ticks.definition.name == definition.name:
                await self._forget(incarnation)

    async def _forget(self, incarnation: str) -> None:
        if (log := self._logs.pop(incarnation, None)) is not None:
            await log.aclose()

    def _ring(self, bells: Mapping[int, int] | None) -> None:
        for feed in self._feeds():
            if bells is None or feed.definition.feed_id in bells:
                feed.ticker.ring(bells[feed.definition.feed_id] if bells else 0)

    def _feeds(self) -> list[FeedTicks]:
        return [log.ticks for log in self._logs.values()]

    async def _check_capture(self, done: Done) -> None:
        while True:
            await asyncio.sleep(self._options.check_cadence.total_seconds())
            known = dict(self._logs)
            ((_, there),) = await self._connections.fetch(_CHECK, {})
            for incarnation, log in known.items():
                # P7: nobody may come to ask for a feed that is no more. Who waits for it is told by its own question.
                if log.ticks.definition.feed_id not in there and not log.ticks.ticker.waiting:
                    await self._forget(incarnation)
            done()


def _feed(address: Address, definition: FeedDefinition) -> Feed:
    current = definition.image_mode is ImageMode.CURRENT
    return Feed(
        address=address,
        provider_id="postgres",
        incarnation=definition.incarnation,
        capabilities=_capabilities(definition),
        item_state=_ITEM_STATES[definition.image_mode],
        single_order=True,
        commit_time="when the statement ran, by the database's clock",
        retention=definition.retention,
        warnings=(_CURRENT_ITEMS,) if current else (),
        provider_data=definition,
    )


def _capabilities(definition: FeedDefinition) -> tuple[Capability, ...]:
    details = {
        CapabilityName.NEW_ITEM_STATE: {
            ImageMode.CAPTURED: "the row as the change left it",
            ImageMode.CURRENT: "the item as it is when the page is read",
            ImageMode.NONE: "the feed was made without images: unwatch the table and watch it with image => 'captured'",
        }[definition.image_mode],
        CapabilityName.BEGINNING: "the oldest retained change",
        CapabilityName.SNAPSHOT: "exact per key: each item, and after it exactly the later changes of its key"
        + (", with items as they are when the page is read" if definition.image_mode is ImageMode.CURRENT else ""),
        CapabilityName.SNAPSHOT_LOGICAL_PARTITION_SCOPE: "exact per key; all others are passed over",
    }
    missing = {
        CapabilityName.SNAPSHOT_PHYSICAL_PARTITION_SCOPE: "a physical partition may be merged while its items are read,"
        " and what follows would have two places: take the entire collection, or a logical partition"
    }
    if not definition.snapshots:
        missing |= dict.fromkeys(SNAPSHOTS, _NO_ORDER if not definition.standby else _ON_A_STANDBY)
    if definition.image_mode is ImageMode.NONE:
        missing[CapabilityName.NEW_ITEM_STATE] = details[CapabilityName.NEW_ITEM_STATE]
    return tuple(
        Capability(name=name, supported=name not in missing, detail=missing.get(name, details.get(name, "")))
        for name in CapabilityName
    )
