"""A watched table, a gateway process in front of it, and a caller: what most tests of this folder begin with."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import psycopg

from changefeed.v1.change_event_pb2 import ChangeEvent
from changefeed.v1.change_feed_service_pb2_grpc import ChangeFeedServiceStub
from changefeed.v1.resource_pb2 import ResourceAddress
from tests.conformance.client import Client
from tests.databases import DOCUMENTS, LOG, PostgresForTests
from tests.load.gateway_process import GatewayProcess
from tests.load.writers import Connection

ITEMS = """
CREATE TABLE items (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shelf integer NOT NULL DEFAULT 0,
    note text NOT NULL DEFAULT ''
);
SELECT changefeed.watch('items', partition_key => array['shelf']);
"""
"""The collection `public.items`."""

_AS_IT_IS = (("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500))
"""Shows a caller every refusal, and gives each channel a connection of its own."""


@dataclass
class Scene:
    """What a test acts with."""

    dsn: str
    database: Connection
    """An autocommit connection of the application."""
    gateway: GatewayProcess
    address: ResourceAddress
    client: Client
    stack: AsyncExitStack

    async def another_client(self) -> Client:
        """A caller on a connection of its own."""
        channel = grpc.aio.insecure_channel(self.gateway.target, options=_AS_IT_IS)
        await self.stack.enter_async_context(channel)
        return Client(ChangeFeedServiceStub(channel), self.address)

    async def connect(self) -> Connection:
        """One more autocommit connection to the database."""
        connection = await psycopg.AsyncConnection.connect(self.dsn, autocommit=True)
        return await self.stack.enter_async_context(connection)

    async def insert(self, count: int = 1, *, note_bytes: int = 0, shelf: int = 0) -> list[str]:
        """Commit new rows in one transaction; answers their keys."""
        cursor = await self.database.execute(
            "INSERT INTO items (shelf, note) SELECT %s, repeat('x', %s) FROM generate_series(1, %s) RETURNING id::text",
            (shelf, note_bytes, count),
        )
        return [row[0] for row in await cursor.fetchall()]


@asynccontextmanager
async def open_scene(
    postgres: PostgresForTests,
    directory: Path,
    *,
    documents: bool = False,
    gateway_dsn: str = "",
    dsn: str = "",
    settings: Mapping[str, object] | None = None,
) -> AsyncIterator[Scene]:
    """A fresh database (unless its `dsn` is given) with the feed of items or of documents; `gateway_dsn` is the
    gateway's own way to it."""
    dsn = dsn or await postgres.fresh(DOCUMENTS if documents else LOG)
    address = ResourceAddress(connection="main", collection="documents" if documents else "public.items")
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(await psycopg.AsyncConnection.connect(dsn, autocommit=True))
        if not documents:
            await database.execute(ITEMS.encode())
        gateway = GatewayProcess(directory, gateway_dsn or dsn, settings=dict(settings or {}))
        stack.push_async_callback(gateway.stop)
        await gateway.start()
        channel = grpc.aio.insecure_channel(gateway.target, options=_AS_IT_IS)
        await stack.enter_async_context(channel)
        yield Scene(dsn, database, gateway, address, Client(ChangeFeedServiceStub(channel), address), stack)


def keys(events: Iterable[ChangeEvent]) -> list[str]:
    """The first key component of each event, in order."""
    return [event.key.components[0].value for event in events]


async def until_stalled(pid: int) -> None:
    """Wait until a gateway that sends to a reader who does not read has sent all that the network takes."""
    process = psutil.Process(pid)
    worked = -1.0
    while (now := sum(process.cpu_times()[:2])) - worked > 0.03:
        worked = now
        await asyncio.sleep(0.4)
