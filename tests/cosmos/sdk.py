"""The unmodified Azure SDK at the wire-level server, and what a bare reader does with it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from azure.cosmos.aio import ContainerProxy, CosmosClient

from tests.cosmos.server.wire import DATABASE, WireServer

AVAD: Final = "AllVersionsAndDeletes"
LATEST: Final = "LatestVersion"

FeedRange = dict[str, Any]


@asynccontextmanager
async def container_client(
    server: WireServer, name: str, *, key: str = "", **options: Any
) -> AsyncIterator[ContainerProxy]:
    """A client that is closed in the end; `options` are those of CosmosClient."""
    client = CosmosClient(server.url, key or server.key, **options)
    try:
        await client.__aenter__()
        yield client.get_database_client(DATABASE).get_container_client(name)
    finally:
        # Not `async with`: a client that is refused at its start would leave its connections open.
        await client.close()


async def feed_ranges(container: ContainerProxy) -> list[FeedRange]:
    """The feed ranges as they are now."""
    return [found async for found in container.read_feed_ranges(force_refresh=True)]


async def drain(container: ContainerProxy, **options: Any) -> tuple[list[dict[str, Any]], str]:
    """Read until nothing follows; answers what was read, and the SDK's continuation."""
    found = [change async for change in container.query_items_change_feed(**options)]
    headers: Mapping[str, str] = container.client_connection.last_response_headers
    return found, headers["etag"]


def ids(items: list[dict[str, Any]]) -> list[str]:
    """Ids of items, or of the items that records are about."""
    return [_item_id(item) for item in items]


def _item_id(item: dict[str, Any]) -> str:
    found: str = item["id"] if "metadata" not in item else (item.get("current") or item["metadata"])["id"]
    return found
