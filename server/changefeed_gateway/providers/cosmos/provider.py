"""Azure Cosmos DB as a provider of change feeds: a container, whose partition key ranges are its partitions."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from changefeed_gateway.core.errors import (
    InvalidRequest,
    NotFound,
    ProviderAuthorizationFailed,
    Reason,
    TransientFailure,
    UnsupportedCapability,
)
from changefeed_gateway.core.model import (
    Address,
    AtTime,
    Beginning,
    CapabilityName,
    EntireCollection,
    Feed,
    ItemState,
    LogicalPartition,
    Page,
    PageRead,
    Partition,
    PhysicalPartition,
    Scan,
    Start,
)
from changefeed_gateway.core.pace import Pace
from changefeed_gateway.providers.cosmos.container import WARNINGS, Container, capabilities, container_of, is_name
from changefeed_gateway.providers.cosmos.cursor import Mode
from changefeed_gateway.providers.cosmos.life import Life
from changefeed_gateway.providers.cosmos.logical import LogicalRead
from changefeed_gateway.providers.cosmos.physical import PhysicalRead
from changefeed_gateway.providers.cosmos.reading import KeptAnswers
from changefeed_gateway.providers.cosmos.scanning import ScanRead
from changefeed_gateway.providers.cosmos.sdk import Endpoint, Retries, Sdk

_NO_CONTAINER: Final = "changefeed-gateway.no-such-container"


@dataclass(frozen=True, slots=True, kw_only=True)
class CosmosOptions:
    """How the provider treats one database of one account."""

    endpoint: Endpoint
    database: str
    containers: frozenset[str] = frozenset()
    """The containers that are served; every one that the credentials may read when it is empty."""
    mode: Mode = Mode.ALL_VERSIONS_AND_DELETES
    backup_window: timedelta | None = None
    """How far all versions and deletes go back; None where that is not known."""
    max_calls: int = 32
    """Calls under way at once."""
    retries: Retries = field(default_factory=Retries)
    pace: Pace = field(default_factory=Pace)


class CosmosProvider:
    """One database of one account. Implements `changefeed_gateway.core.provider.Provider`."""

    def __init__(self, options: CosmosOptions) -> None:
        self._options = options
        self._sdk = Sdk(options.endpoint, options.database, options.retries, max_calls=options.max_calls)
        self._kept, self._kept_items = KeptAnswers(), KeptAnswers()
        self._lives: dict[str, Life] = {}
        """Of each container that is read, by its rid."""
        self._items_of: dict[str, Life] = {}
        """The same in mode latest_version, where that is not the connection's, for snapshots."""

    @property
    def provider_id(self) -> str:
        """The provider's name: "cosmos"."""
        return "cosmos"

    async def start(self) -> None:
        """Read the account, so that the first call need not. Raises ProviderAuthenticationFailed."""
        try:
            await self._sdk.connect()
        except TransientFailure:
            # Whoever calls asks again.
            return

    async def ping(self) -> None:
        """Ask the account whether it answers and takes the credentials. Raises ChangeFeedError when it does not.

        It asks for the first container of the settings; that it is missing is its readers' matter. Where none is named
        it asks for one that nobody has, so that "no such container", or no right to ask for it, is an answer.
        """
        try:
            await self._sdk.read_container(min(self._options.containers, default=_NO_CONTAINER))
        except NotFound:
            return
        except ProviderAuthorizationFailed:
            if self._options.containers:
                raise

    async def open_feed(self, address: Address) -> Feed:
        """Ask for the container; the first time in its life, also whether it keeps all versions and deletes."""
        options, name = self._options, address.collection
        if address.database not in ("", options.database):
            raise NotFound(
                f"the connection {address.connection!r} is to the database {options.database!r}: leave the database"
                " empty, or name a connection to the other one",
                reason=Reason.DATABASE_NOT_FOUND,
            )
        if options.containers and name not in options.containers:
            raise NotFound(
                f"the connection {address.connection!r} does not serve this container: name it in its settings"
            )
        if not is_name(name):
            raise NotFound(f"{name!r} is no name that a container can have")
        container = container_of(await self._sdk.read_container(name), options.mode)
        await self._life(container).check_mode()
        latest = options.mode is Mode.LATEST_VERSION
        return Feed(
            address=replace(address, database=options.database),
            provider_id="cosmos",
            incarnation=container.rid,
            capabilities=capabilities(options.mode, options.backup_window),
            item_state=ItemState.INCLUDED,
            single_order=False,
            commit_time="when the service took the change, in whole seconds",
            retention=None if latest else options.backup_window,
            warnings=WARNINGS if latest else (),
            provider_data=container,
        )

    async def list_partitions(self, feed: Feed, start: Start | None = None) -> Sequence[Partition]:
        """The partition key ranges of the container, behind those that they descend from."""
        return (await self._life(feed.opened_as(Container)).ranges.listing()).partitions()

    async def read_page(self, feed: Feed, read: PageRead) -> Page:
        """Read one partition key range, or one logical partition; for a `Scan` all ranges too."""
        container = feed.opened_as(Container)
        life = self._life(container)
        if isinstance(read.start, Scan):
            return await ScanRead(self._items(container), life, read).page(read.start)
        if isinstance(read.start, Beginning | AtTime):
            self._check_start(read.start)
        match read.scope:
            case PhysicalPartition(partition_id):
                return await PhysicalRead(life, partition_id, read, self._window).page()
            case LogicalPartition(partition_key):
                return await LogicalRead(life, partition_key, read, self._window).page()
            case EntireCollection():
                raise UnsupportedCapability(
                    "a container is read range by range", reason=CapabilityName.CHANGE_FEED.value
                )

    async def aclose(self) -> None:
        """Stop everything; idempotent. Who waits is told so."""
        for life in (*self._lives.values(), *self._items_of.values()):
            life.close()
        await self._sdk.aclose()

    @property
    def _window(self) -> timedelta | None:
        return self._options.backup_window if self._options.mode is Mode.ALL_VERSIONS_AND_DELETES else None

    def _check_start(self, start: Beginning | AtTime) -> None:
        if self._options.mode is Mode.ALL_VERSIONS_AND_DELETES:
            name = CapabilityName.BEGINNING if isinstance(start, Beginning) else CapabilityName.POINT_IN_TIME
            raise UnsupportedCapability("all_versions_and_deletes is read from now or from a token", reason=name.value)
        if isinstance(start, AtTime) and start.time > max(
            datetime.fromtimestamp(self._sdk.time + 1, UTC), datetime.fromtimestamp(0, UTC)
        ):
            raise InvalidRequest.field("start_position.at_time", "lies in the future: name a time up to now")

    def _life(self, container: Container) -> Life:
        if container.rid not in self._lives:
            for known in [rid for rid, life in self._lives.items() if life.container.name == container.name]:
                # Its readers keep it until they find that out.
                del self._lives[known]
                self._items_of.pop(known, None)
            self._lives[container.rid] = Life(self._sdk, container, self._options.pace, self._kept)
        return self._lives[container.rid]

    def _items(self, container: Container) -> Life:
        if container.mode is Mode.LATEST_VERSION:
            return self._life(container)
        if container.rid not in self._items_of:
            latest = container._replace(mode=Mode.LATEST_VERSION)
            self._items_of[container.rid] = Life(self._sdk, latest, self._options.pace, self._kept_items)
        return self._items_of[container.rid]
