"""A PostgreSQL database, or an embedded server of the gateway's own."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog

from changefeed_gateway.app.opening.contract import extra
from changefeed_gateway.core.finding import Finding
from changefeed_gateway.core.provider import Examination, Provider
from changefeed_gateway.settings import PostgresConnection, Settings
from changefeed_gateway.settings.secrets import dsn

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class PostgresOpening:
    """Implements `Opening`."""

    async def open(
        self, name: str, connection: PostgresConnection, settings: Settings, stack: AsyncExitStack
    ) -> Provider:
        """Make a provider of the settings; an embedded server is started and migrated."""
        if connection.embedded is not None:
            directory = settings.data_directory(connection.embedded).absolute()
            _log.info("embedded PostgreSQL, to try things out", connection=name, directory=str(directory))
        place = await stack.enter_async_context(running(name, connection, settings))
        with extra("postgres"):
            from changefeed_gateway.providers.postgres.provider import PostgresOptions, PostgresProvider
            from changefeed_gateway.providers.postgres.ticks.ticker import Cadence
        options = PostgresOptions(
            max_connections=connection.pool_size,
            cadence=Cadence(interval=connection.tick_interval),
            doorbell=connection.doorbell,
            retention_interval=connection.retention_interval or None,
            name=name,
        )
        return PostgresProvider(place, options)

    async def examine(self, name: str, connection: PostgresConnection, settings: Settings) -> Examination:
        """Look at server, roles, migrations, feeds, ticks and retention."""
        with extra("postgres"):
            from changefeed_gateway.providers.postgres.operations import doctor
        if connection.embedded is not None:
            embedded = _embedded(settings.data_directory(connection.embedded))
            yield embedded
            if not embedded.healthy:
                return
        async with running(name, connection, settings, migrated=False) as place:
            async for finding in doctor.examine(place):
                yield finding

    def is_own(self, error: Exception) -> bool:
        """A database that refuses, a server that does not start, a migration that does not fit."""
        with extra("postgres"):
            from changefeed_gateway.providers.postgres.errors import OperationError
        return isinstance(error, OperationError)

    def is_private(self, connection: PostgresConnection) -> bool:
        """An embedded server listens for this gateway alone."""
        return connection.embedded is not None


def _embedded(directory: Path) -> Finding:
    """Where it is; looking makes none."""
    made = (directory / "PG_VERSION").exists()
    return Finding(
        subject="server",
        healthy=made,
        detail=f"embedded, in {directory.absolute()}" + ("" if made else ", not made yet"),
        remedy="" if made else "name a database in the settings, or have changefeed serve make this one",
    )


@asynccontextmanager
async def running(
    name: str, connection: PostgresConnection, settings: Settings, *, migrated: bool = True
) -> AsyncIterator[str]:
    """Connection string of a database; an embedded server runs while the context lasts.

    An embedded server is the gateway's own, so its migrations are applied too, unless told otherwise.
    Raises SettingsError, OperatorError when a package is missing, and OperationError of the provider.
    """
    if connection.embedded is None:
        yield dsn(name, connection)
        return
    with extra("embedded"):
        from changefeed_gateway.providers.postgres.embedded.server import EmbeddedPostgres
        from changefeed_gateway.providers.postgres.operations import migrations
    directory = settings.data_directory(connection.embedded)
    async with EmbeddedPostgres(directory, database=connection.embedded.database) as server:
        if migrated:
            await migrations.migrate(server.dsn, documents=True)
        yield server.dsn
