"""The composition root: settings become providers, providers a router, the router a server. It alone knows all rooms.

Drivers are optional extras: a provider is imported when a connection needs it.
"""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Unpack

import structlog
from structlog.typing import FilteringBoundLogger

from changefeed_gateway.api.server import GatewayServer
from changefeed_gateway.api.wire.records import encode_changes
from changefeed_gateway.core.errors import AuthenticationFailed, FeedNotProvisioned, NotFound
from changefeed_gateway.core.model import Address
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.core.router import Router
from changefeed_gateway.core.token import TokenCodec
from changefeed_gateway.providers.memory.provider import MemoryProvider
from changefeed_gateway.providers.memory.store import MemoryStore
from changefeed_gateway.settings import (
    Connection,
    DynamoDBConnection,
    LoggingSettings,
    MemoryConnection,
    PostgresConnection,
    Settings,
)
from changefeed_gateway.settings.secrets import dsn, token_keys

if TYPE_CHECKING:
    from changefeed_gateway.providers.dynamodb.doctor import Finding as DynamoDBFinding
    from changefeed_gateway.providers.dynamodb.provider import DynamoDBOptions
    from changefeed_gateway.providers.postgres.finding import Finding
    from changefeed_gateway.providers.postgres.operations import WatchOptions

_LAST_GRACE: Final = timedelta(seconds=1)
"""For what is still open when the gateway is taken down without a drain before."""

_log: FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A gateway that serves; only `open_gateway` makes one."""

    target: str
    """host:port that it listens on."""
    server: GatewayServer


@asynccontextmanager
async def open_gateway(settings: Settings) -> AsyncIterator[Gateway]:
    """Start everything the settings name, in order, and take it down in the other order.

    Leaving the context leaves little time to what is still open: call `GatewayServer.drain` before. Raises OSError
    when the address is taken, SettingsError, OperatorError.
    """
    async with AsyncExitStack() as stack:
        tokens = TokenCodec(token_keys(settings))
        if not settings.tokens.keys and not all(map(_is_own, settings.connections.values())):
            _log.warning("tokens.keys names none: this gateway uses a key of its own, and replicas need the same one")
        providers: dict[str, Provider] = {}
        for name, connection in settings.connections.items():
            match connection:
                case PostgresConnection():
                    place = await stack.enter_async_context(database(settings, name))
                    providers[name] = await _open_postgres(place, connection)
                case DynamoDBConnection():
                    providers[name] = await _open_dynamodb(connection)
                case MemoryConnection():
                    providers[name] = _open_memory(connection)
        router = Router(
            providers=providers,
            tokens=tokens,
            limits=settings.limits.to_limits(),
            encoder=encode_changes,
        )
        stack.push_async_callback(_in_time, router.aclose)
        checks = {name: partial(_answers, provider, name) for name, provider in providers.items()}
        server = GatewayServer(router, checks=checks)
        port = await server.start(str(settings.listen))
        stack.push_async_callback(_in_time, partial(server.drain, _LAST_GRACE))
        yield Gateway(target=str(settings.listen._replace(port=port)), server=server)


async def serve(settings: Settings, *, ready: Callable[[Gateway], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal cuts the drain short. `ready` is called once."""
    signals = _Signals()
    async with open_gateway(settings) as gateway:
        _collect_seldom()
        ready(gateway)
        name = await signals.next()
        _log.info("draining", signal=name, grace=str(settings.shutdown_grace))
        draining = asyncio.create_task(gateway.server.drain(settings.shutdown_grace))
        impatient = asyncio.create_task(signals.next())
        await asyncio.wait(
            {draining, impatient},
            timeout=(settings.shutdown_grace + _LAST_GRACE).total_seconds(),
            return_when=asyncio.FIRST_COMPLETED,
        )
        impatient.cancel()
    _log.info("stopped")


def _collect_seldom() -> None:
    """Look for cyclic garbage less often: a page makes thousands of tuples and no cycles.

    With the default thresholds a fifth of the processor time of a drain went into looking (docs/benchmarks.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def _is_own(connection: Connection) -> bool:
    """Whether nobody but this gateway can serve a connection."""
    match connection:
        case MemoryConnection():
            return True
        case PostgresConnection():
            return connection.embedded is not None
        case DynamoDBConnection():
            return False


async def _in_time(close: Callable[[], Coroutine[object, object, None]]) -> None:
    """Close something, but let nothing that does not close keep the process."""
    closing = asyncio.create_task(close())
    await asyncio.wait({closing}, timeout=2 * _LAST_GRACE.total_seconds())
    if closing.done():
        closing.result()
    else:
        closing.cancel()
        _log.warning("left open: it did not close in time", what=repr(close))


class _Signals:
    """Signals that ask for an end, in the order they come. Made inside the loop that it serves."""

    def __init__(self) -> None:
        self._came: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._came.put_nowait, number.name)

    async def next(self) -> str:
        """Wait for a signal and answer its name."""
        return await self._came.get()


class OperatorError(Exception):
    """An operator's command failed; the message says why."""


@asynccontextmanager
async def database(settings: Settings, name: str, *, migrated: bool = True) -> AsyncIterator[str]:
    """Connection string of a PostgreSQL connection; an embedded server runs while the context lasts.

    An embedded server is the gateway's own, so its migrations are applied too, unless told otherwise.
    Raises OperatorError for a connection that is not PostgreSQL or does not start.
    """
    connection = settings.connections.get(name)
    if not isinstance(connection, PostgresConnection):
        raise OperatorError(f"connections.{name} is not a PostgreSQL connection of the settings")
    if connection.embedded is None:
        yield dsn(name, connection)
        return
    with _extra("embedded"):
        from changefeed_gateway.providers.postgres import migrations
        from changefeed_gateway.providers.postgres.embedded import EmbeddedPostgres
        from changefeed_gateway.providers.postgres.embedded_host import EmbeddedServerError
    directory = settings.data_directory(connection.embedded)
    server = EmbeddedPostgres(directory, database=connection.embedded.database)
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(server)
            if migrated:
                await migrations.migrate(server.dsn, documents=True)
        except (EmbeddedServerError, migrations.MigrationError) as error:
            raise OperatorError(str(error)) from error
        yield server.dsn


async def migrate(settings: Settings, name: str, *, documents: bool) -> list[str]:
    """Install the change log, and the documents schema if asked; answers the files that were applied.

    Raises OperatorError.
    """
    with _extra("postgres"):
        from changefeed_gateway.providers.postgres import migrations
    try:
        async with database(settings, name, migrated=False) as place:
            applied = await migrations.migrate(place, documents=documents)
    except migrations.MigrationError as error:
        raise OperatorError(str(error)) from error
    return [migration.file for migration in applied]


async def watch(settings: Settings, name: str, table: str, **options: "Unpack[WatchOptions]") -> str:
    """Make a feed of a table; answers its collection. Raises OperatorError."""
    async with _operating(settings, name) as place:
        from changefeed_gateway.providers.postgres import operations

        return await operations.watch(place, table, **options)


async def unwatch(settings: Settings, name: str, table: str) -> str:
    """End the feed of a table with its history; answers its collection. Raises OperatorError."""
    async with _operating(settings, name) as place:
        from changefeed_gateway.providers.postgres import operations

        return await operations.unwatch(place, table)


async def feeds(settings: Settings, name: str) -> list[dict[str, Any]]:
    """Every feed of a connection, its options and its state. Raises OperatorError."""
    async with _operating(settings, name) as place:
        from changefeed_gateway.providers.postgres import operations

        return [operations.as_json(feed) for feed in await operations.feed_states(place)]


async def split_partition(
    settings: Settings, name: str, feed: str, partition_id: str, first_bucket: int | None
) -> list[str]:
    """Split a physical partition of a feed; answers the new ones. Raises OperatorError."""
    async with _operating(settings, name) as place:
        from changefeed_gateway.providers.postgres import operations

        return await operations.split_partition(place, feed, partition_id, first_bucket)


async def merge_partitions(settings: Settings, name: str, feed: str, first_id: str, second_id: str) -> list[str]:
    """Merge two physical partitions of a feed; answers the new one. Raises OperatorError."""
    async with _operating(settings, name) as place:
        from changefeed_gateway.providers.postgres import operations

        return await operations.merge_partitions(place, feed, first_id, second_id)


async def retention(settings: Settings, name: str, *, change: bool) -> list[dict[str, Any]]:
    """Retention of every feed of a connection: what a run did, or what it would do. Raises OperatorError."""
    async with _operating(settings, name) as place:
        from changefeed_gateway.providers.postgres import retention

        found = await (retention.run(place) if change else retention.examine(place))
    return [retention.as_json(feed) for feed in found]


async def set_retention(settings: Settings, name: str, feed: str, chosen: timedelta) -> None:
    """Choose how long a feed's history is kept. Raises OperatorError."""
    async with _operating(settings, name) as place:
        from changefeed_gateway.providers.postgres import retention

        await retention.set_retention(place, feed, chosen)


async def examine(settings: Settings, name: str) -> "Sequence[Finding | DynamoDBFinding]":
    """Look a connection over. Raises OperatorError when it cannot even be started."""
    connection = settings.connections.get(name)
    if isinstance(connection, DynamoDBConnection):
        with _extra("dynamodb"):
            from changefeed_gateway.providers.dynamodb import doctor as dynamodb_doctor
        return [finding async for finding in dynamodb_doctor.examine(_dynamodb_options(connection))]
    with _extra("postgres"):
        from changefeed_gateway.providers.postgres import doctor
    async with database(settings, name, migrated=False) as place:
        return [finding async for finding in doctor.examine(place)]


@asynccontextmanager
async def _operating(settings: Settings, name: str) -> AsyncIterator[str]:
    """Where the database of an operator's command is; what it refuses becomes OperatorError."""
    with _extra("postgres"):
        from changefeed_gateway.providers.postgres.operations import OperationError
    try:
        async with database(settings, name) as place:
            yield place
    except OperationError as error:
        raise OperatorError(str(error)) from error


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """Say which extra brings a package that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise OperatorError(f"{error.name} is not installed: pip install 'changefeed-gateway[{name}]'") from error


async def _open_postgres(place: str, connection: PostgresConnection) -> Provider:
    with _extra("postgres"):
        from changefeed_gateway.providers.postgres.provider import PostgresOptions, PostgresProvider
        from changefeed_gateway.providers.postgres.ticker import Cadence
    options = PostgresOptions(
        max_connections=connection.pool_size,
        cadence=Cadence(interval=connection.tick_interval),
        doorbell=connection.doorbell,
        retention_interval=connection.retention_interval or None,
    )
    provider = PostgresProvider(place, options)
    await provider.start()
    return provider


async def _open_dynamodb(connection: DynamoDBConnection) -> Provider:
    with _extra("dynamodb"):
        from changefeed_gateway.providers.dynamodb.provider import DynamoDBProvider
    provider = DynamoDBProvider(_dynamodb_options(connection))
    try:
        await provider.start()
    except AuthenticationFailed as error:
        raise OperatorError(str(error)) from error
    return provider


def _dynamodb_options(connection: DynamoDBConnection) -> "DynamoDBOptions":
    from changefeed_gateway.providers.dynamodb.provider import DynamoDBOptions
    from changefeed_gateway.providers.dynamodb.reading import Pace
    from changefeed_gateway.providers.dynamodb.service import Endpoint

    return DynamoDBOptions(
        endpoint=Endpoint(
            region=connection.region,
            endpoint_url=connection.endpoint_url,
            streams_endpoint_url=connection.streams_endpoint_url,
            profile=connection.profile,
            role_arn=connection.role_arn,
        ),
        tables=frozenset(connection.tables),
        at_timestamp=connection.at_timestamp,
        time_granularity=connection.time_granularity,
        pace=Pace(shortest_pause=connection.shortest_pause, longest_pause=connection.longest_pause),
    )


async def _answers(provider: Provider, connection: str) -> None:
    """The health check of a connection: any answer about a collection comes from a database that works."""
    address = Address(connection=connection, database="", collection="health")
    asking = asyncio.ensure_future(provider.open_feed(address))
    try:
        # Not awaited itself: a driver may swallow a cancellation (asyncio.wait_for before Python 3.12 does).
        await asyncio.wait({asking})
    finally:
        asking.cancel()
    with suppress(NotFound, FeedNotProvisioned):
        asking.result()


def _open_memory(connection: MemoryConnection) -> Provider:
    store = MemoryStore()
    for collection in connection.collections:
        store.create(collection)
    return MemoryProvider(store)


def configure_logging(settings: LoggingSettings) -> None:
    """Write the log to standard error: lines for people on a terminal, JSON otherwise, unless a format is chosen.

    What libraries log goes the same way.
    """
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_rendering(settings)))
    logging.basicConfig(handlers=[handler], level=level, force=True)


def _rendering(settings: LoggingSettings) -> list[structlog.typing.Processor]:
    # Never the local variables of a traceback: they hold documents and tokens.
    for_people = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if for_people:
        plain = structlog.dev.plain_traceback
        colors = sys.stderr.isatty()
        return [remove_meta, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [
        remove_meta,
        structlog.processors.ExceptionRenderer(tracebacks),
        structlog.processors.JSONRenderer(),
    ]
