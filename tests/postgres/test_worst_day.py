"""A database that is not the one it was: promoted, copied. A token of another history is refused, never misread."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import psycopg
import pytest

from changefeed_gateway.core.errors import InvalidRequest
from changefeed_gateway.core.model import After, Beginning, Cursor, Now
from changefeed_gateway.providers.postgres.provider import PostgresProvider
from tests.databases import LOG, PostgresForTests, running_postgres
from tests.postgres.conftest import Connection
from tests.postgres.reading import ids, open_provider, page_read, read_all
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
    async with asyncio.timeout(20):
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
        await rows_reach(standby, 5)
        await cut_off(standby)
        await shop.insert_many(101, 120)
        in_the_midst = (await shop.page(After(replicated.cursor), size=5)).cursor
        lost = [in_the_midst]
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
