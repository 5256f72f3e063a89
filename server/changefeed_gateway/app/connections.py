"""The connections of the settings, opened: each by its provider.

Drivers are optional extras: a provider is imported when a connection needs it.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from changefeed_gateway.core.errors import AuthenticationFailed
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.providers.memory.provider import MemoryProvider
from changefeed_gateway.providers.memory.store import MemoryStore
from changefeed_gateway.settings import (
    Connection,
    DynamoDBConnection,
    MemoryConnection,
    PostgresConnection,
    Settings,
)
from changefeed_gateway.settings.secrets import dsn

if TYPE_CHECKING:
    from changefeed_gateway.providers.dynamodb.provider import DynamoDBOptions


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
    with extra("embedded"):
        from changefeed_gateway.providers.postgres.embedded.host import EmbeddedServerError
        from changefeed_gateway.providers.postgres.embedded.server import EmbeddedPostgres
        from changefeed_gateway.providers.postgres.operations import migrations
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


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Say which extra brings a package that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise OperatorError(f"{error.name} is not installed: pip install 'changefeed-gateway[{name}]'") from error


def is_own(connection: Connection) -> bool:
    """Whether nobody but this gateway can serve a connection."""
    match connection:
        case MemoryConnection():
            return True
        case PostgresConnection():
            return connection.embedded is not None
        case DynamoDBConnection():
            return False


async def open_provider(settings: Settings, name: str, stack: AsyncExitStack) -> Provider:
    """Open a connection; an embedded server that serves it ends with `stack`. Raises SettingsError, OperatorError."""
    match settings.connections[name]:
        case PostgresConnection() as connection:
            return await _open_postgres(await stack.enter_async_context(database(settings, name)), connection)
        case DynamoDBConnection() as connection:
            return await _open_dynamodb(connection)
        case MemoryConnection() as connection:
            return _open_memory(connection)


async def _open_postgres(place: str, connection: PostgresConnection) -> Provider:
    with extra("postgres"):
        from changefeed_gateway.providers.postgres.provider import PostgresOptions, PostgresProvider
        from changefeed_gateway.providers.postgres.ticks.ticker import Cadence
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
    with extra("dynamodb"):
        from changefeed_gateway.providers.dynamodb.provider import DynamoDBProvider
    provider = DynamoDBProvider(dynamodb_options(connection))
    try:
        await provider.start()
    except AuthenticationFailed as error:
        raise OperatorError(str(error)) from error
    return provider


def dynamodb_options(connection: DynamoDBConnection) -> "DynamoDBOptions":
    """What the provider is told of a connection."""
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


def _open_memory(connection: MemoryConnection) -> Provider:
    store = MemoryStore()
    for collection in connection.collections:
        store.create(collection)
    return MemoryProvider(store)
