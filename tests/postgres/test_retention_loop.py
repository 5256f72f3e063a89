"""Gateways run retention by themselves: one at a time for a feed, whatever happens to their connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest
from structlog.testing import capture_logs

from changefeed_gateway.core.model import Beginning
from changefeed_gateway.providers.postgres.retention import run as retention
from tests.postgres.history import RETAINED, grow_old
from tests.postgres.reading import open_provider
from tests.postgres.shop import QUIET, Shop, keys, open_shop

EAGER = replace(QUIET, retention_interval=timedelta(milliseconds=50))
_LEADERS = (
    "SELECT pid FROM pg_locks JOIN pg_database d ON d.oid = database"
    " WHERE relation = 'changefeed_log.lock_retention_1'::regclass AND mode = 'ShareUpdateExclusiveLock' AND granted"
    " AND d.datname = current_database()"
)
_LEAVING = "SELECT FROM pg_inherits WHERE inhdetachpending"


@pytest.fixture
async def shop(log_database: str) -> AsyncIterator[Shop]:
    async with open_shop(log_database) as shop:
        await grow_old(shop)
        yield shop


async def start(gateways: AsyncExitStack, shop: Shop, *, number: int) -> None:
    for _ in range(number):
        await (await gateways.enter_async_context(open_provider(shop.dsn, EAGER))).start()


async def rows(shop: Shop, query: str) -> list[int]:
    return [row[0] if row else 0 for row in await (await shop.connection.execute(query.encode())).fetchall()]


async def until_something(shop: Shop, query: str) -> list[int]:
    async with asyncio.timeout(60):
        # The server has no event for this.
        while not (found := await rows(shop, query)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found


async def until_done(shop: Shop) -> None:
    async with asyncio.timeout(60):
        while True:
            [looked] = await retention.examine(shop.dsn)
            if not looked.steps and looked.last_run is not None and not looked.last_problem:
                return
            await asyncio.sleep(0.01)


@pytest.mark.req("P6")
@pytest.mark.req("DB-10")
async def test_of_two_gateways_one_leads_and_every_step_is_done_once(shop: Shop) -> None:
    with capture_logs() as lines:
        async with AsyncExitStack() as gateways, await psycopg.AsyncConnection.connect(shop.dsn) as reader:
            # Holds the first detach up, so that both gateways come to be at work at once.
            await reader.execute("SELECT count(*) FROM changefeed_log.tick_1, changefeed_log.log_1")
            await start(gateways, shop, number=2)
            [leader] = await until_something(shop, _LEADERS)
            await until_something(shop, _LEAVING)
            tried = "SELECT pid FROM pg_stat_activity WHERE application_name = 'changefeed-retention' AND pid <> {}"
            follower = max(await until_something(shop, tried.format(leader)))
            assert follower != leader
            assert await rows(shop, _LEADERS) == [leader]
            await reader.rollback()
            await until_done(shop)
    steps = [(line["action"], *line["days"]) for line in lines if line["event"] == "retention"]
    assert steps
    assert len(steps) == len(set(steps))
    assert not [line for line in lines if line["event"] == "retention stopped"]
    assert keys(await shop.page(Beginning())) == RETAINED


@pytest.mark.req("P6")
async def test_a_gateway_whose_connections_are_cut_goes_on(shop: Shop) -> None:
    async with AsyncExitStack() as gateways, await psycopg.AsyncConnection.connect(shop.dsn) as reader:
        await reader.execute("SELECT count(*) FROM changefeed_log.tick_1, changefeed_log.log_1")
        await start(gateways, shop, number=1)
        [leader] = await until_something(shop, _LEADERS)
        await until_something(shop, _LEAVING)
        await shop.connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE application_name = 'changefeed-retention' AND datname = current_database()"
        )
        assert await until_something(shop, _LEADERS) != [leader]
        await reader.rollback()
        await until_done(shop)
    assert keys(await shop.page(Beginning())) == RETAINED


async def test_a_gateway_takes_over_from_one_that_ends(shop: Shop) -> None:
    async with AsyncExitStack() as second, await psycopg.AsyncConnection.connect(shop.dsn) as reader:
        await reader.execute("SELECT count(*) FROM changefeed_log.tick_1, changefeed_log.log_1")
        async with AsyncExitStack() as first:
            await start(first, shop, number=1)
            [leader] = await until_something(shop, _LEADERS)
            await until_something(shop, _LEAVING)
            await start(second, shop, number=1)
        [successor] = await until_something(shop, f"{_LEADERS} AND pid <> {leader}")
        assert successor != leader
        await reader.rollback()
        await until_done(shop)
    assert keys(await shop.page(Beginning())) == RETAINED


async def test_without_an_interval_a_gateway_leaves_it_to_others(shop: Shop) -> None:
    before = asyncio.all_tasks()
    async with open_provider(shop.dsn, QUIET) as provider:
        await provider.start()
        tasks = {task.get_name() for task in asyncio.all_tasks() - before}
        assert "check of capture" in tasks
        assert "retention" not in tasks
    assert (await retention.examine(shop.dsn))[0].last_run is None
