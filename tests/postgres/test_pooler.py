"""The gateway through a real PgBouncer in transaction mode, and writers that prepare their transactions."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import psycopg
import pytest
from psycopg import errors

from changefeed_gateway.core.model import After, Beginning, Feed
from changefeed_gateway.providers.postgres.errors import OperationError
from changefeed_gateway.providers.postgres.operations.doctor import examine
from changefeed_gateway.providers.postgres.provider import PostgresOptions, PostgresProvider
from changefeed_gateway.providers.postgres.retention import run as retention
from tests.postgres.pgbouncer import running_pgbouncer
from tests.postgres.reading import address, open_provider, page_read, read_all
from tests.postgres.shop import Shop, keys, open_shop
from tests.postgres.storm import connect

POLL = PostgresOptions(doorbell="poll", idle_cadence=timedelta(milliseconds=20))
DEAF = PostgresOptions(idle_cadence=timedelta(milliseconds=20), probe_timeout=timedelta(milliseconds=200))
_NOT_HEARD = "the doorbell is not heard: give a direct connection, or set doorbell to poll"


@pytest.fixture
async def shop(log_database: str) -> AsyncIterator[Shop]:
    async with open_shop(log_database) as shop:
        yield shop


@pytest.fixture
async def pooled(log_database: str) -> AsyncIterator[str]:
    async with running_pgbouncer(log_database) as dsn:
        yield dsn


async def follow(provider: PostgresProvider, feed: Feed, until: int) -> list[int]:
    seen: list[int] = []
    read = page_read(Beginning(), wait=10, size=7)
    while len(seen) < until:
        page = await provider.read_page(feed, read)
        seen += keys(page)
        read = page_read(After(page.cursor), wait=10, size=7)
    return seen


@pytest.mark.parametrize("options", [POLL, DEAF], ids=["poll", "notify"])
async def test_nothing_is_lost_through_a_transaction_pooler(shop: Shop, pooled: str, options: PostgresOptions) -> None:
    """Several readers share four server connections with a writer who uses the pooler too."""
    async with open_provider(pooled, options) as provider, await connect(pooled) as writer:
        writer.prepare_threshold = None
        feed = await provider.open_feed(address("public.orders"))
        readers = [asyncio.create_task(follow(provider, feed, 100)) for _ in range(8)]
        for number in range(100):
            await writer.execute("INSERT INTO orders VALUES (%s, 0)", (number,))
            await writer.commit()
        async with asyncio.timeout(60):
            assert await asyncio.gather(*readers) == [list(range(100))] * 8
        changes, _ = await read_all(provider, feed)
        assert keys(changes) == list(range(100))


@pytest.mark.parametrize("options", [POLL, DEAF], ids=["poll", "notify"])
async def test_the_gateway_leaves_nothing_behind_in_a_poolers_sessions(
    shop: Shop, pooled: str, options: PostgresOptions
) -> None:
    await shop.insert(1)
    async with open_provider(pooled, options) as provider:
        feed = await provider.open_feed(address("public.orders"))
        await asyncio.gather(*(follow(provider, feed, 1) for _ in range(8)))
    async with await psycopg.AsyncConnection.connect(pooled, autocommit=True, prepare_threshold=None) as other:
        for _ in range(8):
            cursor = await other.execute(
                "SELECT current_setting('enable_seqscan'), current_setting('statement_timeout'),"
                " current_user::text, (SELECT count(*) FROM pg_prepared_statements)"
            )
            assert await cursor.fetchone() == ("on", "0", "postgres", 0)


async def test_a_doorbell_behind_a_pooler_is_found_deaf(
    shop: Shop, pooled: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_provider(pooled, DEAF) as provider:
        feed = await provider.open_feed(address("public.orders"))
        said = ""
        async with asyncio.timeout(30):
            while _NOT_HEARD not in said:
                await asyncio.sleep(0.05)
                said += capsys.readouterr().out
        page = await provider.read_page(feed, page_read(Beginning()))
        waiting = asyncio.create_task(provider.read_page(feed, page_read(After(page.cursor), wait=30)))
        await shop.insert(1)
        assert keys(await waiting) == [1]
        assert not provider.doorbell.listening.is_set()
    assert (said + capsys.readouterr().out).count(_NOT_HEARD) == 1, "said once, however often it is tried"


async def test_doctor_says_that_bells_do_not_pass_a_pooler(shop: Shop, pooled: str) -> None:
    findings = {finding.subject: finding async for finding in examine(pooled)}
    assert not findings["doorbell"].healthy
    assert "doorbell to poll" in findings["doorbell"].remedy


async def test_retention_through_a_pooler_is_refused(shop: Shop, pooled: str) -> None:
    with pytest.raises(OperationError, match="direct connection"):
        await retention.run(pooled)


async def test_a_captured_transaction_can_be_prepared_without_a_doorbell(shop: Shop) -> None:
    await shop.connection.execute("SELECT changefeed.unwatch('orders')")
    await shop.connection.execute("SELECT changefeed.watch('orders', doorbell => 'poll')")
    feed = await shop.provider.open_feed(shop.feed.address)
    async with await connect(shop.dsn) as writer:
        await writer.execute("INSERT INTO orders VALUES (1, 0)")
        await writer.execute("PREPARE TRANSACTION 'captured'")
        await shop.insert(2)
        changes, _ = await read_all(shop.provider, feed)
        assert keys(changes) == [2]
        await shop.connection.execute("COMMIT PREPARED 'captured'")
    changes, _ = await read_all(shop.provider, feed)
    assert keys(changes) == [2, 1]


async def test_a_captured_transaction_that_rang_cannot_be_prepared(shop: Shop) -> None:
    """PostgreSQL's own rule: the writer's statement fails and nothing is written."""
    async with await connect(shop.dsn) as writer:
        # As a gateway that goes to sleep.
        await writer.execute("SELECT nextval(format('changefeed_log.bell_%s', feed_id)) FROM changefeed.feeds")
        await writer.commit()
        await writer.execute("INSERT INTO orders VALUES (1, 0)")
        with pytest.raises(errors.FeatureNotSupported, match="LISTEN, UNLISTEN, or NOTIFY"):
            await writer.execute("PREPARE TRANSACTION 'rang'")
    changes, _ = await read_all(shop.provider, shop.feed)
    assert keys(changes) == []
