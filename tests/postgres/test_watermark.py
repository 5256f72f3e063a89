"""The watermark is true: also on an idle feed, also beside transactions that stay open."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta

import psycopg
import pytest

from changefeed_gateway.core.model import After, Now, Page
from changefeed_gateway.providers.postgres.provider import PostgresOptions
from tests.postgres.conftest import Connection
from tests.postgres.reading import page_read
from tests.postgres.shop import Shop, keys, open_shop

QUICK = PostgresOptions(idle_cadence=timedelta(milliseconds=20))
"""The sequences are looked at so often."""


@pytest.fixture
async def shop(log_database: str) -> AsyncIterator[Shop]:
    async with open_shop(log_database, options=QUICK) as shop:
        yield shop


async def connect(dsn: str) -> Connection:
    return await psycopg.AsyncConnection.connect(dsn, autocommit=True)


async def now(connection: Connection) -> datetime:
    row = await (await connection.execute("SELECT clock_timestamp()")).fetchone()
    assert row is not None
    return row[0]  # type: ignore[no-any-return]


@pytest.mark.req("CF-04")
async def test_it_moves_while_nothing_happens_and_while_a_transaction_is_open(shop: Shop) -> None:
    async with await connect(shop.dsn) as long:
        await long.execute("BEGIN; INSERT INTO orders VALUES (1, 0)")
        page = await shop.page(Now())
        for _ in range(3):
            before = await now(shop.connection)
            async with asyncio.timeout(30):
                while page.watermark is None or page.watermark <= before:
                    page = await shop.page(After(page.cursor), wait=0.1)
            assert keys(page) == []
        assert page.watermark is not None
        assert page.watermark <= await now(shop.connection)
        await long.execute("COMMIT")
        assert keys(await shop.page(After(page.cursor), wait=10)) == [1]


async def test_a_wait_ends_when_a_later_watermark_can_be_shown(shop: Shop) -> None:
    page = await shop.page(Now())
    read = replace(page_read(After(page.cursor), wait=600), watermark_within=timedelta(seconds=0.2))
    before = await now(shop.connection)
    async with asyncio.timeout(30):
        while page.watermark is None or page.watermark <= before:
            page = await shop.read(read)


@pytest.mark.req("CF-04")
@pytest.mark.parametrize("seed", range(4))
async def test_nothing_committed_before_it_is_missing(shop: Shop, seed: int) -> None:
    dice = random.Random(seed)
    committed: dict[int, datetime] = {}
    delivered: set[int] = set()
    numbers = iter(range(1, 10_000))
    page: Page = await shop.page(Now())
    writers = [await connect(shop.dsn) for _ in range(3)]
    open_: dict[int, list[int]] = {}

    async def end(writer: int, how: str) -> None:
        written = open_.pop(writer)
        await writers[writer].execute(how.encode())
        if how == "COMMIT":
            after = await now(shop.connection)
            committed.update(dict.fromkeys(written, after))

    try:
        for _ in range(120):
            writer = dice.randrange(3)
            match dice.choice(("write", "write", "end", "read", "wait")):
                case "write":
                    if writer not in open_:
                        await writers[writer].execute("BEGIN")
                    number = next(numbers)
                    open_.setdefault(writer, []).append(number)
                    await writers[writer].execute("INSERT INTO orders VALUES (%s, 0)", (number,))
                case "end" if writer in open_:
                    await end(writer, dice.choice(("COMMIT", "COMMIT", "ROLLBACK")))
                case what:
                    page = await shop.page(
                        After(page.cursor), wait=0.05 if what == "wait" else 0, size=dice.choice((2, 50))
                    )
                    delivered |= set(keys(page))
                    if page.watermark is not None:
                        due = {number for number, time in committed.items() if time < page.watermark}
                        assert due <= delivered
                        assert page.watermark <= await now(shop.connection)
    finally:
        for connection in writers:
            await connection.close()
    assert committed
    assert delivered
