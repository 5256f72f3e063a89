"""Each way of pg_restore: the feeds begin anew and say so, or the restore is refused, or doctor names what to do."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from changefeed_gateway.core.model import After, Beginning, Change, Feed, PartitionState, PhysicalPartition
from changefeed_gateway.providers.postgres.doctor import examine
from changefeed_gateway.providers.postgres.finding import Finding
from changefeed_gateway.providers.postgres.provider import PostgresProvider
from tests.databases import LOG, PostgresForTests
from tests.postgres.conftest import Connection
from tests.postgres.dumps import dumped, restore, run
from tests.postgres.reading import address, ids, open_provider, page_read, read_all
from tests.postgres.shop import QUIET, Shop, keys, open_shop

WITHOUT_FEEDS = ("--data-only", "--exclude-schema=changefeed", "--exclude-schema=changefeed_log")


@asynccontextmanager
async def open_big_shop(dsn: str) -> AsyncIterator[Shop]:
    """`orders` in two physical partitions, and `lines`, a feed that is watched always."""
    async with open_shop(dsn) as shop:
        await shop.connection.execute("CREATE TABLE lines (id int PRIMARY KEY)")
        await shop.connection.execute("SELECT changefeed.watch('lines', always => true)")
        await shop.connection.execute("SELECT changefeed.split_partition('public.orders', '0-255')")
        yield shop


async def write(connection: Connection, *numbers: int) -> None:
    for number in numbers:
        await connection.execute("INSERT INTO orders VALUES (%s, 0)", (number,))
        await connection.execute("INSERT INTO lines VALUES (%s)", (number,))


async def write_as_replica(connection: Connection, number: int) -> None:
    await connection.execute("SET session_replication_role = replica")
    await connection.execute("INSERT INTO lines VALUES (%s)", (number,))
    await connection.execute("RESET session_replication_role")


async def changes(provider: PostgresProvider, collection: str) -> list[Change]:
    return (await read_all(provider, await provider.open_feed(address(collection))))[0]


async def by_partitions(provider: PostgresProvider, feed: Feed) -> list[int]:
    active = [p for p in await provider.list_partitions(feed) if p.state is PartitionState.ACTIVE]
    assert len(active) == 2
    found: list[int] = []
    for partition in active:
        scope = PhysicalPartition(partition_id=partition.partition_id)
        found += keys((await read_all(provider, feed, page_read(Beginning(), scope=scope)))[0])
    return sorted(found)


async def wrong(dsn: str) -> dict[str, Finding]:
    return {finding.subject: finding async for finding in examine(dsn) if not finding.healthy}


async def check_begun_anew(dsn: str, before: Feed, seen: list[Change]) -> None:
    """1 to 3 had been read when the dump was made, 4 was in no tick yet; nothing that is written now is lost."""
    async with (
        open_provider(dsn, QUIET) as provider,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection,
    ):
        await write(connection, 5)
        await write_as_replica(connection, 6)
        feed = await provider.open_feed(address("public.orders"))
        # The token's fingerprint holds it, so every token of before is refused.
        assert feed.incarnation != before.incarnation
        orders = await changes(provider, "public.orders")
        assert keys(orders) == [4, 5]
        assert not {*ids(orders)} & {*ids(seen)}
        assert keys(await changes(provider, "public.lines")) == [4, 5, 6]
        assert await by_partitions(provider, feed) == [4, 5]
        _, cursor = await read_all(provider, feed)
        await write(connection, *range(10, 30))
        assert keys((await read_all(provider, feed, page_read(After(cursor), size=7)))[0]) == list(range(10, 30))
        assert await by_partitions(provider, feed) == [4, 5, *range(10, 30)]
        # Its own look at them, every 10 s, writes capture for the tables as they are numbered now.
        await connection.execute("SELECT changefeed.check_feeds()")
        assert await wrong(dsn) == {}


@pytest.mark.parametrize("options", [(), ("--jobs=4",), ("--single-transaction",)], ids=lambda o: "".join(o) or "plain")
@pytest.mark.req("P1", "P6")
async def test_a_restore_into_a_new_database(postgres: PostgresForTests, options: tuple[str, ...]) -> None:
    async with open_big_shop(await postgres.fresh(LOG)) as shop:
        await write(shop.connection, 1, 2, 3)
        seen = await changes(shop.provider, "public.orders")
        await changes(shop.provider, "public.lines")
        await write(shop.connection, 4)
        async with dumped(postgres, shop.dsn) as dump:
            restored = await restore(postgres, dump, "restored", *options)
        try:
            await check_begun_anew(restored, shop.feed, seen)
        finally:
            await postgres.drop(restored)


@pytest.mark.parametrize("options", [(), ("--jobs=4",)], ids=["one", "jobs=4"])
@pytest.mark.req("P1", "P6")
async def test_a_restore_over_the_database_itself(postgres: PostgresForTests, options: tuple[str, ...]) -> None:
    """The log's table is another one afterwards; the cluster and its transaction ids are the same."""
    async with open_big_shop(await postgres.fresh(LOG)) as shop:
        await write(shop.connection, 1, 2, 3)
        seen = await changes(shop.provider, "public.orders")
        await changes(shop.provider, "public.lines")
        await write(shop.connection, 4)
        async with dumped(postgres, shop.dsn) as dump:
            await write(shop.connection, 5, 100, 101)
            seen += await changes(shop.provider, "public.orders")
            arguments = ("--clean", "--if-exists", "--exit-on-error", *options, "-d", shop.dsn, dump)
            status, said = await run(postgres, "pg_restore", *arguments)
            assert status == 0, said
        await check_begun_anew(shop.dsn, shop.feed, seen)
