"""The provider that tests put in front of a server: short pauses, so that nothing waits long."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from changefeed_gateway.core.pace import Pace
from changefeed_gateway.providers.cosmos.cursor import Mode
from changefeed_gateway.providers.cosmos.provider import CosmosOptions, CosmosProvider
from changefeed_gateway.providers.cosmos.sdk import Endpoint, Retries
from tests.cosmos.server.wire import DATABASE, WireServer

PACE = Pace(shortest_pause=timedelta(milliseconds=100), longest_pause=timedelta(milliseconds=400))
LONGEST_PAUSE = timedelta(milliseconds=400)
"""Of a provider that asks seldom."""
RETRIES = Retries(
    attempts=4,
    first_pause=timedelta(milliseconds=20),
    longest_pause=timedelta(milliseconds=200),
    connect_timeout=timedelta(seconds=10),
    read_timeout=timedelta(seconds=10),
)
BRIEF = replace(RETRIES, attempts=1)
IMPATIENT = replace(RETRIES, read_timeout=timedelta(seconds=1))
"""For who waits for a service that does not answer."""
WINDOW = timedelta(days=7)


def make_options(server: WireServer, **options: Any) -> CosmosOptions:
    """Options for a server; `options` are those of `CosmosOptions`."""
    chosen: dict[str, Any] = {
        "endpoint": Endpoint(url=server.url, key=server.key),
        "database": DATABASE,
        "mode": Mode.ALL_VERSIONS_AND_DELETES,
        "backup_window": WINDOW,
        "pace": PACE,
        "retries": RETRIES,
    }
    return CosmosOptions(**(chosen | options))


def make_provider(server: WireServer, **options: Any) -> CosmosProvider:
    """A provider of a server; `options` are those of `CosmosOptions`."""
    return CosmosProvider(make_options(server, **options))
