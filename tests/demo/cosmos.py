"""The wire-level server of the tests, which stands for Cosmos DB, as a stage of the demo."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from azure.cosmos.aio import ContainerProxy
from pydantic import SecretStr

from changefeed_gateway.cli.demo.mirror import Document, parsed
from changefeed_gateway.settings import CosmosConnection, Settings
from tests.cosmos.sdk import container_client
from tests.cosmos.server.behaviour import Behaviour
from tests.cosmos.server.wire import DATABASE, WireServer
from tests.demo.editors import InMemory, Item

_CONTAINER = "documents"


class CosmosServer(InMemory):
    """In memory: each run begins anew. What is written and read passes through the vendor's SDK."""

    database = "a wire-level server of Cosmos DB (the project's own: there is no emulator with this feed)"

    def __init__(self) -> None:
        super().__init__()
        self._server: WireServer
        self._container: ContainerProxy

    @asynccontextmanager
    async def opened(self, settings: Settings) -> AsyncIterator[Settings]:
        """Start it with a container of two ranges."""
        with WireServer(Behaviour(ranges=2)) as self._server:
            self._server.create_container(_CONTAINER, "/workspace")
            connection = CosmosConnection(
                provider="cosmos",
                endpoint=self._server.url,
                key=SecretStr(self._server.key),
                database=DATABASE,
                containers=(_CONTAINER,),
            )
            async with container_client(self._server, _CONTAINER) as self._container:
                yield settings.model_copy(update={"connections": {"main": connection}})

    async def disturb(self, say: Callable[[str], None]) -> None:
        """Split a range."""
        say("a range of the container splits under its readers")
        await asyncio.to_thread(self._server.split, _CONTAINER, self._server.ranges(_CONTAINER)[0])

    async def put(self, item: Item) -> None:
        """Create or replace an item."""
        await self._container.upsert_item(item)

    async def delete(self, item: Item) -> None:
        """Delete an item."""
        await self._container.delete_item(item["id"], partition_key=item["workspace"])

    async def documents(self) -> Mapping[str, Document]:
        """All items, as the SDK reads them."""
        return {item["id"]: parsed(item) async for item in self._container.read_all_items()}
