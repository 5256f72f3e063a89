"""What breaks between the gateway and PostgreSQL, and what readers see of it: at most a passing failure."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import psycopg
import pytest

from changefeed_gateway.core.errors import TransientFailure
from changefeed_gateway.core.model import After, Beginning, Change, Feed, Now, Start
from changefeed_gateway.providers.postgres.provider import PostgresOptions, PostgresProvider
from changefeed_gateway.providers.postgres.ticks.ticker import Cadence
from tests.databases import LOG, PostgresForTests, running_postgres
from tests.postgres.reading import address, check, open_provider, page_read, read_all
from tests.postgres.relay import open_relay
from tests.postgres.servers import standby_of
from tests.postgres.shop import QUIET, keys, open_shop
from tests.postgres.storm import COLLECTION, connect, prepare, storm, truth
from tests.postgres.test_provider_oracle import history, other_database

__all__ = ["other_database"]

DEAF = Cadence(quiet_poll=timedelta(seconds=60))
"""Without the doorbell nothing comes in time."""


class Tail:
    """Follows a feed through passing failures, as a stream does."""

    def __init__(self, provider: PostgresProvider, feed: Feed, start: Start) -> None:
        self._provider, self._feed, self._start = provider, feed, start
        self.changes: list[Change] = []
        self.failures = 0
        self._grown = asyncio.Condition()
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            read = page_read(self._start, size=20, wait=1)
            try:
                page = await self._provider.read_page(self._feed, read)
            except TransientFailure:
                self.failures += 1
                await asyncio.sleep(0.02)
                continue
            check(page, read)
            self._start = After(page.cursor)
            async with self._grown:
                self.changes += page.changes
                self._grown.notify_all()

    async def until(self, condition: Callable[[list[Change]], bool]) -> None:
        async with self._grown, asyncio.timeout(30):
            await self._grown.wait_for(lambda: self._task.done() or condition(self.changes))
        if self._task.done():
            await self._task

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})


@asynccontextmanager
async def following(provider: PostgresProvider, feed: Feed, start: Start) -> AsyncIterator[Tail]:
    tail = Tail(provider, feed, start)
    try:
        yield tail
    finally:
        await tail.aclose()


@pytest.fixture(scope="module")
async def own_server() -> AsyncIterator[PostgresForTests]:
    """A server that may be stopped."""
    async with running_postgres() as server:
        yield server


async def restart(postgres: PostgresForTests, how: signal.Signals) -> None:
    """Stop as an accident would, and start again."""
    process = postgres.server._process
    assert process is not None
    process.send_signal(how)
    await asyncio.to_thread(process.wait, 20)
    await asyncio.to_thread(postgres.server.start)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_a_restart_of_the_server_loses_nothing(own_server: PostgresForTests, how: signal.Signals) -> None:
    dsn = await own_server.fresh(LOG)
    async with open_shop(dsn) as shop, following(shop.provider, shop.feed, Beginning()) as tail:
        await shop.insert(*range(1, 30))
        await tail.until(lambda changes: len(changes) == 29)
        await restart(own_server, how)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            for number in range(30, 50):
                await connection.execute("INSERT INTO orders VALUES (%s, 0)", (number,))
            await tail.until(lambda changes: len(changes) >= 49)
            await shop.provider.doorbell.listening.wait()
        assert keys(tail.changes) == list(range(1, 50))


async def test_a_short_outage_is_not_seen_by_a_read_that_waits(own_server: PostgresForTests) -> None:
    dsn = await own_server.fresh(LOG)
    async with open_shop(dsn) as shop:
        page = await shop.page(Now())
        waiting = asyncio.create_task(shop.page(After(page.cursor), wait=30))
        await asyncio.sleep(0.05)
        await restart(own_server, signal.SIGINT)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute("INSERT INTO orders VALUES (1, 0)")
        assert keys(await waiting) == [1]


async def test_connections_that_are_ended_in_the_midst_of_reads_lose_nothing(
    log_database: str, other_database: str
) -> None:
    await prepare(log_database)
    async with open_provider(log_database) as provider, open_provider(log_database) as calm:
        feed = await provider.open_feed(address(COLLECTION))
        async with following(provider, feed, Beginning()) as tail:
            async with storm(log_database, other_database, writers=4), await connect(log_database) as killer:
                await killer.set_autocommit(True)
                for _ in range(60):
                    await killer.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE application_name LIKE 'changefeed-gateway%' AND datname = current_database()"
                    )
                    await asyncio.sleep(0.05)
            whole, _ = await read_all(calm, feed)
            await tail.until(lambda changes: len(changes) >= len(whole))
            assert [c.event_id for c in tail.changes] == [c.event_id for c in whole]
            assert history(whole) == await truth(log_database)


async def test_a_network_that_cuts_connections_in_the_midst_of_pages(log_database: str) -> None:
    async with open_shop(log_database) as shop, open_relay(log_database) as relay:
        for low in range(1, 20_001, 200):
            await shop.insert_many(low, low + 199)
            await shop.tick()
        async with open_provider(relay.dsn, QUIET) as provider, following(provider, shop.feed, Beginning()) as tail:
            for count in range(500, 20_000, 500):
                await tail.until(lambda changes, count=count: len(changes) >= count)  # type: ignore[misc]
                for link in relay.links():
                    link.cut()
            await tail.until(lambda changes: len(changes) >= 20_000)
        assert keys(tail.changes) == list(range(1, 20_001))


async def test_a_doorbell_whose_connection_was_ended_listens_again(log_database: str) -> None:
    options = PostgresOptions(cadence=DEAF, idle_cadence=timedelta(hours=1))
    async with open_shop(log_database, options=options) as shop:
        await shop.provider.doorbell.listening.wait()
        async with following(shop.provider, shop.feed, Beginning()) as tail:
            for number in range(1, 5):
                await shop.connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name LIKE '%doorbell' AND datname = current_database()"
                )
                await shop.insert(number)
                await tail.until(lambda changes, number=number: len(changes) >= number)  # type: ignore[misc]


async def test_a_doorbell_that_went_deaf_is_noticed_and_replaced(log_database: str) -> None:
    """The connection looks well, and nothing arrives on it any more."""
    options = PostgresOptions(
        cadence=DEAF,
        idle_cadence=timedelta(hours=1),
        probe_interval=timedelta(milliseconds=200),
        probe_timeout=timedelta(milliseconds=300),
    )
    async with AsyncExitStack() as stack:
        shop = await stack.enter_async_context(open_shop(log_database))
        relay = await stack.enter_async_context(open_relay(log_database))
        provider = await stack.enter_async_context(open_provider(relay.dsn, options))
        await provider.open_feed(shop.feed.address)
        await provider.doorbell.listening.wait()
        tail = await stack.enter_async_context(following(provider, shop.feed, Beginning()))
        await shop.insert(1)
        await tail.until(lambda changes: len(changes) == 1)
        (deaf,) = relay.links("doorbell")
        deaf.swallow = True
        await shop.insert(2)
        await tail.until(lambda changes: len(changes) == 2)
        await deaf.gone.wait()
        await shop.insert(3)
        await tail.until(lambda changes: len(changes) == 3)


async def test_a_deaf_doorbell_costs_no_more_than_the_safety_poll(log_database: str) -> None:
    options = PostgresOptions(idle_cadence=timedelta(hours=1), probe_interval=timedelta(hours=1))
    async with AsyncExitStack() as stack:
        shop = await stack.enter_async_context(open_shop(log_database))
        relay = await stack.enter_async_context(open_relay(log_database))
        provider = await stack.enter_async_context(open_provider(relay.dsn, options))
        await provider.open_feed(shop.feed.address)
        await provider.doorbell.listening.wait()
        tail = await stack.enter_async_context(following(provider, shop.feed, Beginning()))
        (deaf,) = relay.links("doorbell")
        deaf.swallow = True
        await asyncio.sleep(0.1)
        await shop.insert(1)
        await tail.until(lambda changes: len(changes) == 1)


async def test_a_server_that_goes_away_for_good_surfaces_in_time(own_server: PostgresForTests) -> None:
    dsn = await own_server.fresh(LOG)
    options = PostgresOptions(cadence=Cadence(outage_patience=timedelta(seconds=1)), idle_cadence=timedelta(hours=1))
    async with open_shop(dsn, options=options) as shop:
        page = await shop.page(Now())
        await asyncio.to_thread(own_server.server.stop)
        for wait in (0, 60):
            begin = asyncio.get_running_loop().time()
            with pytest.raises(TransientFailure) as caught:
                await shop.page(After(page.cursor), wait=wait)
            assert caught.value.retry_after
            assert asyncio.get_running_loop().time() - begin < 30
        await asyncio.to_thread(own_server.server.start)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute("INSERT INTO orders VALUES (1, 0)")
        assert keys(await shop.page(After(page.cursor))) == [1]


async def test_a_standby_makes_no_tick_and_serves_its_primarys(own_server: PostgresForTests) -> None:
    dsn = await own_server.fresh(LOG)
    async with open_shop(dsn) as shop, standby_of(own_server, dsn) as standby_dsn:
        await shop.insert(1)
        async with await psycopg.AsyncConnection.connect(standby_dsn, autocommit=True) as connection:
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match="standby"):
                await connection.execute("SELECT changefeed.tick(1)")
        async with open_provider(standby_dsn) as provider:
            feed = await provider.open_feed(shop.feed.address)
            assert feed.incarnation == shop.feed.incarnation
            async with following(provider, feed, Beginning()) as tail, await connect(dsn) as long:
                await long.execute("INSERT INTO orders VALUES (100, 0)")
                for number in range(2, 20):
                    await shop.insert(number)
                    await shop.tick()
                await long.commit()
                await shop.tick()
                await tail.until(lambda changes: len(changes) >= 20)
            assert keys(tail.changes) == [*range(1, 20), 100]
            whole, _ = await read_all(shop.provider, shop.feed)
            assert [c.event_id for c in whole] == [c.event_id for c in tail.changes]


async def test_a_provider_that_is_closed_sends_its_readers_away(log_database: str) -> None:
    async with open_shop(log_database) as shop:
        page = await shop.page(Now())
        waiting = asyncio.create_task(shop.page(After(page.cursor), wait=60))
        await asyncio.sleep(0.1)
        await shop.provider.aclose()
        await shop.provider.aclose()
        async with asyncio.timeout(30):
            for read in (waiting, shop.page(Now()), shop.provider.open_feed(shop.feed.address)):
                with pytest.raises(TransientFailure) as caught:
                    await read
                assert caught.value.reason == "DRAINING"
