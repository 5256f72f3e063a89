"""The tables of one Cloud Spanner database."""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from changefeed_gateway.app.opening.contract import extra
from changefeed_gateway.core.errors import ChangeFeedError
from changefeed_gateway.core.provider import Examination, Provider
from changefeed_gateway.settings import Settings, SpannerConnection

if TYPE_CHECKING:
    from changefeed_gateway.providers.spanner.provider import SpannerOptions


class SpannerOpening:
    """Implements `Opening`."""

    async def open(
        self, name: str, connection: SpannerConnection, settings: Settings, stack: AsyncExitStack
    ) -> Provider:
        """Make a provider of the settings."""
        with extra("spanner"):
            from changefeed_gateway.providers.spanner.provider import SpannerProvider
        return SpannerProvider(_options(connection))

    async def examine(self, name: str, connection: SpannerConnection, settings: Settings) -> Examination:
        """Look at credentials, database, and the tables of the settings."""
        with extra("spanner"):
            from changefeed_gateway.providers.spanner import doctor
        async for finding in doctor.examine(_options(connection)):
            yield finding

    def is_own(self, error: Exception) -> bool:
        """What the SDK says is translated before it leaves the provider."""
        return isinstance(error, ChangeFeedError)

    def is_private(self, connection: SpannerConnection) -> bool:
        """Every gateway with the credentials can serve it."""
        return False


def _options(connection: SpannerConnection) -> "SpannerOptions":
    """What the provider is told of a connection."""
    from changefeed_gateway.providers.spanner.provider import SpannerOptions
    from changefeed_gateway.providers.spanner.reading import Pace
    from changefeed_gateway.providers.spanner.sdk import Endpoint

    return SpannerOptions(
        endpoint=Endpoint(
            project=connection.project,
            instance=connection.instance,
            database=connection.database,
            credentials_file=connection.credentials_file,
            emulator_host=connection.emulator_host,
        ),
        tables=dict(connection.tables),
        pace=Pace(heartbeat=connection.heartbeat),
    )
