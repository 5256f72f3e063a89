"""What open_feed finds, and what it says when it finds nothing."""

import asyncio
from datetime import timedelta

import psycopg
import pytest

from changefeed_gateway.core.errors import (
    FeedNotProvisioned,
    NotFound,
    ProviderAuthenticationFailed,
    ProviderAuthorizationFailed,
    TransientFailure,
)
from changefeed_gateway.core.model import (
    Address,
    Beginning,
    CapabilityName,
    ItemState,
    PartitionId,
    PartitionState,
    PhysicalPartition,
)
from changefeed_gateway.providers.postgres.provider import PostgresOptions
from changefeed_gateway.providers.postgres.ticks.ticker import Cadence
from tests.databases import PostgresForTests
from tests.postgres.conftest import Connection
from tests.postgres.reading import address, open_provider, page_read

IMPATIENT = PostgresOptions(cadence=Cadence(outage_patience=timedelta(seconds=1)))


async def test_the_documents_feed(database: str) -> None:
    async with open_provider(database) as provider:
        feed = await provider.open_feed(address("documents"))
        assert feed.address.database == psycopg.conninfo.conninfo_to_dict(database)["dbname"]
        assert feed.provider_id == provider.provider_id == "postgres"
        assert feed.item_state is ItemState.INCLUDED_CURRENT
        assert feed.single_order
        assert feed.retention == timedelta(days=7)
        assert [warning.code for warning in feed.warnings] == ["CURRENT_ITEMS"]
        lacking = {name for name in CapabilityName if not feed.supports(name)}
        assert lacking == {CapabilityName.SNAPSHOT_PHYSICAL_PARTITION_SCOPE}
        assert await provider.open_feed(feed.address) == feed


async def test_watched_tables(connection: Connection, database: str) -> None:
    await connection.execute("CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE counters (id int PRIMARY KEY)")
    await connection.execute("SELECT changefeed.watch('orders'); SELECT changefeed.watch('counters', image => 'none')")
    async with open_provider(database) as provider:
        orders = await provider.open_feed(address("public.orders"))
        counters = await provider.open_feed(address("public.counters"))
        assert (orders.item_state, counters.item_state) == (ItemState.INCLUDED, ItemState.UNAVAILABLE)
        assert orders.supports(CapabilityName.NEW_ITEM_STATE)
        assert not counters.supports(CapabilityName.NEW_ITEM_STATE)
        assert orders.incarnation != counters.incarnation
        assert orders.warnings == ()
        (partition,) = await provider.list_partitions(orders)
        assert (partition.partition_id, partition.parents, partition.state) == ("0-4095", (), PartitionState.ACTIVE)


@pytest.mark.req("P7")
async def test_who_reads_a_collection_keeps_one_description_of_it_until_it_changes(
    connection: Connection, database: str
) -> None:
    await connection.execute("CREATE TABLE orders (id int PRIMARY KEY); SELECT changefeed.watch('orders')")
    async with open_provider(database) as provider:
        orders = await provider.open_feed(address("public.orders"))
        assert await provider.open_feed(address("public.orders")) is orders
        await connection.execute("UPDATE changefeed.feeds SET retention = '9 days' WHERE name = 'public.orders'")
        changed = await provider.open_feed(address("public.orders"))
        assert (changed.retention, changed.incarnation) == (timedelta(days=9), orders.incarnation)
        assert await provider.open_feed(address("public.orders")) is changed
        del orders, changed
        assert not provider._opened, "nobody has it any more"


@pytest.mark.req("E5")
async def test_a_feed_made_anew_has_another_incarnation_and_the_old_one_is_gone(
    connection: Connection, database: str
) -> None:
    await connection.execute("CREATE TABLE orders (id int PRIMARY KEY); SELECT changefeed.watch('orders')")
    async with open_provider(database) as provider:
        first = await provider.open_feed(address("public.orders"))
        await provider.read_page(first, page_read(Beginning()))
        await connection.execute("SELECT changefeed.unwatch('orders'); SELECT changefeed.watch('orders')")
        with pytest.raises(NotFound, match="removed since it was opened"):
            await provider.read_page(first, page_read(Beginning()))
        second = await provider.open_feed(address("public.orders"))
        assert second.incarnation != first.incarnation
        await provider.read_page(second, page_read(Beginning()))
        with pytest.raises(NotFound, match="removed since it was opened"):
            await provider.read_page(first, page_read(Beginning()))


async def test_a_feed_that_is_dropped_ends_the_reads_that_wait(connection: Connection, database: str) -> None:
    await connection.execute("CREATE TABLE orders (id int PRIMARY KEY); SELECT changefeed.watch('orders')")
    async with open_provider(database) as provider:
        feed = await provider.open_feed(address("public.orders"))
        waiting = asyncio.create_task(provider.read_page(feed, page_read(Beginning(), wait=30)))
        await provider.read_page(feed, page_read(Beginning()))
        await connection.execute("SELECT changefeed.unwatch('orders')")
        with pytest.raises(NotFound, match="removed since it was opened"):
            async with asyncio.timeout(10):
                await waiting


@pytest.mark.req("US4.1")
async def test_a_table_that_nobody_watches(connection: Connection, database: str) -> None:
    await connection.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    async with open_provider(database) as provider:
        with pytest.raises(FeedNotProvisioned, match=r"select changefeed\.watch\('public\.orders'\)"):
            await provider.open_feed(address("public.orders"))


@pytest.mark.parametrize(
    "collection", ["", "orders", "public.orders", "a.b.c.d", "a..b", "'; select 1", "Documents", "é"]
)
async def test_an_unknown_collection(database: str, collection: str) -> None:
    async with open_provider(database) as provider:
        with pytest.raises(NotFound) as caught:
            await provider.open_feed(address(collection))
        assert caught.value.reason == "COLLECTION_NOT_FOUND"


async def test_another_database(database: str) -> None:
    async with open_provider(database) as provider:
        with pytest.raises(NotFound) as caught:
            await provider.open_feed(Address(connection="c", database="another", collection="documents"))
        assert caught.value.reason == "DATABASE_NOT_FOUND"


async def test_a_database_without_the_change_log(postgres: PostgresForTests) -> None:
    dsn = await postgres.fresh("template1")
    try:
        async with open_provider(dsn) as provider:
            with pytest.raises(FeedNotProvisioned, match="changefeed migrate"):
                await provider.open_feed(address("documents"))
    finally:
        await postgres.drop(dsn)


async def test_a_database_that_does_not_exist(postgres: PostgresForTests) -> None:
    async with open_provider(postgres.dsn("nowhere"), IMPATIENT) as provider:
        with pytest.raises(NotFound) as caught:
            await provider.open_feed(address("documents"))
        assert caught.value.reason == "DATABASE_NOT_FOUND"


async def test_a_role_that_does_not_exist(database: str) -> None:
    dsn = psycopg.conninfo.make_conninfo(database, user="nobody_at_all")
    async with open_provider(dsn, IMPATIENT) as provider:
        with pytest.raises(ProviderAuthenticationFailed):
            await provider.open_feed(address("documents"))


async def test_a_role_without_rights(connection: Connection, database: str) -> None:
    await connection.execute("DROP ROLE IF EXISTS changefeed_stranger; CREATE ROLE changefeed_stranger LOGIN")
    dsn = psycopg.conninfo.make_conninfo(database, user="changefeed_stranger")
    async with open_provider(dsn) as provider:
        with pytest.raises(ProviderAuthorizationFailed):
            await provider.open_feed(address("documents"))
    await connection.execute("DROP ROLE changefeed_stranger")


async def test_a_server_that_is_away() -> None:
    async with open_provider("host=/nowhere/at/all dbname=x", IMPATIENT) as provider:
        with pytest.raises(TransientFailure) as caught:
            await provider.open_feed(address("documents"))
        assert caught.value.retry_after


async def test_an_unknown_partition(database: str) -> None:
    async with open_provider(database) as provider:
        feed = await provider.open_feed(address("documents"))
        with pytest.raises(NotFound) as caught:
            await provider.read_page(feed, page_read(Beginning(), scope=PhysicalPartition(PartitionId("0-127"))))
        assert caught.value.reason == "PARTITION_NOT_FOUND"


@pytest.mark.req("P7")
async def test_what_is_kept_of_a_feed_goes_when_it_is_unwatched_though_nobody_comes_again(
    connection: Connection, database: str
) -> None:
    await connection.execute("CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE counters (id int PRIMARY KEY)")
    await connection.execute("SELECT changefeed.watch('orders'); SELECT changefeed.watch('counters')")
    async with open_provider(database, PostgresOptions(check_cadence=timedelta(milliseconds=50))) as provider:
        for name in ("orders", "counters"):
            await provider.read_page(await provider.open_feed(address(f"public.{name}")), page_read(Beginning()))
        await connection.execute("SELECT changefeed.unwatch('orders')")
        async with asyncio.timeout(30):
            while {feed.definition.name for feed in provider._feeds()} != {"public.counters"}:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.02)
