"""What an operator's commands do with a PostgreSQL database of the settings. All of them raise OperatorError."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Unpack

from changefeed_gateway.app.opening.contract import OperatorError, extra
from changefeed_gateway.app.opening.postgres import running
from changefeed_gateway.core.errors import Category
from changefeed_gateway.settings import PostgresConnection, Settings
from changefeed_gateway.settings.dsn import NotADsn, canonical_dsn

if TYPE_CHECKING:
    from changefeed_gateway.providers.postgres.operations.copy import PostgresCopy as PostgresCopy
    from changefeed_gateway.providers.postgres.operations.feeds import FeedState as FeedState
    from changefeed_gateway.providers.postgres.operations.feeds import WatchOptions
    from changefeed_gateway.providers.postgres.retention.run import FeedRetention as FeedRetention


async def migrate(settings: Settings, name: str, *, documents: bool) -> list[str]:
    """Install the change log, and the documents schema if asked; answers the files that were applied."""
    async with database(settings, name, migrated=False) as dsn:
        from changefeed_gateway.providers.postgres.operations import migrations

        return [migration.file for migration in await migrations.migrate(dsn, documents=documents)]


async def watch(settings: Settings, name: str, table: str, **options: "Unpack[WatchOptions]") -> str:
    """Make a feed of a table; answers its collection."""
    async with database(settings, name) as dsn:
        from changefeed_gateway.providers.postgres.operations import feeds

        return await feeds.watch(dsn, table, **options)


async def unwatch(settings: Settings, name: str, table: str) -> str:
    """End the feed of a table with its history; answers its collection."""
    async with database(settings, name) as dsn:
        from changefeed_gateway.providers.postgres.operations import feeds

        return await feeds.unwatch(dsn, table)


async def feed_states(settings: Settings, name: str) -> "list[FeedState]":
    """Every feed of a connection, its options and its state."""
    async with database(settings, name) as dsn:
        from changefeed_gateway.providers.postgres.operations import feeds

        return await feeds.feed_states(dsn)


async def split_partition(
    settings: Settings, name: str, feed: str, partition_id: str, first_bucket: int | None
) -> list[str]:
    """Split a physical partition of a feed; answers the new ones."""
    async with database(settings, name) as dsn:
        from changefeed_gateway.providers.postgres.operations import feeds

        return await feeds.split_partition(dsn, feed, partition_id, first_bucket)


async def merge_partitions(settings: Settings, name: str, feed: str, first_id: str, second_id: str) -> list[str]:
    """Merge two physical partitions of a feed; answers the new one."""
    async with database(settings, name) as dsn:
        from changefeed_gateway.providers.postgres.operations import feeds

        return await feeds.merge_partitions(dsn, feed, first_id, second_id)


async def retention(settings: Settings, name: str, *, change: bool) -> "list[FeedRetention]":
    """Retention of every feed of a connection: what a run did, or what it would do."""
    async with database(settings, name) as dsn:
        from changefeed_gateway.providers.postgres.retention import run

        return await (run.run(dsn) if change else run.examine(dsn))


async def set_retention(settings: Settings, name: str, feed: str, chosen: timedelta) -> None:
    """Choose how long a feed's history is kept."""
    async with database(settings, name) as dsn:
        from changefeed_gateway.providers.postgres.retention import run

        await run.set_retention(dsn, feed, chosen)


async def source_items(settings: Settings, name: str, collection: str) -> dict[str, str]:
    """The items of a feed as they are now, by their keys as JSON arrays of texts."""
    async with database(settings, name) as dsn:
        from changefeed_gateway.providers.postgres.operations import copy

        return await copy.source_items(dsn, collection)


@asynccontextmanager
async def postgres_copy(dsn: str, table: str, source: str) -> "AsyncIterator[PostgresCopy]":
    """A copy of a collection in a table, by a connection string of its own."""
    with extra("postgres"):
        from changefeed_gateway.providers.postgres.errors import OperationError
        from changefeed_gateway.providers.postgres.operations.copy import PostgresCopy
    try:
        # As the settings read theirs: whoever reads it after us could complain by showing it.
        kept = PostgresCopy(canonical_dsn(dsn), table, source)
    except NotADsn as error:
        raise OperatorError(f"the copy's connection string cannot be used: {error}", Category.INVALID_REQUEST) from None
    try:
        yield kept
    except OperationError as error:
        raise OperatorError(str(error), error.category) from error
    finally:
        await kept.aclose()


async def restart_embedded(settings: Settings, name: str) -> None:
    """Restart the embedded server of a connection, under all who use it."""
    connection = settings.connections[name]
    if not isinstance(connection, PostgresConnection) or connection.embedded is None:
        raise OperatorError(f"connections.{name} is not embedded")
    with extra("embedded"):
        from changefeed_gateway.providers.postgres.embedded.server import EmbeddedPostgres
    directory = settings.data_directory(connection.embedded)
    async with EmbeddedPostgres(directory, database=connection.embedded.database) as server:
        await asyncio.to_thread(server.restart)


@asynccontextmanager
async def database(settings: Settings, name: str, *, migrated: bool = True) -> AsyncIterator[str]:
    """Connection string of a PostgreSQL connection; an embedded server runs while the context lasts."""
    connection = settings.connections.get(name)
    if not isinstance(connection, PostgresConnection):
        raise OperatorError(f"connections.{name} is not a PostgreSQL connection of the settings")
    with extra("postgres"):
        from changefeed_gateway.providers.postgres.errors import OperationError
    try:
        async with running(name, connection, settings, migrated=migrated) as dsn:
            yield dsn
    except OperationError as error:
        raise OperatorError(str(error), error.category) from error
