"""How each kind of connection is opened: the one table in which a provider plugs in."""

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final

from changefeed_gateway.app.opening.contract import Opening, OperatorError
from changefeed_gateway.app.opening.cosmos import CosmosOpening
from changefeed_gateway.app.opening.dynamodb import DynamoDBOpening
from changefeed_gateway.app.opening.memory import MemoryOpening
from changefeed_gateway.app.opening.postgres import PostgresOpening
from changefeed_gateway.app.opening.spanner import SpannerOpening
from changefeed_gateway.core.errors import Category
from changefeed_gateway.core.finding import Finding
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.settings import (
    CosmosConnection,
    DynamoDBConnection,
    MemoryConnection,
    PostgresConnection,
    Settings,
    SpannerConnection,
)

OPENINGS: Final[dict[type, Opening[Any]]] = {
    PostgresConnection: PostgresOpening(),
    DynamoDBConnection: DynamoDBOpening(),
    CosmosConnection: CosmosOpening(),
    SpannerConnection: SpannerOpening(),
    MemoryConnection: MemoryOpening(),
}
"""By the type of a connection's settings."""


async def open_provider(settings: Settings, name: str, stack: AsyncExitStack) -> Provider:
    """Open and start a connection; what serves it ends with `stack`. Raises SettingsError, OperatorError."""
    connection = settings.connections[name]
    opening = OPENINGS[type(connection)]
    with _refusals(opening):
        provider = await opening.open(name, connection, settings, stack)
        await provider.start()
    return provider


async def examine(settings: Settings, name: str) -> list[Finding]:
    """Look a connection over. Raises SettingsError, and OperatorError when it cannot even be started."""
    connection = settings.connections[name]
    opening = OPENINGS[type(connection)]
    with _refusals(opening):
        return [finding async for finding in opening.examine(name, connection, settings)]


def is_private(settings: Settings, name: str) -> bool:
    """Whether nobody but this gateway can serve a connection."""
    connection = settings.connections[name]
    return OPENINGS[type(connection)].is_private(connection)


@contextmanager
def _refusals(opening: Opening[Any]) -> Iterator[None]:
    """What the database refuses is for the operator to read; anything else is a fault of ours."""
    try:
        yield
    except Exception as error:
        if not opening.is_own(error):
            raise
        raise OperatorError(str(error), getattr(error, "category", Category.PROVIDER_ERROR)) from error
