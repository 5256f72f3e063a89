"""The bell rings for sleepers only, and nobody who sleeps is missed. The protocol, then gateways that live by it."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from changefeed_gateway.core.model import After, Now
from changefeed_gateway.providers.postgres.provider import PostgresOptions
from changefeed_gateway.providers.postgres.ticks.ticker import Cadence
from tests.postgres.conftest import Connection
from tests.postgres.reading import address, open_provider, page_read
from tests.postgres.shop import QUIET, Shop, keys, open_shop
from tests.postgres.storm import connect
from tests.postgres.test_provider_waiting import listening


@pytest.fixture
async def shop(log_database: str) -> AsyncIterator[Shop]:
    async with open_shop(log_database) as shop:
        yield shop


@pytest.fixture
async def listener(log_database: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection:
        await connection.execute("LISTEN changefeed")
        yield connection


async def heard(listener: Connection) -> list[int]:
    """The values of the rings since the last call."""
    await listener.execute("SELECT pg_notify('changefeed', 'that was all')")
    found: list[int] = []
    async for notification in listener.notifies(timeout=30):
        if notification.payload == "that was all":
            break
        ring = json.loads(notification.payload)
        if "probe" not in ring:  # what gateways send themselves
            found.append(ring["bell"])
    return found


async def ask(shop: Shop, *, arm: bool = False, answered: int | None = None) -> bool:
    """A question of a gateway; answers whether only a new number can bring anything."""
    query = "SELECT quiet FROM changefeed_log.make_tick_1(false, %s, %s::bigint)"
    row = await (await shop.connection.execute(query, (arm, answered))).fetchone()
    assert row is not None
    return bool(row[0])


async def ask_knowing(shop: Shop, known: int, answered: int | None = None) -> tuple[bool, bool]:
    """A question of a gateway that knows a number, and would sleep; answers whether it is quiet, and armed."""
    query = (
        "SELECT quiet, armed FROM changefeed_log.live_1(true, %s::bigint, 0, '3', '{}', %s::bigint, 0, null, 0, 1)"
        " WHERE id IS NOT NULL ORDER BY id DESC LIMIT 1"
    )
    row = await (await shop.connection.execute(query, (answered, known))).fetchone()
    assert row is not None
    return bool(row[0]), bool(row[1])


async def sleep(shop: Shop) -> None:
    """As a gateway does: the bell is armed once a question finds nothing, by the question that found nothing."""
    await ask(shop)
    await ask(shop, arm=True)


@pytest.mark.req("P8")
async def test_a_question_that_finds_a_change_arms_nothing(shop: Shop, listener: Connection) -> None:
    await shop.insert(1)
    await ask(shop, arm=True)
    await shop.insert(2)
    assert await heard(listener) == []


@pytest.mark.req("P8")
async def test_nobody_rings_while_nobody_sleeps(shop: Shop, listener: Connection) -> None:
    await shop.insert(1, 2)
    assert await heard(listener) == []
    await sleep(shop)
    await shop.insert(3, 4)
    assert await heard(listener) == [1000, 1000]
    await ask(shop, answered=1000)
    await shop.insert(5, 6)
    assert await heard(listener) == []


@pytest.mark.req("P1")
async def test_a_ringer_that_aborts_or_commits_late_harms_nobody(
    shop: Shop, listener: Connection, log_database: str
) -> None:
    await ask(shop, arm=True)
    async with await connect(log_database) as aborted, await connect(log_database) as late:
        await aborted.execute("INSERT INTO orders VALUES (1, 0)")
        await late.execute("INSERT INTO orders VALUES (2, 0)")
        await aborted.rollback()
        await shop.insert(3)
        assert await heard(listener) == [1000]
        await late.commit()
        assert await heard(listener) == [1000]


@pytest.mark.req("P1")
async def test_who_arms_the_bell_after_a_number_was_drawn_sees_the_number(
    shop: Shop, listener: Connection, log_database: str
) -> None:
    """The writer looked at the bell before, and does not ring: so the gateway must not sleep."""
    assert await ask(shop)
    async with await connect(log_database) as writer:
        await writer.execute("INSERT INTO orders VALUES (1, 0)")
        assert not await ask(shop, arm=True)
        await writer.commit()
    assert await heard(listener) == []


@pytest.mark.req("P1", "P8")
async def test_a_question_that_brings_a_lone_change_leaves_the_bell_armed(shop: Shop, listener: Connection) -> None:
    await sleep(shop)
    await shop.insert(1)
    (ring,) = await heard(listener)
    assert await ask_knowing(shop, 0, ring) == (True, True)
    await shop.insert(2)
    assert await heard(listener) == [2 * ring]
    await shop.insert(3)
    await heard(listener)
    assert await ask_knowing(shop, 1, 2 * ring) == (True, False), "more are no lone one"
    await shop.insert(4)
    assert await heard(listener) == []


@pytest.mark.req("P1")
async def test_who_had_drawn_a_number_before_the_bell_was_armed_keeps_the_gateway_awake(
    shop: Shop, listener: Connection, log_database: str
) -> None:
    """He looked at the bell before, and does not ring."""
    await ask(shop)
    async with await connect(log_database) as writer:
        await writer.execute("INSERT INTO orders VALUES (1, 0)")
        quiet, armed = await ask_knowing(shop, 0)
        assert armed
        assert not quiet
        await writer.commit()
    assert await heard(listener) == []
    assert await ask_knowing(shop, 1) == (True, True)


@pytest.mark.req("P1")
async def test_an_answer_that_comes_late_silences_nobody_who_went_to_sleep_since(
    shop: Shop, listener: Connection
) -> None:
    await sleep(shop)
    await shop.insert(1)
    (ring,) = await heard(listener)
    await sleep(shop)  # another gateway, which has heard the ring and sleeps again
    await ask(shop, answered=ring)
    await shop.insert(2)
    assert await heard(listener) == [2 * ring]
    await ask(shop, answered=10**18)  # a login that forges rings
    await sleep(shop)
    await shop.insert(3)
    assert await heard(listener) == [3 * ring]


@pytest.mark.req("P8")
async def test_a_gateway_that_died_asleep_costs_writers_a_thousand_rings(shop: Shop, listener: Connection) -> None:
    await sleep(shop)
    await shop.connection.execute(
        "DO $$ BEGIN FOR n IN 1..1100 LOOP INSERT INTO orders VALUES (n, 0); COMMIT; END LOOP; END $$"
    )
    assert await heard(listener) == [1000] * 1000
    await sleep(shop)
    await shop.insert(2000)
    assert await heard(listener) == [2000]


BY_BELL_ONLY = PostgresOptions(cadence=Cadence(quiet_poll=timedelta(seconds=60)), idle_cadence=timedelta(hours=1))


@pytest.mark.req("P1", "DB-9")
async def test_several_gateways_are_woken_by_each_change(log_database: str) -> None:
    async with (
        open_shop(log_database, options=BY_BELL_ONLY) as shop,
        open_provider(log_database, BY_BELL_ONLY) as other,
        open_provider(log_database, BY_BELL_ONLY) as third,
    ):
        providers = [shop.provider, other, third]
        feeds = [await provider.open_feed(address("public.orders")) for provider in providers]
        for provider in providers:
            await listening(provider)
        cursor = (await shop.page(Now())).cursor
        cursors = [cursor] * 3
        for number in range(1, 30):
            waiting = [
                asyncio.create_task(provider.read_page(feed, page_read(After(cursor), wait=30)))
                for provider, feed, cursor in zip(providers, feeds, cursors, strict=True)
            ]
            if number % 3:
                await asyncio.sleep(0.005 * (number % 4))
            await shop.insert(number)
            async with asyncio.timeout(30):
                pages = await asyncio.gather(*waiting)
            assert [keys(page) for page in pages] == [[number]] * 3
            cursors = [page.cursor for page in pages]


@pytest.mark.req("P8")
async def test_a_lone_change_is_one_ring_and_one_statement(
    log_database: str, listener: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    cadence = Cadence(interval=timedelta(microseconds=1), quiet_poll=timedelta(seconds=60))
    options = PostgresOptions(cadence=cadence, idle_cadence=timedelta(hours=1), check_cadence=timedelta(hours=1))
    async with open_shop(log_database, options=options) as shop:
        await listening(shop.provider)
        cursor = (await shop.page(Now())).cursor
        [feed] = shop.provider._feeds()

        async def read_next(number: int) -> None:
            nonlocal cursor
            reading = asyncio.create_task(shop.page(After(cursor), wait=30))
            while feed._bell.silent or feed.ticker._rest_is_over is None:  # noqa: ASYNC110 - until it sleeps
                await asyncio.sleep(0.001)
            await heard(listener)
            statements.clear()
            await shop.insert(number)
            async with asyncio.timeout(30):
                page = await reading
            assert keys(page) == [number]
            cursor = page.cursor

        for number in range(1, 4):  # until two ticks are known, and the day that they lie in
            await read_next(number)
        execute = psycopg.AsyncCursor.execute

        async def counted(cursor: Any, *args: Any, **options: Any) -> Any:
            if cursor.connection.info.parameter_status("application_name") == "changefeed-gateway":
                statements.append(str(args)[:150])
            return await execute(cursor, *args, **options)

        monkeypatch.setattr(psycopg.AsyncCursor, "execute", counted)
        for number in range(4, 10):
            await read_next(number)
            assert len(statements) == 1, statements
            assert not feed._bell.silent
            assert len(await heard(listener)) == 1


@pytest.mark.req("P8")
async def test_under_load_hardly_anybody_rings(log_database: str, listener: Connection) -> None:
    async with open_shop(log_database, options=QUIET) as shop:
        await listening(shop.provider)
        cursor, seen = (await shop.page(Now())).cursor, 0
        write = asyncio.create_task(
            shop.connection.execute(
                "DO $$ BEGIN FOR n IN 1..3000 LOOP INSERT INTO orders VALUES (n, 0); COMMIT; END LOOP; END $$"
            )
        )
        while seen < 3000:
            page = await shop.page(After(cursor), wait=30)
            cursor, seen = page.cursor, seen + len(page.changes)
        await write
    assert len(await heard(listener)) < 300
