"""The doorbell of a real database, beside logins that send what they like to its channel."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import psycopg
import pytest
from psycopg import sql

from changefeed_gateway.core.model import After, Now
from changefeed_gateway.providers.postgres.connections import Connections
from changefeed_gateway.providers.postgres.provider import PostgresOptions
from changefeed_gateway.providers.postgres.ticks.doorbell import CHANNEL, Doorbell
from changefeed_gateway.providers.postgres.ticks.ticker import Cadence, TickAnswer
from tests.databases import PostgresForTests
from tests.postgres.conftest import Connection
from tests.postgres.roles import login
from tests.postgres.shop import Shop, keys, open_shop

BELL_ONLY = PostgresOptions(cadence=Cadence(quiet_poll=timedelta(seconds=60)), idle_cadence=timedelta(hours=1))
"""Without the doorbell nothing comes in time."""


@pytest.fixture
async def shop(log_database: str) -> AsyncIterator[Shop]:
    async with open_shop(log_database, options=BELL_ONLY) as shop, asyncio.timeout(120):
        await shop.provider.doorbell.listening.wait()
        yield shop


async def notify(connection: Connection, *payloads: str) -> None:
    for payload in payloads:
        await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))


async def check_heard(shop: Shop, number: int) -> None:
    page = await shop.page(Now())
    waiting = asyncio.create_task(shop.page(After(page.cursor), wait=30))
    await asyncio.sleep(0.05)
    await shop.insert(number)
    async with asyncio.timeout(25):
        assert keys(await waiting) == [number]


@pytest.mark.req("P7", "BX-11")
@pytest.mark.parametrize("payload", ['{"feed": 1e400}', "[" * 7_900, '{"feed": ' * 800, ""], ids=len)
async def test_no_login_can_end_the_doorbell(shop: Shop, payload: str) -> None:
    async with (
        login(shop.dsn, "changefeed_nobody") as dsn,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as stranger,
    ):
        await notify(stranger, payload, payload)
        await check_heard(shop, 1)
    assert shop.provider.doorbell.listening.is_set()
    assert shop.provider.doorbell.passed_over == 2, "on the same connection: what came before it was heard"


async def test_a_flood_of_notifications_starves_neither_the_loop_nor_the_database(shop: Shop) -> None:
    flood = (
        "SELECT count(*) FROM (SELECT pg_notify('changefeed', CASE n %% 4"
        " WHEN 0 THEN json_build_object('feed', 1, 'seq', n, 'partition_key', repeat('x', 900))::text"
        " WHEN 1 THEN json_build_object('feed', n)::text WHEN 2 THEN repeat('[', 1000) || n ELSE n::text END)"
        " FROM generate_series(1, %s) n) s"
    )
    page = await shop.page(Now())
    [feed] = shop.provider._feeds()
    put, asked = feed.ticker._ask, 0

    async def count_and_put() -> TickAnswer:
        nonlocal asked
        asked += 1
        return await put()

    feed.ticker._ask = count_and_put
    waiting = asyncio.create_task(shop.page(After(page.cursor), wait=60))
    async with await psycopg.AsyncConnection.connect(shop.dsn, autocommit=True) as stranger:
        for _ in range(20):
            await stranger.execute(flood, (5_000,))
        await shop.insert(1)
        async with asyncio.timeout(60):
            assert keys(await waiting) == [1]
    assert shop.provider.doorbell.listening.is_set()
    assert asked < 1_000, "not once for each of 25,000 rings"


async def test_text_that_is_none_does_not_end_the_doorbell(postgres: PostgresForTests) -> None:
    """In a database of encoding SQL_ASCII whatever bytes a login sends arrive."""
    name = "doorbell_ascii"
    create = "CREATE DATABASE {} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
    await postgres.execute(sql.SQL(create).format(sql.Identifier(name)))
    dsn = postgres.dsn(name)
    rung: list[object] = []

    async def until(number: int) -> None:
        async with asyncio.timeout(30):
            while len(rung) < number:  # noqa: ASYNC110 - a list has no event
                await asyncio.sleep(0.01)

    connections = Connections(dsn)
    await connections.open()
    doorbell = Doorbell(dsn, connections, rung.append)
    listening = asyncio.create_task(doorbell.run(lambda: None))
    try:
        await until(1)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as stranger:
            await stranger.execute("DO $$ BEGIN PERFORM pg_notify('changefeed', E'\\xff'); END $$")
            await stranger.execute("SELECT pg_notify('changefeed', '{\"feed\" : 7}')")
            await until(2)
        assert not listening.done()
        assert rung == [None, {7: 0}]
        assert doorbell.passed_over == 1
    finally:
        listening.cancel()
        await asyncio.wait({listening})
        await connections.aclose()
        await postgres.drop(dsn)
