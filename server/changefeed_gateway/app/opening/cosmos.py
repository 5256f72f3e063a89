"""The containers of one database of one Azure Cosmos DB account."""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from changefeed_gateway.app.opening.contract import extra
from changefeed_gateway.core.errors import ChangeFeedError
from changefeed_gateway.core.pace import Pace
from changefeed_gateway.core.provider import Examination, Provider
from changefeed_gateway.settings import CosmosConnection, Settings
from changefeed_gateway.settings.secrets import account_key

if TYPE_CHECKING:
    from changefeed_gateway.providers.cosmos.provider import CosmosOptions


class CosmosOpening:
    """Implements `Opening`."""

    async def open(
        self, name: str, connection: CosmosConnection, settings: Settings, stack: AsyncExitStack
    ) -> Provider:
        """Make a provider of the settings."""
        with extra("cosmos"):
            from changefeed_gateway.providers.cosmos.provider import CosmosProvider
        return CosmosProvider(_options(name, connection))

    async def examine(self, name: str, connection: CosmosConnection, settings: Settings) -> Examination:
        """Look at account, credentials, and the containers of the settings."""
        with extra("cosmos"):
            from changefeed_gateway.providers.cosmos import doctor
        async for finding in doctor.examine(_options(name, connection)):
            yield finding

    def is_own(self, error: Exception) -> bool:
        """What the SDK says is translated before it leaves the provider."""
        return isinstance(error, ChangeFeedError)

    def is_private(self, connection: CosmosConnection) -> bool:
        """Every gateway with the credentials can serve it."""
        return False


def _options(name: str, connection: CosmosConnection) -> "CosmosOptions":
    """What the provider is told of a connection."""
    from changefeed_gateway.providers.cosmos.cursor import Mode
    from changefeed_gateway.providers.cosmos.provider import CosmosOptions
    from changefeed_gateway.providers.cosmos.sdk import Endpoint

    return CosmosOptions(
        endpoint=Endpoint(
            url=connection.endpoint,
            key=account_key(name, connection),
            preferred_regions=connection.preferred_regions,
        ),
        database=connection.database,
        containers=frozenset(connection.containers),
        mode=Mode(connection.mode),
        backup_window=connection.backup_window,
        pace=Pace(shortest_pause=connection.shortest_pause, longest_pause=connection.longest_pause),
    )
