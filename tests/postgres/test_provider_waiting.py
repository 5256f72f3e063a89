"""Reads that wait, and what wakes them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from changefeed_gateway.core.errors import TransientFailure
from changefeed_gateway.core.model import After, Beginning, Feed, LogicalPartition, Now, PageRead
from changefeed_gateway.providers.postgres.cursor import Position, decode_position
from changefeed_gateway.providers.postgres.log.read_ahead import Place
from changefeed_gateway.providers.postgres.log.reading import Stretch
from changefeed_gateway.providers.postgres.provider import PostgresOptions, PostgresProvider
from changefeed_gateway.providers.postgres.ticks.ticker import Cadence
from tests.load.database_relay import DatabaseRelay
from tests.postgres.reading import address, ids, open_provider, page_read, read_all
from tests.postgres.shop import QUIET, Shop, keys, open_shop
from tests.postgres.storm import connect


@pytest.fixture
async def shop(log_database: str) -> AsyncIterator[Shop]:
    async with open_shop(log_database) as shop:
        yield shop


def now() -> float:
    return asyncio.get_running_loop().time()


async def listening(provider: PostgresProvider) -> None:
    async with asyncio.timeout(30):
        await provider.doorbell.listening.wait()


@pytest.mark.req("E1")
async def test_an_idle_feed_answers_an_empty_page_in_time(shop: Shop) -> None:
    begin = now()
    page = await shop.page(Beginning(), wait=0.3)
    assert 0.3 <= now() - begin < 10, "not the usual 30 s"
    assert (list(page.changes), page.more_available) == ([], False)
    await shop.insert(1)
    assert keys(await shop.page(After(page.cursor), wait=5)) == [1]


@pytest.mark.req("DB-9")
async def test_a_change_wakes_the_read_long_before_the_safety_poll(log_database: str) -> None:
    options = PostgresOptions(cadence=Cadence(quiet_poll=timedelta(seconds=60)), idle_cadence=timedelta(hours=1))
    async with open_shop(log_database, options=options) as shop:
        await listening(shop.provider)
        page = await shop.page(Now())
        for number in range(1, 20):
            waiting = asyncio.create_task(shop.page(After(page.cursor), wait=30))
            await asyncio.sleep(0.01)
            await shop.insert(number)
            async with asyncio.timeout(30):
                page = await waiting
            assert keys(page) == [number]


async def test_a_transaction_that_shares_anothers_ring_is_found_by_polls(log_database: str) -> None:
    """The second one does not ring, because the first still holds the bell."""
    options = PostgresOptions(cadence=Cadence(quiet_poll=timedelta(seconds=60)), idle_cadence=timedelta(hours=1))
    async with open_shop(log_database, options=options) as shop, await connect(log_database) as ringer:
        await listening(shop.provider)
        page = await shop.page(Now())
        async with await connect(log_database) as sharer:
            await ringer.execute("INSERT INTO orders VALUES (1, 0)")
            await sharer.execute("INSERT INTO orders VALUES (2, 0)")
            waiting = asyncio.create_task(shop.page(After(page.cursor), wait=30))
            await ringer.commit()
            page = await waiting
            assert keys(page) == [1]
            waiting = asyncio.create_task(shop.page(After(page.cursor), wait=30))
            await asyncio.sleep(0.3)
            await sharer.commit()
            async with asyncio.timeout(30):
                assert keys(await waiting) == [2]


async def test_a_feed_without_a_doorbell_is_polled(log_database: str) -> None:
    options = PostgresOptions(cadence=Cadence(quiet_poll=timedelta(seconds=60)), idle_cadence=timedelta(hours=1))
    async with open_shop(log_database, options=options) as shop:
        await shop.connection.execute("SELECT changefeed.unwatch('orders')")
        await shop.connection.execute("SELECT changefeed.watch('orders', doorbell => 'poll')")
        feed = await shop.provider.open_feed(shop.feed.address)
        page = await shop.provider.read_page(feed, page_read(Now()))
        waiting = asyncio.create_task(shop.provider.read_page(feed, page_read(After(page.cursor), wait=30)))
        await asyncio.sleep(0.2)
        await shop.insert(1)
        assert keys(await waiting) == [1]


async def test_a_reader_of_one_partition_key_sleeps_through_the_others(shop: Shop) -> None:
    page = await shop.page(Now())
    read = page_read(After(page.cursor), scope=LogicalPartition("1"), wait=30)
    waiting = asyncio.create_task(shop.read(read))
    for number in range(1, 10):
        await shop.insert(number)
        await asyncio.sleep(0.005)
    assert not waiting.done()
    await shop.insert(10, space=1)
    assert keys(await waiting) == [10]


async def test_an_empty_page_moves_past_the_changes_of_others(shop: Shop) -> None:
    first = await shop.page(Now())
    await shop.insert(1)
    page = await shop.page(After(first.cursor), scope=LogicalPartition("1"))
    assert list(page.changes) == []
    assert decode_position(page.cursor)[0] > decode_position(first.cursor)[0]


async def test_readers_share_their_ticks(shop: Shop) -> None:
    page = await shop.page(Now())
    for number in range(1, 6):
        waiting = [asyncio.create_task(shop.page(After(page.cursor), wait=30)) for _ in range(50)]
        await asyncio.sleep(0.02)
        before = decode_position(page.cursor)[0].tick
        await shop.insert(number)
        pages = await asyncio.gather(*waiting)
        assert {tuple(keys(each)) for each in pages} == {(number,)}
        page = pages[0]
        assert decode_position(page.cursor)[0].tick == before + 1


async def test_a_cancelled_read_has_no_effect(shop: Shop) -> None:
    page = await shop.page(Now())
    for number in range(1, 30):
        await shop.insert(number)
        reading = asyncio.create_task(shop.page(Beginning(), wait=1))
        await asyncio.sleep(0.0002 * number)
        reading.cancel()
        await asyncio.wait({reading})
    changes, _ = await read_all(shop.provider, shop.feed, page_read(After(page.cursor)))
    assert keys(changes) == list(range(1, 30))


@pytest.mark.req("P2", "P4")
async def test_replicas_give_one_order_and_continue_each_others_positions(shop: Shop) -> None:
    async def follow(provider: PostgresProvider, feed: Feed, read: PageRead, until: int) -> list[str]:
        seen: list[str] = []
        while len(seen) < until:
            page = await provider.read_page(feed, read)
            seen += ids(page.changes)
            read = page_read(After(page.cursor), wait=5)
        return seen

    start = page_read(After((await shop.page(Now())).cursor), wait=5)
    async with open_provider(shop.dsn, QUIET) as other:
        following = [asyncio.create_task(follow(one, shop.feed, start, 200)) for one in (shop.provider, other)]
        for number in range(200):
            await shop.insert(number)
        one, two = await asyncio.gather(*following)
        assert one == two
        page = await other.read_page(shop.feed, page_read(start.start, size=77))
        rest, _ = await read_all(shop.provider, shop.feed, page_read(After(page.cursor)))
        assert [*ids(page.changes), *ids(rest)] == one


async def test_feeds_that_nobody_reads_get_their_ticks(log_database: str) -> None:
    options = PostgresOptions(idle_cadence=timedelta(milliseconds=20))
    async with open_shop(log_database, options=options) as shop:
        await shop.insert(1)
        async with asyncio.timeout(30):
            while True:
                cursor = await shop.connection.execute("SELECT max(id) FROM changefeed_log.tick_1")
                if await cursor.fetchone() == (2,):
                    break
                await asyncio.sleep(0.01)


@pytest.mark.req("DB-9", "DB-11")
async def test_waiting_for_many_quiet_feeds_asks_as_often_as_for_one(log_database: str) -> None:
    relay = DatabaseRelay(log_database)
    try:
        async with open_shop(log_database) as shop, open_provider(await relay.start(), QUIET) as provider:
            feeds = [shop.feed]
            for number in range(30):
                await shop.connection.execute(f"CREATE TABLE more_{number} (id int PRIMARY KEY)".encode())
                await shop.connection.execute("SELECT changefeed.watch(%s)", (f"more_{number}",))
                feeds.append(await provider.open_feed(address(f"public.more_{number}")))
            await listening(provider)
            starts = [After((await provider.read_page(feed, page_read(Now()))).cursor) for feed in feeds]
            reads = [
                asyncio.create_task(provider.read_page(feed, page_read(start, wait=5)))
                for feed, start in zip(feeds, starts, strict=True)
            ]
            await asyncio.sleep(1)
            asked = relay.asked
            pages = await asyncio.gather(*reads)
            assert not [page for page in pages if page.changes]
            assert relay.asked - asked <= 30
    finally:
        await relay.stop()


async def test_a_feed_that_cannot_tick_keeps_no_other_from_its_ticks(log_database: str) -> None:
    options = PostgresOptions(idle_cadence=timedelta(milliseconds=20))
    async with open_shop(log_database, options=options) as shop:
        await shop.connection.execute("CREATE TABLE other (id int PRIMARY KEY)")
        await shop.connection.execute("SELECT changefeed.watch('other')")
        await shop.connection.execute("DROP FUNCTION changefeed_log.make_tick_1")
        await shop.insert(1)
        await shop.connection.execute("INSERT INTO other VALUES (1)")
        async with asyncio.timeout(30):
            while True:
                cursor = await shop.connection.execute("SELECT max(id) FROM changefeed_log.tick_2")
                if await cursor.fetchone() == (2,):
                    break
                await asyncio.sleep(0.01)


async def test_a_feed_that_is_closed_sends_its_readers_away_though_who_closes_it_is_cancelled(shop: Shop) -> None:
    page = await shop.page(Now())
    waiting = asyncio.create_task(shop.page(After(page.cursor), wait=60))
    log = shop.provider._log_of(shop.feed)
    while not log.ticks.ticker.waiting:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0)
    begun, ending, may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def read() -> Stretch:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            ending.set()
            await may_end.wait()
        raise AssertionError

    place = Place(Position(1), None, None, 1, 0)
    for _ in range(2):
        log._ahead.page_ended(place, place, read)
    async with asyncio.timeout(30):
        await begun.wait()
        closing = asyncio.create_task(log.aclose())
        await ending.wait()
        closing.cancel()
        with pytest.raises(TransientFailure):
            await waiting
    may_end.set()
    await asyncio.wait({closing})
