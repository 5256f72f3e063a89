"""What a gateway on PostgreSQL shows of itself: how far behind, and whether its feeds move."""

from collections.abc import AsyncIterator

import psycopg
import pytest
from pydantic import SecretStr

from changefeed_client import NOW, collection
from changefeed_gateway.core.model import Beginning
from changefeed_gateway.providers.postgres.operations.feeds import watch
from changefeed_gateway.settings import PostgresConnection
from tests.databases import LOG, PostgresForTests
from tests.load.database_relay import DatabaseRelay
from tests.monitored import Monitored, monitored, until
from tests.postgres.shop import Shop, open_shop

ORDERS = collection("main/public.orders")


@pytest.fixture
async def dsn(postgres: PostgresForTests) -> AsyncIterator[str]:
    dsn = await postgres.fresh(LOG)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    await watch(dsn, "public.orders")
    yield dsn
    await postgres.drop(dsn)


def connection_to(dsn: str) -> dict[str, PostgresConnection]:
    return {"main": PostgresConnection(dsn=SecretStr(dsn))}


@pytest.fixture
async def shop(postgres: PostgresForTests) -> AsyncIterator[Shop]:
    dsn = await postgres.fresh(LOG)
    async with open_shop(dsn) as opened:
        yield opened
    await postgres.drop(dsn)


@pytest.mark.req("BX-9")
async def test_changes_behind_are_counted_from_every_place_without_a_question(shop: Shop) -> None:
    for low in range(0, 40, 4):
        await shop.insert_many(low, low + 3)
        await shop.tick()
    page = await shop.page(Beginning())
    assert len(page.changes) == 40
    left = [shop.provider.changes_after(shop.feed, cursor) for cursor in page.cursors]
    assert left == list(range(39, -1, -1))
    assert shop.provider.changes_after(shop.feed, page.start) == 40
    assert shop.provider.changes_after(shop.feed, page.cursor) == 0


@pytest.mark.req("BX-9")
async def test_a_live_stream_and_its_feed_show_what_holds(dsn: str) -> None:
    async with monitored(connection_to(dsn)) as gateway:
        feed = {"connection": "main", "collection": "public.orders"}
        async with gateway.client.tail(ORDERS, NOW) as tail:
            async for delivery in tail:
                if delivery.events:
                    break
                async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
                    await connection.execute("INSERT INTO orders VALUES (1) ON CONFLICT DO NOTHING")
            await until(lambda: _is(gateway, "changefeed_stream_changes_behind", 0, **feed))
            await until(lambda: _is(gateway, "changefeed_postgres_doorbell_listening", 1, connection="main"))
            lag = await gateway.value("changefeed_stream_lag_seconds", **feed)
            expiry = await gateway.value("changefeed_token_expiry_seconds", **feed)
            assert lag is not None
            assert lag < 60
            assert expiry is not None
            assert 6 * 86_400 < expiry < 9 * 86_400
            for name in ("ticks_total", "tick_questions_total"):
                assert (await gateway.value(f"changefeed_postgres_{name}", **feed) or 0) >= 1
            assert await gateway.value("changefeed_postgres_retention_age_seconds", connection="main") is not None
            assert await gateway.value("changefeed_tail_followers", **feed) == 1


async def _is(gateway: Monitored, name: str, wanted: float, **labels: str) -> bool:
    return await gateway.value(name, **labels) == wanted


@pytest.mark.req("BX-9")
async def test_a_feed_that_does_not_move_is_not_ready_and_ready_again_when_it_does(dsn: str) -> None:
    async with (
        monitored(connection_to(dsn)) as gateway,
        gateway.client.tail(ORDERS, NOW) as tail,
        await psycopg.AsyncConnection.connect(dsn) as holder,
    ):
        await anext(aiter(tail))
        await until(lambda: _is(gateway, "changefeed_streams", 1, state="live"))
        await holder.execute("LOCK TABLE changefeed_log.lock_ticks_1 IN ACCESS EXCLUSIVE MODE")
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as writer:
            await writer.execute("INSERT INTO orders VALUES (2)")
        print(f"not ready after {await gateway.until_ready(False):.1f} s")
        assert (await gateway.get("/livez"))[0] == 200
        await holder.rollback()
        await gateway.until_ready(True)
        async for delivery in tail:
            if delivery.events:
                break


@pytest.mark.req("BX-9")
async def test_a_database_that_falls_silent_is_not_ready(dsn: str) -> None:
    relay = DatabaseRelay(dsn)
    try:
        async with monitored(connection_to(await relay.start())) as gateway:
            assert relay.stall("changefeed-gateway")
            await relay.stop()
            print(f"not ready after {await gateway.until_ready(False):.1f} s")
            assert (await gateway.get("/livez"))[0] == 200
    finally:
        await relay.stop()
