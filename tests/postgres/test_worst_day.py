"""A database that was promoted, copied or restored: a token of another history is refused, never misread."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import psycopg
import pytest
from psycopg import sql

from changefeed_gateway.core.errors import InvalidRequest
from changefeed_gateway.core.model import After, Beginning, Cursor, Now, Snapshot
from changefeed_gateway.providers.postgres.provider import PostgresProvider
from tests.databases import LOG, PostgresForTests, running_postgres
from tests.postgres.conftest import Connection
from tests.postgres.dumps import dumped, restore
from tests.postgres.reading import address, ids, open_provider, page_read, read_all
from tests.postgres.servers import clone_of, standby_of
from tests.postgres.shop import QUIET, Shop, keys, open_shop


@pytest.fixture(scope="module")
async def own_server() -> AsyncIterator[PostgresForTests]:
    """A server that may be copied and stopped."""
    async with running_postgres() as server:
        yield server


async def connect(dsn: str) -> Connection:
    return await psycopg.AsyncConnection.connect(dsn, autocommit=True)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110 - another server's state
            await asyncio.sleep(0.02)


async def cut_off(standby: Connection) -> None:
    """End the streaming, as a network between two sites would."""
    await standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
    await standby.execute("SELECT pg_reload_conf()")

    async def silent() -> bool:
        return await (await standby.execute("SELECT 1 FROM pg_stat_wal_receiver")).fetchone() is None

    await until(silent)


async def rows_reach(standby: Connection, count: int) -> None:
    async def there() -> bool:
        row = await (await standby.execute("SELECT count(*) FROM changefeed_log.log_1")).fetchone()
        return row == (count,)

    await until(there)


async def refused(provider: PostgresProvider, shop: Shop, cursor: Cursor, wait: float = 0) -> str:
    feed = await provider.open_feed(shop.feed.address)
    with pytest.raises(InvalidRequest) as caught:
        await provider.read_page(feed, page_read(After(cursor), wait=wait))
    assert caught.value.reason == "TOKEN_RESOURCE_RECREATED"
    return str(caught.value)


@pytest.mark.req("P1", "P6")
async def test_a_promotion_that_lost_ticks_refuses_who_read_them_and_nobody_else(own_server: PostgresForTests) -> None:
    dsn = await own_server.fresh(LOG)
    async with AsyncExitStack() as stack:
        shop = await stack.enter_async_context(open_shop(dsn))
        standby_dsn = await stack.enter_async_context(standby_of(own_server, dsn))
        standby = await stack.enter_async_context(await connect(standby_dsn))
        await shop.insert_many(1, 5)
        replicated = await shop.page(Beginning())
        began = (await shop.page(Snapshot(), size=0)).cursor
        await rows_reach(standby, 5)
        await cut_off(standby)
        await shop.connection.execute("UPDATE orders SET note = 'lost' WHERE id = 1")
        items = await shop.page(After(began), size=5)
        assert "lost" in str(items.changes[0].item)
        await shop.insert_many(101, 120)
        in_the_midst = (await shop.page(After(replicated.cursor), size=5)).cursor
        # Among the items: the place is that of before, but what they saw is not.
        lost = [in_the_midst, items.cursors[2]]
        for number in (121, 122):
            await shop.insert(number)
            lost.append((await shop.page(After(replicated.cursor))).cursor)
        await standby.execute("SELECT pg_promote()")
        provider = await stack.enter_async_context(open_provider(standby_dsn, QUIET))
        assert "lies beyond the newest change" in await refused(provider, shop, lost[-1])
        for number in range(201, 210):
            await standby.execute("INSERT INTO orders VALUES (%s, 0)", (number,))
            await standby.execute("SELECT changefeed.tick(1)")
        for cursor in lost:
            for wait in (0, 1):
                assert "does not have" in await refused(provider, shop, cursor, wait)
        feed = await provider.open_feed(shop.feed.address)
        for middle in (replicated.cursor, *replicated.cursors):
            assert keys((await read_all(provider, feed, page_read(After(middle))))[0])[-9:] == list(range(201, 210))
        assert keys((await read_all(provider, feed))[0]) == [1, 2, 3, 4, 5, *range(201, 210)]


@pytest.mark.req("P1", "P6")
async def test_a_reader_that_waits_through_such_a_promotion_is_refused_as_well(
    own_server: PostgresForTests,
) -> None:
    """The gateway follows to the new primary by itself; what it knew of the old one's ticks is forgotten."""
    dsn = await own_server.fresh(LOG)
    async with AsyncExitStack() as stack:
        shop = await stack.enter_async_context(open_shop(dsn))
        standby_dsn = await stack.enter_async_context(standby_of(own_server, dsn))
        standby = await stack.enter_async_context(await connect(standby_dsn))
        hosts = ",".join(str(psycopg.conninfo.conninfo_to_dict(d)["host"]) for d in (dsn, standby_dsn))
        both = psycopg.conninfo.make_conninfo(dsn, host=hosts, port="5432,5432", target_session_attrs="read-write")
        provider = await stack.enter_async_context(open_provider(both, QUIET))
        feed = await provider.open_feed(shop.feed.address)
        await shop.insert(1)
        page = await provider.read_page(feed, page_read(Beginning()))
        await rows_reach(standby, 1)
        await cut_off(standby)
        await shop.insert(2)
        lost = await provider.read_page(feed, page_read(After(page.cursor)))
        assert keys(lost) == [2]
        waiting = asyncio.create_task(provider.read_page(feed, page_read(After(lost.cursor), wait=30)))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(own_server.server.stop)
        await standby.execute("SELECT pg_promote()")
        for number in (3, 4):
            await standby.execute("INSERT INTO orders VALUES (%s, 0)", (number,))
            await standby.execute("SELECT changefeed.tick(1)")
        with pytest.raises(InvalidRequest, match="does not have") as caught:
            await waiting
        assert caught.value.reason == "TOKEN_RESOURCE_RECREATED"
        assert keys(await provider.read_page(feed, page_read(After(page.cursor)))) == [3, 4]
        assert keys((await read_all(provider, feed))[0]) == [1, 3, 4]
    await asyncio.to_thread(own_server.server.start)


@pytest.mark.req("P3", "P6")
async def test_a_physical_clone_shares_the_history_up_to_the_copy_and_no_more(own_server: PostgresForTests) -> None:
    """It has the system identifier and the timeline of the original: only the ticks tell the two apart."""
    dsn = await own_server.fresh(LOG)
    async with AsyncExitStack() as stack:
        shop = await stack.enter_async_context(open_shop(dsn))
        await shop.insert(1, 2)
        before = await shop.page(Beginning())
        clone_dsn = await stack.enter_async_context(clone_of(own_server, dsn))
        clone = await stack.enter_async_context(await connect(clone_dsn))
        provider = await stack.enter_async_context(open_provider(clone_dsn, QUIET))
        feed = await provider.open_feed(shop.feed.address)
        for number in (3, 4):
            await shop.insert(number)
            await clone.execute("INSERT INTO orders VALUES (%s, 0)", (10 * number,))
            after = await shop.page(After(before.cursor))
            of_the_clone = await provider.read_page(feed, page_read(After(before.cursor)))
        assert feed.incarnation == shop.feed.incarnation
        assert (keys(after), keys(of_the_clone)) == ([3, 4], [30, 40])
        assert "does not have" in await refused(provider, shop, after.cursor)
        with pytest.raises(InvalidRequest, match="does not have"):
            await shop.page(After(of_the_clone.cursor))
        assert ids((await read_all(provider, feed))[0])[:2] == ids(before.changes)
        assert keys(await provider.read_page(feed, page_read(Now(), size=0))) == []


async def newest_transaction_id(connection: Connection) -> int:
    row = await (await connection.execute("SELECT pg_current_xact_id()::text::bigint")).fetchone()
    assert row is not None
    return int(row[0])


async def use_up_transaction_ids(connection: Connection, number: int) -> None:
    """Each inner block takes one."""
    await connection.execute(
        sql.SQL("""
        CREATE TEMP TABLE burnt (i int);
        DO $$ BEGIN FOR i IN 1..{} LOOP
            BEGIN INSERT INTO burnt VALUES (i); EXCEPTION WHEN unique_violation THEN NULL; END;
        END LOOP; END $$
        """).format(sql.Literal(number))
    )


@pytest.mark.parametrize("to_the_past", [True, False])
@pytest.mark.req("P1", "P6")
async def test_a_restored_feed_begins_anew_and_loses_nothing_written_since(
    own_server: PostgresForTests, postgres: PostgresForTests, to_the_past: bool
) -> None:
    """Ids of the dump lie in the future of the cluster that it is restored to, or are used there a second time."""
    source, target = (own_server, postgres) if to_the_past else (postgres, own_server)
    async with AsyncExitStack() as stack:
        dsn = await source.fresh(LOG)
        here = await stack.enter_async_context(await connect(dsn))
        there = await stack.enter_async_context(await connect(target.server.dsn))
        ahead, behind = (here, there) if to_the_past else (there, here)
        missing = await newest_transaction_id(behind) - await newest_transaction_id(ahead)
        await use_up_transaction_ids(ahead, max(0, missing) + 1000)
        shop = await stack.enter_async_context(open_shop(dsn))
        await shop.insert(*range(1, 6))
        for number in (1, 2, 3):
            await shop.connection.execute("UPDATE orders SET note = 'b' WHERE id = %s", (number,))
            await shop.tick()
        old = await shop.page(Beginning())
        await shop.insert(6)  # no tick bounds it when the dump is made
        dump = await stack.enter_async_context(dumped(source, dsn))
        restored = await restore(target, dump, f"restored_{to_the_past}".lower())
        other = await stack.enter_async_context(await connect(restored))
        await other.execute("INSERT INTO orders VALUES (7, 0)")
        await other.execute("UPDATE orders SET note = 'c' WHERE id = 7")
        provider = await stack.enter_async_context(open_provider(restored, QUIET))
        feed = await provider.open_feed(address("public.orders"))
        assert feed.incarnation != shop.feed.incarnation
        first, cursor = await read_all(provider, feed)
        assert keys(first) == [6, 7, 7]
        assert not {*ids(first)} & {*ids(old.changes)}
        async with await psycopg.AsyncConnection.connect(restored) as writer:
            await writer.execute("INSERT INTO orders VALUES (8, 0)")
            for number in range(9, 40):
                await other.execute("INSERT INTO orders VALUES (%s, 1)", (number,))
                await other.execute("SELECT changefeed.tick(1)")
        later, _ = await read_all(provider, feed, page_read(After(cursor), size=10))
        assert sorted(keys(later)) == list(range(8, 40))
        assert keys((await read_all(provider, feed))[0]) == [6, 7, 7, *keys(later)]
        assert keys(await shop.page(After(old.cursor))) == [6]
        await other.execute("SELECT changefeed.watch('orders', partition_key => '{space}')")


@pytest.mark.req("P6")
async def test_a_clone_may_begin_its_feeds_anew_by_hand(own_server: PostgresForTests) -> None:
    dsn = await own_server.fresh(LOG)
    async with AsyncExitStack() as stack:
        shop = await stack.enter_async_context(open_shop(dsn))
        await shop.insert(1)
        await shop.tick()
        clone_dsn = await stack.enter_async_context(clone_of(own_server, dsn))
        clone = await stack.enter_async_context(await connect(clone_dsn))
        await clone.execute("INSERT INTO orders VALUES (2, 0)")
        await clone.execute("SELECT changefeed.begin_epoch(1)")
        provider = await stack.enter_async_context(open_provider(clone_dsn, QUIET))
        feed = await provider.open_feed(shop.feed.address)
        assert feed.incarnation != shop.feed.incarnation
        assert keys((await read_all(provider, feed))[0]) == [2]


async def test_nobody_begins_a_feed_anew_where_it_is_at_home(log_database: str) -> None:
    async with open_shop(log_database) as shop:
        await shop.insert(1)
        cursor = await shop.connection.execute("SELECT changefeed.adopt_log(1)")
        assert await cursor.fetchone() == (False,)
        assert keys(await shop.page(Beginning())) == [1]
