"""The day floor: nothing is written below it, whatever the clock does, and a live page opens one day."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from changefeed_gateway.core.errors import TransientFailure
from changefeed_gateway.core.model import After, Beginning, Now, Page
from changefeed_gateway.providers.postgres.cursor import Position
from changefeed_gateway.providers.postgres.log.reading import Stretch
from changefeed_gateway.providers.postgres.ticks.tick import Tick, days_between
from tests.databases import LOG
from tests.postgres.history import DAY, live_since
from tests.postgres.reading import address, open_provider, page_read
from tests.postgres.shop import QUIET, Shop, keys, open_shop
from tests.postgres.test_documents_capture import until_waiting
from tests.postgres.test_plans import recorded
from tests.postgres.test_provider_waiting import listening
from tests.postgres.test_stepping_clock import server_with_clock

MIDNIGHT = datetime(2026, 1, 2, tzinfo=UTC)
VALUE = 20455 << 40
"""Of a day floor, for that day."""


@pytest.fixture
async def shop(log_database: str) -> AsyncIterator[Shop]:
    async with open_shop(log_database) as shop:
        yield shop


async def floor(shop: Shop) -> int | None:
    cursor = await shop.connection.execute("SELECT pg_sequence_last_value('changefeed_log.day_1')")
    [(value,)] = await cursor.fetchall()
    return value if value is None else int(value)


async def move(shop: Shop, days: int) -> datetime:
    """As a tick does whose transaction then comes to nothing; answers where that day begins."""
    cursor = await shop.connection.execute(
        "SELECT changefeed.day_start(setval('changefeed_log.day_1', (changefeed.day_of(now()) + %s) << 40))", (days,)
    )
    [(starts,)] = await cursor.fetchall()
    assert isinstance(starts, datetime)
    return starts


# --- Pure


def tick(day: int | None) -> Tick:
    return Tick(1, 1, 1, frozenset(), 1, 1, MIDNIGHT, 1, day)


def test_days_of_a_page_by_the_ticks_around_it() -> None:
    assert days_between(tick(VALUE), tick(VALUE)) == (MIDNIGHT, MIDNIGHT + DAY)
    for after in (tick(VALUE + 1), tick(VALUE + (1 << 40)), tick(None), None):
        starts, ends = days_between(tick(VALUE), after)
        assert (starts, ends.year) == (MIDNIGHT, 9999)
    for before in (tick(None), None):
        starts, ends = days_between(before, tick(VALUE))
        assert (starts.year, ends.year) == (1, 9999)


# --- What is written


@pytest.mark.req("P1", "DB-10")
async def test_nothing_is_written_before_the_floor(shop: Shop) -> None:
    await shop.tick(force=True)
    starts = await move(shop, 2)
    await shop.insert(1)
    await shop.insert_many(2, 4)
    await shop.connection.execute("UPDATE orders SET id = 5 WHERE id = 4")
    await shop.connection.execute("TRUNCATE orders")
    await shop.tick()
    for table, column in (("log_1", "changed_at"), ("tick_1", "at")):
        query = f"SELECT DISTINCT {column} FROM changefeed_log.{table} WHERE {column} > now()"
        cursor = await shop.connection.execute(query.encode())
        assert await cursor.fetchall() == [(starts,)]


@pytest.mark.req("P8")
@pytest.mark.parametrize("begins", ["begin_epoch", "date_anew"])
async def test_a_feed_that_begins_anew_and_its_writers_wait_for_each_other_and_nobody_fails(
    shop: Shop, log_database: str, begins: str
) -> None:
    await shop.tick(force=True)
    async with AsyncExitStack() as stack:
        holder, beginner, writer = [
            await stack.enter_async_context(await psycopg.AsyncConnection.connect(log_database)) for _ in range(3)
        ]
        await holder.execute("SELECT count(*) FROM changefeed_log.tick_1")
        beginning = asyncio.create_task(beginner.execute(f"SELECT changefeed.{begins}(1)".encode()))
        await until_waiting(shop.connection, beginner)
        writing = asyncio.create_task(writer.execute("INSERT INTO orders VALUES (1, 0, 'x')"))
        await until_waiting(shop.connection, writer)
        await holder.commit()
        await beginning
        await beginner.commit()
        await writing
        await writer.commit()
    await shop.tick()
    assert keys(await shop.page(Beginning())) == [1]


@pytest.mark.req("P8")
@pytest.mark.parametrize("begins", ["begin_epoch", "date_anew"])
async def test_a_feed_that_begins_anew_and_a_question_of_a_gateway_wait_for_each_other_and_nobody_fails(
    shop: Shop, log_database: str, begins: str
) -> None:
    for number in range(3):
        await shop.insert(number)
        await shop.tick()
    async with AsyncExitStack() as stack:
        writer, beginner, gateway = [
            await stack.enter_async_context(await psycopg.AsyncConnection.connect(log_database)) for _ in range(3)
        ]
        question = await live_question(shop)
        await writer.execute("INSERT INTO orders VALUES (9, 0, 'x')")
        beginning = asyncio.create_task(beginner.execute(f"SELECT changefeed.{begins}(1)".encode()))
        await until_waiting(shop.connection, beginner)
        asking = asyncio.create_task(gateway.execute(question.encode()))
        await until_waiting(shop.connection, gateway)
        await writer.commit()
        await beginning
        await beginner.commit()
        await asking
        await gateway.commit()
    await shop.tick()
    assert keys(await shop.page(Beginning()))[-1] == 9


@pytest.mark.req("P8")
async def test_a_feed_that_ends_waits_for_writers_and_holds_no_tick_up_meanwhile(shop: Shop, log_database: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(log_database) as writer,
        await psycopg.AsyncConnection.connect(log_database) as operator,
    ):
        await writer.execute("INSERT INTO orders VALUES (1, 0, 'x')")
        ending = asyncio.create_task(operator.execute("SELECT changefeed.drop_feed(1)"))
        await until_waiting(shop.connection, operator)
        await shop.tick(force=True)
        await writer.commit()
        await ending
        await operator.commit()
    assert await (await shop.connection.execute("SELECT FROM changefeed.feeds")).fetchall() == []


@pytest.mark.req("P1")
async def test_what_was_written_before_a_copied_log_is_adopted_comes_without_another_write(log_database: str) -> None:
    async with open_shop(log_database) as shop:
        await shop.tick(force=True)
        await shop.connection.execute("UPDATE changefeed.feeds SET home = 'elsewhere'")
        await shop.insert(1)
    # As the gateway does for a feed that nobody reads.
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as gateway:
        for _ in range(2):
            await gateway.execute("SELECT changefeed.tick(1)")
    async with open_provider(log_database, QUIET) as provider:
        feed = await provider.open_feed(address("public.orders"))
        assert keys(await provider.read_page(feed, page_read(Beginning()))) == [1]


@pytest.mark.req("P1")
async def test_what_a_feed_that_begins_anew_has_found_comes_whoever_ends_meanwhile(
    shop: Shop, log_database: str
) -> None:
    await shop.tick(force=True)
    await shop.insert(1)
    await shop.connection.execute("CREATE TABLE changefeed_log.log_1_20200101 (LIKE changefeed_log.log_1)")
    async with (
        await psycopg.AsyncConnection.connect(log_database) as other,
        await psycopg.AsyncConnection.connect(log_database, autocommit=True) as beginner,
    ):
        # The oldest that is under way, in the way of the feed's loose days.
        await other.execute("SELECT pg_current_xact_id() FROM changefeed_log.log_1_20200101")
        await other.execute("SELECT pg_current_xact_id()")
        beginning = asyncio.create_task(beginner.execute("SELECT changefeed.begin_epoch(1)"))
        await until_waiting(shop.connection, beginner)
        await other.commit()
        await beginning
    await shop.tick()
    assert keys(await shop.page(Beginning())) == [1]


@pytest.mark.req("P1")
async def test_what_is_dated_beyond_the_day_is_counted_and_the_next_tick_moves_the_floor(shop: Shop) -> None:
    await shop.tick(force=True)
    await shop.connection.execute("ALTER SEQUENCE changefeed_log.day_1 RESTART")
    yesterday = (await move(shop, -1)).timestamp()
    before = await floor(shop)
    assert before is not None
    await shop.insert(1)
    assert await floor(shop) == before + 1
    await shop.tick()
    after = await floor(shop)
    assert after is not None
    assert (after & 0xFFFFFFFFFF, (after >> 40) * 86400) == (0, yesterday + 86400)
    await shop.insert(2)
    assert await floor(shop) == after


@pytest.mark.req("P1")
async def test_a_floor_whose_tick_came_to_nothing_hides_no_tick(shop: Shop) -> None:
    await shop.insert(1)
    first = await shop.tick()
    await move(shop, 1)
    await shop.insert(2)
    assert [await shop.tick(), await shop.tick(force=True), await shop.tick()] == [first + 1, first + 2, first + 2]
    assert keys(await shop.page(Beginning())) == [1, 2]


@pytest.mark.req("P1")
async def test_a_new_epoch_begins_a_floor_anew_and_only_if_it_comes_about(shop: Shop) -> None:
    await shop.tick(force=True)
    starts = await move(shop, 2)
    await shop.insert(1)
    kept = await floor(shop)
    async with await psycopg.AsyncConnection.connect(shop.dsn) as other:
        await other.execute("SELECT changefeed.begin_epoch(1)")
        await other.rollback()
        assert await floor(shop) == kept
        await other.execute("SELECT changefeed.begin_epoch(1)")
        await other.commit()
    assert await floor(shop) is None
    await shop.insert(2)
    await shop.tick()
    cursor = await shop.connection.execute("SELECT max(changed_at) FROM changefeed_log.log_1")
    [(latest,)] = await cursor.fetchall()
    assert latest < starts - DAY


# --- What is read


async def opened(shop: Shop, statement: str) -> dict[str, int]:
    """Of how many days of the log and of the ticks a statement opens an index, once it is planned."""
    async with await psycopg.AsyncConnection.connect(shop.dsn) as reader:
        await reader.execute("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off")
        for _ in range(3):
            await reader.commit()
            await reader.execute(statement.encode(), prepare=True)
        cursor = await reader.execute(
            "SELECT substring(i.indrelid::regclass::text FROM '(log|tick)_1_'), count(DISTINCT i.indrelid)"
            " FROM pg_locks l JOIN pg_index i ON i.indexrelid = l.relation"
            " WHERE l.pid = pg_backend_pid() AND i.indrelid::regclass::text ~ '(log|tick)_1_' GROUP BY 1"
        )
        return dict(await cursor.fetchall())


async def live_question(shop: Shop) -> str:
    """What a gateway asks that knows the newest tick and the one before, in a transaction that is not committed."""
    cursor = await shop.connection.execute(
        "SELECT format('SELECT * FROM changefeed_log.live_1(false, null, %s, %L, ''{}'', 0, %s, %s, %s, 256)',"
        " b.id, pg_snapshot_xmax(b.snapshot), p.last_seq, p.day, ("
        "   SELECT inhrelid::oid FROM pg_inherits WHERE inhparent = 'changefeed_log.log_1'::regclass"
        "   AND inhrelid::regclass::text = 'changefeed_log.log_1_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')))"
        " FROM changefeed_log.tick_1 b JOIN changefeed_log.tick_1 p ON p.id = b.id - 1 ORDER BY b.id DESC LIMIT 1"
    )
    [(statement,)] = await cursor.fetchall()
    return str(statement)


async def buffers(shop: Shop, statement: str) -> int:
    async with await psycopg.AsyncConnection.connect(shop.dsn) as reader:
        await reader.execute("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off")
        plan: dict[str, Any] = {}
        for _ in range(3):
            await reader.rollback()
            cursor = await reader.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}".encode())
            [([found],)] = await cursor.fetchall()
            plan = found["Plan"]
        assert plan["Actual Rows"] >= 3, "a tick, that it is whole, and a change"
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


async def test_a_live_page_opens_one_day_and_reads_no_more_with_more_of_them(shop: Shop) -> None:
    read = []
    for days in (2, 40):
        await live_since(shop.connection, days)
        for number in range(4):
            await shop.insert(100 * days + number)
            await shop.tick()
        await shop.insert(100 * days + 99)
        question = await live_question(shop)
        read.append(await buffers(shop, question))
        assert await opened(shop, question) == {"log": 1, "tick": 1}
        assert await opened(shop, "SELECT * FROM changefeed_log.make_tick_1(false)") == {"tick": 1}
    assert read[1] <= 1.2 * read[0], read


@pytest.mark.req("P8")
async def test_a_lone_change_is_one_statement_and_another_one_goes_to_sleep(
    log_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_shop(log_database, options=QUIET) as shop:
        await listening(shop.provider)
        cursor = (await shop.page(Now())).cursor
        with recorded(monkeypatch) as asked:
            for number in range(6):
                waiting = asyncio.create_task(shop.page(After(cursor), wait=30))
                await asyncio.sleep(0.1)
                await shop.insert(number)
                page = await waiting
                assert keys(page) == [number]
                cursor = page.cursor
                if number == 2:
                    asked.clear()  # by now the gateway knows the ticks before
        assert {statement.name for statement in asked} == {"live"}
        assert len(asked) <= 7


@pytest.mark.req("P1", "P2")
async def test_what_does_not_come_with_the_tick_is_read_apart(
    log_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that was under way has ended; other gateways make ticks; the floor has moved; there is too much."""
    async with open_shop(log_database, options=QUIET) as shop, open_provider(log_database, QUIET) as other:
        await listening(shop.provider)
        cursor, number = (await shop.page(Now())).cursor, 0

        async def read(*expected: int) -> set[str]:
            nonlocal cursor
            found: list[int] = []
            with recorded(monkeypatch) as asked:
                while len(found) < len(expected):
                    page = await shop.page(After(cursor), wait=30)
                    found, cursor = found + keys(page), page.cursor
            assert sorted(found) == sorted(expected)
            return {statement.name for statement in asked}

        for number in range(3):
            await shop.insert(number)
            await read(number)
        async with await psycopg.AsyncConnection.connect(log_database) as writer:
            await writer.execute("INSERT INTO orders VALUES (10, 0)")
            await shop.insert(11)
            assert "page_finished" not in await read(11)
            await shop.insert(12)
            await read(12)
            await writer.commit()
        assert {"page", "page_finished"} <= await read(10)
        feed = await other.open_feed(shop.feed.address)
        for number in range(20, 25):
            await shop.insert(number)
            await other.read_page(feed, page_read(Now()))
        await read(*range(20, 25))
        await move(shop, 1)
        await shop.insert(30)
        assert "page" in await read(30)
        await shop.connection.execute("INSERT INTO orders SELECT n, 0 FROM generate_series(1000, 1999) n")
        assert "page" in await read(*range(1000, 2000))


@pytest.mark.req("P6")
async def test_a_day_that_is_detached_by_hand_is_no_quiet_feed(shop: Shop) -> None:
    for number in range(4):
        await shop.insert(number)
        await shop.tick()
    await shop.insert(9)
    question = await live_question(shop)
    day = re.findall(r", (\d+), 256", question)
    cursor = await shop.connection.execute("SELECT %s::oid::regclass::text", (day[0],))
    [(name,)] = await cursor.fetchall()
    await shop.connection.execute(f"ALTER TABLE changefeed_log.log_1 DETACH PARTITION {name}".encode())
    cursor = await shop.connection.execute(question.encode())
    assert [row[0] is not None for row in await cursor.fetchall()] == [True], "the tick alone"


def dated(page: Page) -> datetime:
    (change,) = page.changes
    assert change.commit_time is not None
    return change.commit_time


@pytest.mark.req("P1", "DB-10")
async def test_what_a_clock_that_was_ahead_has_written_is_dated_anew_under_a_gateway() -> None:
    async with AsyncExitStack() as stack:
        postgres, clock = await stack.enter_async_context(server_with_clock())
        shop = await stack.enter_async_context(open_shop(await postgres.fresh(LOG), options=QUIET))
        cursor, now = (await shop.page(Now())).cursor, datetime.now(UTC)
        for number, ahead in enumerate((0, 10, 10, 10, 0, 0)):
            clock.set(now + ahead * DAY + timedelta(seconds=number))
            await shop.insert(number)
            page = await shop.page(After(cursor), wait=30)
            assert keys(page) == [number]
            cursor = page.cursor
        assert dated(page) > now + 9 * DAY
        await shop.connection.execute("SELECT changefeed.date_anew(1)")
        for number in range(10, 14):
            await shop.insert(number)
            page = await shop.page(After(cursor), wait=30)
            assert keys(page) == [number]
            assert dated(page) < now + DAY
            cursor = page.cursor
        assert keys(await shop.page(Beginning())) == [*range(6), *range(10, 14)]


@pytest.mark.req("P6")
async def test_a_change_that_is_dated_anew_before_its_item_is_fetched_has_not_expired(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = After((await shop.page(Now())).cursor)
    await shop.insert(1, size=20_000)
    await shop.tick()
    await shop.connection.execute("UPDATE changefeed_log.log_1 SET changed_at = changed_at + interval '1 hour'")
    reader = shop.provider._log_of(shop.feed)._reader
    step = reader._step

    async def step_and_date_anew(after: Position, *how: Any) -> Stretch:
        found = await step(after, *how)
        await shop.connection.execute("SELECT changefeed.date_anew(1)")
        return found

    monkeypatch.setattr(reader, "_step", step_and_date_anew)
    with pytest.raises(TransientFailure):
        await shop.page(start)
    monkeypatch.setattr(reader, "_step", step)
    assert keys(await shop.page(start)) == [1]
