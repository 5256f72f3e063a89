"""A watched table, its provider, and words to write and read with."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import psycopg

from changefeed_gateway.core.model import Change, Feed, Page, PageRead, Start
from changefeed_gateway.providers.postgres.provider import PostgresOptions, PostgresProvider
from tests.postgres.conftest import Connection
from tests.postgres.reading import address, open_provider, page_read

QUIET = PostgresOptions(idle_cadence=timedelta(hours=1))
"""No ticks but those that reads make."""


class Shop:
    """`orders (id, space, note)`, watched, with `space` as partition key."""

    feed_id = 1

    def __init__(self, dsn: str, connection: Connection, provider: PostgresProvider, feed: Feed) -> None:
        self.dsn = dsn
        self.connection = connection
        self.provider = provider
        self.feed = feed

    async def insert(self, *numbers: int, space: int = 0, size: int = 1) -> None:
        """A transaction for each."""
        for number in numbers:
            await self.connection.execute("INSERT INTO orders VALUES (%s, %s, repeat('x', %s))", (number, space, size))

    async def insert_many(self, low: int, high: int, space: int = 0) -> None:
        """All in one transaction."""
        await self.connection.execute(
            "INSERT INTO orders SELECT n, %s, 'x' FROM generate_series(%s::int, %s::int) n", (space, low, high)
        )

    async def tick(self, *, force: bool = False) -> int:
        cursor = await self.connection.execute("SELECT id FROM changefeed.tick(%s, %s)", (self.feed_id, force))
        row = await cursor.fetchone()
        assert row is not None
        return int(row[0])

    async def forget_ticks(self, condition: str) -> None:
        await self.connection.execute(f"DELETE FROM changefeed_log.tick_1 WHERE {condition}".encode())

    async def page(self, start: Start, **how: object) -> Page:
        return await self.read(page_read(start, **how))  # type: ignore[arg-type]

    async def read(self, read: PageRead) -> Page:
        return await self.provider.read_page(self.feed, read)


@asynccontextmanager
async def open_shop(dsn: str, *, image: str = "captured", options: PostgresOptions = QUIET) -> AsyncIterator[Shop]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("CREATE TABLE orders (id int PRIMARY KEY, space int NOT NULL, note text)")
        await connection.execute("SELECT changefeed.watch('orders', partition_key => '{space}', image => %s)", (image,))
        async with open_provider(dsn, options) as provider:
            yield Shop(dsn, connection, provider, await provider.open_feed(address("public.orders")))


def keys(changes: Sequence[Change] | Page) -> list[int]:
    found = changes.changes if isinstance(changes, Page) else changes
    return [int(change.key.components[0].value) for change in found]
