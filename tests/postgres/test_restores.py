"""Each way of pg_restore: the feeds begin anew and say so, or the restore is refused, or doctor names what to do."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg import sql

from changefeed_gateway.core.errors import HistoryGap
from changefeed_gateway.core.finding import Finding
from changefeed_gateway.core.model import After, Beginning, Change, Feed, PartitionState, PhysicalPartition
from changefeed_gateway.providers.postgres.operations.doctor import examine
from changefeed_gateway.providers.postgres.provider import PostgresProvider
from changefeed_gateway.providers.postgres.retention import run as retention
from tests.databases import LOG, PostgresForTests
from tests.postgres.conftest import Connection
from tests.postgres.dumps import dumped, restore, run
from tests.postgres.history import DAY, grow_old
from tests.postgres.reading import address, ids, open_provider, page_read, read_all
from tests.postgres.shop import QUIET, Shop, keys, open_shop

WITHOUT_FEEDS = ("--data-only", "--exclude-schema=changefeed", "--exclude-schema=changefeed_log")


@asynccontextmanager
async def open_big_shop(dsn: str) -> AsyncIterator[Shop]:
    """`orders` in two physical partitions, and `lines`, a feed that is watched always."""
    async with open_shop(dsn) as shop:
        await shop.connection.execute("CREATE TABLE lines (id int PRIMARY KEY)")
        await shop.connection.execute("SELECT changefeed.watch('lines', always => true)")
        await shop.connection.execute("SELECT changefeed.split_partition('public.orders', '0-4095')")
        yield shop


async def write(connection: Connection, *numbers: int) -> None:
    for number in numbers:
        await connection.execute("INSERT INTO orders VALUES (%s, 0)", (number,))
        await connection.execute("INSERT INTO lines VALUES (%s)", (number,))


async def write_as_replica(connection: Connection, number: int) -> None:
    await connection.execute("SET session_replication_role = replica")
    await connection.execute("INSERT INTO lines VALUES (%s)", (number,))
    await connection.execute("RESET session_replication_role")


async def changes(provider: PostgresProvider, collection: str) -> list[Change]:
    return (await read_all(provider, await provider.open_feed(address(collection))))[0]


async def live_a_while(shop: Shop) -> list[Change]:
    """Write 1 to 4; answers the first three of `orders`, which were read. 4 is in no tick yet."""
    await write(shop.connection, 1, 2, 3)
    seen = await changes(shop.provider, "public.orders")
    await changes(shop.provider, "public.lines")
    await write(shop.connection, 4)
    return seen


async def by_partitions(provider: PostgresProvider, feed: Feed) -> list[int]:
    active = [p for p in await provider.list_partitions(feed) if p.state is PartitionState.ACTIVE]
    assert len(active) == 2
    found: list[int] = []
    for partition in active:
        scope = PhysicalPartition(partition_id=partition.partition_id)
        found += keys((await read_all(provider, feed, page_read(Beginning(), scope=scope)))[0])
    return sorted(found)


async def wrong(dsn: str) -> dict[str, Finding]:
    return {finding.subject: finding async for finding in examine(dsn) if not finding.healthy}


async def check_begun_anew(dsn: str, before: Feed, seen: list[Change]) -> None:
    """1 to 3 had been read when the dump was made, 4 was in no tick yet; nothing that is written now is lost."""
    async with (
        open_provider(dsn, QUIET) as provider,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection,
    ):
        await write(connection, 5)
        await write_as_replica(connection, 6)
        feed = await provider.open_feed(address("public.orders"))
        # The token's fingerprint holds it, so every token of before is refused.
        assert feed.incarnation != before.incarnation
        orders = await changes(provider, "public.orders")
        assert keys(orders) == [4, 5]
        assert not {*ids(orders)} & {*ids(seen)}
        assert keys(await changes(provider, "public.lines")) == [4, 5, 6]
        assert await by_partitions(provider, feed) == [4, 5]
        _, cursor = await read_all(provider, feed)
        await write(connection, *range(10, 30))
        assert keys((await read_all(provider, feed, page_read(After(cursor), size=7)))[0]) == list(range(10, 30))
        assert await by_partitions(provider, feed) == [4, 5, *range(10, 30)]
        # Its own look at them, every 10 s, writes capture for the tables as they are numbered now.
        await connection.execute("SELECT changefeed.check_feeds()")
        assert await wrong(dsn) == {}


@pytest.mark.parametrize("options", [(), ("--jobs=4",), ("--single-transaction",)], ids=lambda o: "".join(o) or "plain")
@pytest.mark.req("P1", "P6")
async def test_a_restore_into_a_new_database(postgres: PostgresForTests, options: tuple[str, ...]) -> None:
    async with open_big_shop(await postgres.fresh(LOG)) as shop:
        seen = await live_a_while(shop)
        async with dumped(postgres, shop.dsn) as dump:
            restored = await restore(postgres, dump, "restored", *options)
        try:
            await check_begun_anew(restored, shop.feed, seen)
        finally:
            await postgres.drop(restored)


@pytest.mark.parametrize("options", [(), ("--jobs=4",)], ids=["one", "jobs=4"])
@pytest.mark.req("P1", "P6")
async def test_a_restore_over_the_database_itself(postgres: PostgresForTests, options: tuple[str, ...]) -> None:
    """The log's table is another one afterwards; the cluster and its transaction ids are the same."""
    async with open_big_shop(await postgres.fresh(LOG)) as shop:
        seen = await live_a_while(shop)
        async with dumped(postgres, shop.dsn) as dump:
            await write(shop.connection, 5, 100, 101)
            # A day that retention has made since.
            await shop.connection.execute(
                "DROP TABLE changefeed_log.log_1_future; CREATE TABLE changefeed_log.log_1_20990101"
                " PARTITION OF changefeed_log.log_1 FOR VALUES FROM ('2099-01-01') TO (MAXVALUE)"
            )
            seen += await changes(shop.provider, "public.orders")
            arguments = ("--clean", "--if-exists", "--exit-on-error", *options, "-d", shop.dsn, dump)
            status, said = await run(postgres, "pg_restore", *arguments)
            assert status == 0, said
        await check_begun_anew(shop.dsn, shop.feed, seen)


async def test_a_table_that_is_watched_since_the_dump_refuses_a_restore_over_it(postgres: PostgresForTests) -> None:
    async with open_big_shop(await postgres.fresh(LOG)) as shop:
        async with dumped(postgres, shop.dsn) as dump:
            await shop.connection.execute("CREATE TABLE later (id int PRIMARY KEY)")
            await shop.connection.execute("SELECT changefeed.watch('later')")
            await write(shop.connection, 1)
            over = ("--clean", "--if-exists", "--single-transaction", "-d", shop.dsn, dump)
            status, said = await run(postgres, "pg_restore", *over)
            assert status == 1
            assert "because other objects depend on it" in said
            assert keys(await shop.page(Beginning())) == [1]
            await shop.connection.execute("SELECT changefeed.unwatch('later')")
            assert (await run(postgres, "pg_restore", *over))[0] == 0
        await write(shop.connection, 2)
        async with open_provider(shop.dsn, QUIET) as provider:
            assert keys(await changes(provider, "public.orders")) == [2]


@asynccontextmanager
async def dump_and_target(postgres: PostgresForTests) -> AsyncIterator[tuple[str, Shop]]:
    """A dump with 1 to 4, and another database with the same feeds, at work: 100 is in it and has been read."""
    async with (
        open_big_shop(await postgres.fresh(LOG)) as shop,
        open_big_shop(await postgres.fresh(LOG)) as target,
        dumped_with(postgres, shop, 1, 2, 3, 4) as dump,
    ):
        await write(target.connection, 100)
        await changes(target.provider, "public.orders")
        await changes(target.provider, "public.lines")
        yield dump, target


@asynccontextmanager
async def dumped_with(postgres: PostgresForTests, shop: Shop, *numbers: int) -> AsyncIterator[str]:
    await write(shop.connection, *numbers)
    await changes(shop.provider, "public.orders")
    async with dumped(postgres, shop.dsn) as dump:
        yield dump


@pytest.mark.parametrize("options", [(), ("--jobs=4",)], ids=["one", "jobs=4"])
@pytest.mark.req("P1", "P6")
async def test_data_without_the_feeds_is_captured_like_any_write(
    postgres: PostgresForTests, options: tuple[str, ...]
) -> None:
    async with dump_and_target(postgres) as (dump, target):
        token = After((await target.page(Beginning())).cursor)
        status, said = await run(postgres, "pg_restore", *WITHOUT_FEEDS, *options, "-d", target.dsn, dump)
        assert status == 0, said
        assert keys(await target.page(token)) == [1, 2, 3, 4]
        assert keys(await changes(target.provider, "public.lines")) == [100, 1, 2, 3, 4]
        assert await wrong(target.dsn) == {}


async def test_data_with_the_feeds_is_refused_and_nothing_is_changed(postgres: PostgresForTests) -> None:
    async with dump_and_target(postgres) as (dump, target):
        arguments = ("--data-only", "--single-transaction", "-d", target.dsn, dump)
        status, said = await run(postgres, "pg_restore", *arguments)
        assert status == 1
        assert "duplicate key" in said
        await write(target.connection, 101)
        assert keys(await changes(target.provider, "public.orders")) == [100, 101]
        assert await wrong(target.dsn) == {}


@pytest.mark.req("P1", "P5")
async def test_with_triggers_disabled_nothing_is_captured_and_a_feed_of_always_stops(
    postgres: PostgresForTests,
) -> None:
    """pg_restore enables them again, but as ordinary ones."""
    async with dump_and_target(postgres) as (dump, target):
        await run(postgres, "pg_restore", *WITHOUT_FEEDS, "--disable-triggers", "-d", target.dsn, dump)
        await write(target.connection, 101)
        assert keys(await changes(target.provider, "public.orders")) == [100, 101]
        stopped = (await wrong(target.dsn))["capture of public.lines"]
        assert "enable always trigger" in stopped.remedy
        await target.connection.execute("SELECT changefeed.check_feeds()")
        with pytest.raises(HistoryGap):
            await changes(target.provider, "public.lines")
        for event in ("insert", "update", "delete", "truncate"):
            await target.connection.execute(f"ALTER TABLE lines ENABLE ALWAYS TRIGGER changefeed_2_{event}".encode())
        await target.connection.execute("SELECT changefeed.check_feeds()")
        assert await wrong(target.dsn) == {}


@pytest.mark.req("P6")
async def test_a_feed_that_such_a_restore_spoilt_is_watched_anew(postgres: PostgresForTests) -> None:
    """It went on after its errors, and so put ticks and changes of another history among the feed's own."""
    async with dump_and_target(postgres) as (dump, target):
        status, said = await run(postgres, "pg_restore", "--data-only", "-d", target.dsn, dump)
        assert status == 1
        assert "errors ignored on restore" in said
        await target.connection.execute("SELECT changefeed.unwatch('orders'), changefeed.unwatch('lines')")
        await target.connection.execute("SELECT changefeed.watch('orders'), changefeed.watch('lines', always => true)")
        await write(target.connection, 101)
        feed = await target.provider.open_feed(target.feed.address)
        assert feed.incarnation != target.feed.incarnation
        assert keys(await changes(target.provider, "public.orders")) == [101]
        assert keys(await changes(target.provider, "public.lines")) == [101]
        assert await wrong(target.dsn) == {}


async def tables_of_days(connection: Connection) -> set[str]:
    cursor = await connection.execute("SELECT name FROM changefeed.day_tables(1) WHERE state <> 'attached'")
    return {name for (name,) in await cursor.fetchall()}


async def detach(connection: Connection, part: str, days_ago: int) -> str:
    """As a dump finds a day between the two steps of a retention run."""
    row = await (
        await connection.execute(
            "SELECT %s || to_char((now() AT TIME ZONE 'UTC')::date - %s::int, '_YYYYMMDD')", (f"{part}_1", days_ago)
        )
    ).fetchone()
    assert row is not None
    statement = f"ALTER TABLE changefeed_log.{part}_1 DETACH PARTITION changefeed_log.{row[0]}"
    await connection.execute(statement.encode())
    return str(row[0])


@pytest.mark.req("P2", "P6")
async def test_a_detached_day_of_the_old_epoch_does_not_come_back(postgres: PostgresForTests) -> None:
    async with open_shop(await postgres.fresh(LOG)) as shop:
        await grow_old(shop)
        days = {await detach(shop.connection, part, 3) for part in ("log", "tick")}
        async with dumped(postgres, shop.dsn) as dump:
            restored = await restore(postgres, dump, "restored_days")
        async with await psycopg.AsyncConnection.connect(restored, autocommit=True) as connection:
            assert await tables_of_days(connection) == days
            [done] = await retention.run(restored)
            assert done.problem == ""
            assert await tables_of_days(connection) == set()
            await connection.execute("INSERT INTO orders VALUES (100, 0)")
            async with open_provider(restored, QUIET) as provider:
                assert keys(await changes(provider, "public.orders")) == [100]
        await postgres.drop(restored)


@pytest.mark.req("P6")
async def test_begin_epoch_takes_a_day_whose_detach_is_not_finished(postgres: PostgresForTests) -> None:
    async with open_shop(await postgres.fresh(LOG)) as shop:
        await grow_old(shop)
        async with await psycopg.AsyncConnection.connect(shop.dsn) as reader:
            await reader.execute("SELECT FROM changefeed_log.log_1")
            await shop.connection.execute("SET lock_timeout = '200ms'")
            day = f"log_1_{datetime.now(UTC) - 3 * DAY:%Y%m%d}"
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await shop.connection.execute(
                    f"ALTER TABLE changefeed_log.log_1 DETACH PARTITION changefeed_log.{day} CONCURRENTLY".encode()
                )
        assert await tables_of_days(shop.connection) == {day}
        await shop.connection.execute("SELECT changefeed.begin_epoch(1)")
        assert await tables_of_days(shop.connection) == set()


@pytest.mark.req("P6")
async def test_a_table_without_the_mark_of_the_epoch_is_left_alone(
    postgres: PostgresForTests,
) -> None:
    async with open_shop(await postgres.fresh(LOG)) as shop:
        await grow_old(shop)
        day = await detach(shop.connection, "log", 3)
        await shop.connection.execute(f"COMMENT ON TABLE changefeed_log.{day} IS 'epoch of another cluster'".encode())
        # Somebody's own, with other columns, an impossible date, or quotes.
        for name in ("tick_1_20010101", "log_1_20011399", "log_1_backup", 'log_1_"x'):
            table = sql.Identifier("changefeed_log", name)
            await shop.connection.execute(sql.SQL("CREATE TABLE {} AS SELECT 1 AS one").format(table))
        [done] = await retention.run(shop.dsn)
        assert done.problem == ""
        alarms = {o.day: o.reason for o in done.obstacles if o.alarm and "is none" in o.reason}
        assert set(alarms) == {day, "tick_1_20010101", "log_1_20011399"}
        assert await tables_of_days(shop.connection) == set(alarms)


@pytest.mark.parametrize("part", ["log", "tick"])
async def test_unwatch_takes_a_detached_day_too(postgres: PostgresForTests, part: str) -> None:
    async with open_shop(await postgres.fresh(LOG)) as shop:
        await grow_old(shop)
        await detach(shop.connection, part, 3)
        await shop.connection.execute("SELECT changefeed.unwatch('orders')")
        cursor = await shop.connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'changefeed_log'::regnamespace"
        )
        assert await cursor.fetchall() == []


async def test_unwatch_waits_for_no_retention_run_for_long(postgres: PostgresForTests) -> None:
    async with (
        open_shop(await postgres.fresh(LOG)) as shop,
        await psycopg.AsyncConnection.connect(shop.dsn) as running,
    ):
        await running.execute("LOCK TABLE changefeed_log.lock_retention_1 IN SHARE UPDATE EXCLUSIVE MODE")
        with pytest.raises(psycopg.errors.LockNotAvailable, match="retention is at work on feed 1"):
            await shop.connection.execute("SELECT changefeed.unwatch('orders')")
        await running.rollback()
        await shop.connection.execute("SELECT changefeed.unwatch('orders')")
