"""What an operator's commands do with a connection's database."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Unpack

from changefeed_gateway.app.connections import OperatorError, database, dynamodb_options, extra
from changefeed_gateway.settings import DynamoDBConnection, Settings

if TYPE_CHECKING:
    from changefeed_gateway.providers.dynamodb.doctor import Finding as DynamoDBFinding
    from changefeed_gateway.providers.postgres.operations.feeds import WatchOptions
    from changefeed_gateway.providers.postgres.operations.finding import Finding


async def migrate(settings: Settings, name: str, *, documents: bool) -> list[str]:
    """Install the change log, and the documents schema if asked; answers the files that were applied.

    Raises OperatorError.
    """
    with extra("postgres"):
        from changefeed_gateway.providers.postgres.operations import migrations
    try:
        async with database(settings, name, migrated=False) as place:
            applied = await migrations.migrate(place, documents=documents)
    except migrations.MigrationError as error:
        raise OperatorError(str(error)) from error
    return [migration.file for migration in applied]


async def watch(settings: Settings, name: str, table: str, **options: "Unpack[WatchOptions]") -> str:
    """Make a feed of a table; answers its collection. Raises OperatorError."""
    async with _operating(settings, name) as place:
        from changefeed_gateway.providers.postgres.operations import feeds as operations

        return await operations.watch(place, table, **options)


async def unwatch(settings: Settings, name: str, table: str) -> str:
    """End the feed of a table with its history; answers its collection. Raises OperatorError."""
    async with _operating(settings, name) as place:
        from changefeed_gateway.providers.postgres.operations import feeds as operations

        return await operations.unwatch(place, table)


async def feeds(settings: Settings, name: str) -> list[dict[str, Any]]:
    """Every feed of a connection, its options and its state. Raises OperatorError."""
    async with _operating(settings, name) as place:
        from changefeed_gateway.providers.postgres.operations import feeds as operations

        return [operations.as_json(feed) for feed in await operations.feed_states(place)]


async def split_partition(
    settings: Settings, name: str, feed: str, partition_id: str, first_bucket: int | None
) -> list[str]:
    """Split a physical partition of a feed; answers the new ones. Raises OperatorError."""
    async with _operating(settings, name) as place:
        from changefeed_gateway.providers.postgres.operations import feeds as operations

        return await operations.split_partition(place, feed, partition_id, first_bucket)


async def merge_partitions(settings: Settings, name: str, feed: str, first_id: str, second_id: str) -> list[str]:
    """Merge two physical partitions of a feed; answers the new one. Raises OperatorError."""
    async with _operating(settings, name) as place:
        from changefeed_gateway.providers.postgres.operations import feeds as operations

        return await operations.merge_partitions(place, feed, first_id, second_id)


async def retention(settings: Settings, name: str, *, change: bool) -> list[dict[str, Any]]:
    """Retention of every feed of a connection: what a run did, or what it would do. Raises OperatorError."""
    async with _operating(settings, name) as place:
        from changefeed_gateway.providers.postgres.retention import run as retention

        found = await (retention.run(place) if change else retention.examine(place))
    return [retention.as_json(feed) for feed in found]


async def set_retention(settings: Settings, name: str, feed: str, chosen: timedelta) -> None:
    """Choose how long a feed's history is kept. Raises OperatorError."""
    async with _operating(settings, name) as place:
        from changefeed_gateway.providers.postgres.retention import run as retention

        await retention.set_retention(place, feed, chosen)


async def examine(settings: Settings, name: str) -> "Sequence[Finding | DynamoDBFinding]":
    """Look a connection over. Raises OperatorError when it cannot even be started."""
    connection = settings.connections.get(name)
    if isinstance(connection, DynamoDBConnection):
        with extra("dynamodb"):
            from changefeed_gateway.providers.dynamodb import doctor as dynamodb_doctor
        return [finding async for finding in dynamodb_doctor.examine(dynamodb_options(connection))]
    with extra("postgres"):
        from changefeed_gateway.providers.postgres.operations import doctor
    async with database(settings, name, migrated=False) as place:
        return [finding async for finding in doctor.examine(place)]


@asynccontextmanager
async def _operating(settings: Settings, name: str) -> AsyncIterator[str]:
    """Where the database of an operator's command is; what it refuses becomes OperatorError."""
    with extra("postgres"):
        from changefeed_gateway.providers.postgres.errors import OperationError
    try:
        async with database(settings, name) as place:
            yield place
    except OperationError as error:
        raise OperatorError(str(error)) from error
