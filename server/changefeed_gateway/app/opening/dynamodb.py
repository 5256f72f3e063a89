"""The tables of one AWS region and account."""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from changefeed_gateway.app.opening.contract import extra
from changefeed_gateway.core.errors import ChangeFeedError
from changefeed_gateway.core.pace import Pace
from changefeed_gateway.core.provider import Examination, Provider
from changefeed_gateway.settings import DynamoDBConnection, Settings

if TYPE_CHECKING:
    from changefeed_gateway.providers.dynamodb.provider import DynamoDBOptions


class DynamoDBOpening:
    """Implements `Opening`."""

    async def open(
        self, name: str, connection: DynamoDBConnection, settings: Settings, stack: AsyncExitStack
    ) -> Provider:
        """Make a provider of the settings."""
        with extra("dynamodb"):
            from changefeed_gateway.providers.dynamodb.provider import DynamoDBProvider
        return DynamoDBProvider(_options(connection))

    async def examine(self, name: str, connection: DynamoDBConnection, settings: Settings) -> Examination:
        """Look at credentials, region, and the tables of the settings."""
        with extra("dynamodb"):
            from changefeed_gateway.providers.dynamodb import doctor
        async for finding in doctor.examine(_options(connection)):
            yield finding

    def is_own(self, error: Exception) -> bool:
        """What the SDK says is translated before it leaves the provider."""
        return isinstance(error, ChangeFeedError)

    def is_private(self, connection: DynamoDBConnection) -> bool:
        """Every gateway with the credentials can serve it."""
        return False


def _options(connection: DynamoDBConnection) -> "DynamoDBOptions":
    """What the provider is told of a connection."""
    from changefeed_gateway.providers.dynamodb.provider import DynamoDBOptions
    from changefeed_gateway.providers.dynamodb.sdk import Endpoint

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
