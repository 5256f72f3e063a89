"""Days are made ahead and dropped; what is retained stays readable, what is not is refused by name."""

import asyncio
import re
from collections.abc import AsyncIterator, Set
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs
from tenacity import stop_after_attempt

from changefeed_gateway.core.errors import CheckpointExpired, HistoryGap
from changefeed_gateway.core.model import (
    After,
    AtTime,
    Beginning,
    EntireCollection,
    LogicalPartition,
    Page,
    PartitionId,
    PhysicalPartition,
    Scope,
)
from changefeed_gateway.providers.postgres.errors import OperationError
from changefeed_gateway.providers.postgres.retention import facts as retention_facts
from changefeed_gateway.providers.postgres.retention import run as retention
from changefeed_gateway.providers.postgres.retention import steps
from changefeed_gateway.providers.postgres.retention.days import Part, days_ahead
from changefeed_gateway.providers.postgres.retention.facts import read_after, read_days
from changefeed_gateway.providers.postgres.retention.plan import Action, next_step
from changefeed_gateway.providers.postgres.retention.steps import execute
from tests.postgres.history import DAY, RETAINED, age, aged, grow_old, keeping_marks, live_since, partitions
from tests.postgres.reading import address, open_provider, page_read
from tests.postgres.shop import QUIET, Shop, keys, open_shop


@pytest.fixture
async def shop(log_database: str) -> AsyncIterator[Shop]:
    async with open_shop(log_database) as shop:
        yield shop


async def run(shop: Shop) -> retention.FeedRetention:
    [done] = await retention.run(shop.dsn)
    assert (done.problem, done.busy) == ("", False)
    assert done.facts is not None
    assert next_step(done.facts) is None
    await check_cover(shop)
    return done


async def check_cover(shop: Shop) -> None:
    """No time is without a table, nothing is left lying about, and an idle feed has a tick."""
    for part in Part:
        facts = await read_days(shop.connection, 1)
        days = [d for d in facts.days if d.part is part]
        assert all(d.state.value == "attached" for d in days)
        days.sort(key=lambda d: d.starts)
        assert (days[0].name, days[-1].name) == (f"{part.value}_1_past", f"{part.value}_1_future")
        assert all(a.ends == b.starts for a, b in pairwise(days))
        assert days_ahead(facts, part) >= 2


async def test_a_new_feed_needs_nothing(shop: Shop) -> None:
    assert (await run(shop)).steps == ()


@pytest.mark.req("P6", "CF-08", "DB-10")
async def test_what_is_older_than_the_retention_is_dropped_and_the_rest_is_read(shop: Shop) -> None:
    await grow_old(shop)
    done = await run(shop)
    assert {Action.DETACH, Action.DROP, Action.CREATE} <= {step.action for step in done.steps}
    # The tick that a read from seven days ago begins at stays, with its day.
    assert keys(await shop.page(Beginning())) == RETAINED
    assert keys(await shop.page(AtTime(datetime.now(UTC) - 7 * DAY))) == RETAINED
    assert (await run(shop)).steps == ()


@pytest.mark.req("US2.2", "CF-08", "P6")
async def test_an_expired_position_is_told_the_earliest_that_is_still_there(shop: Shop) -> None:
    start = (await shop.page(Beginning(), size=0)).cursor
    await grow_old(shop)
    await run(shop)
    earliest = (await shop.page(Beginning(), size=0)).cursor
    for size in (0, 10):
        async with open_provider(shop.dsn, QUIET) as other:
            with pytest.raises(CheckpointExpired) as caught:
                await other.read_page(shop.feed, page_read(After(start), size=size))
        time = datetime.fromisoformat(caught.value.metadata["earliest_time"])
        assert caught.value.metadata["earliest_time"] in str(caught.value)
        assert (await shop.page(AtTime(time), size=0)).cursor == earliest


async def test_days_are_made_ahead_in_good_time_without_a_lock_that_anybody_feels(shop: Shop) -> None:
    await live_since(shop.connection, 3, ahead=2)
    async with await psycopg.AsyncConnection.connect(shop.dsn) as reader:
        await reader.execute("SELECT count(*) FROM changefeed_log.log_1")
        running = asyncio.create_task(run(shop))
        await _until(shop, "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhdetachpending)")
        await shop.connection.execute("SET lock_timeout = '200ms'")
        await shop.insert(1)
        await reader.rollback()
    done = await running
    assert Action.REPLACE not in {step.action for step in done.steps}
    assert keys(await shop.page(Beginning())) == [1]


async def _until(shop: Shop, condition: str) -> None:
    async with asyncio.timeout(20), await psycopg.AsyncConnection.connect(shop.dsn, autocommit=True) as watcher:
        # The server has no event for this.
        while await (await watcher.execute(condition.encode())).fetchone() == (False,):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stop_after", range(16))
async def test_a_run_that_died_after_any_step_is_finished_by_the_next(shop: Shop, stop_after: int) -> None:
    await grow_old(shop)
    await live_since(shop.connection, 11, ahead=2)
    for _ in range(stop_after):
        step = next_step(await read_days(shop.connection, 1))
        assert step is not None
        await execute(shop.connection, 1, step)
    await run(shop)
    assert keys(await shop.page(Beginning())) == RETAINED


async def test_what_is_read_after_each_step_is_what_the_database_holds(shop: Shop) -> None:
    await grow_old(shop)
    await live_since(shop.connection, 11, ahead=2)
    facts = await read_days(shop.connection, 1)
    done = []
    while (step := next_step(facts)) is not None:
        await execute(shop.connection, 1, step)
        done.append(step.action)
        facts = await read_after(shop.connection, facts, step)
        whole = await read_days(shop.connection, 1)
        assert {day.name: day for day in facts.days} == {day.name: day for day in whole.days}
        assert facts.judged_by == whole.judged_by
    assert {Action.DETACH, Action.DROP, Action.CREATE} <= set(done)


async def test_a_run_looks_at_all_days_once_and_then_at_those_of_its_steps(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await grow_old(shop)
    looked: list[Set[str] | None] = []
    read = retention_facts._read

    async def noted(connection: Any, feed_id: int, names: Set[str] | None) -> Any:
        looked.append(names)
        return await read(connection, feed_id, names)

    monkeypatch.setattr(retention_facts, "_read", noted)
    [done] = await retention.run(shop.dsn)
    # What a tick changes is told by any of them; it has no days of its own.
    assert looked == [None, *({day.name for day in step.days} or None for step in done.steps)]
    assert len(done.steps) > 10
    assert looked.count(None) == 2


async def test_to_look_at_the_days_of_a_feed_costs_in_proportion_to_them(shop: Shop) -> None:
    await shop.connection.execute("UPDATE changefeed.feeds SET retention = '90 days'")
    buffers = []
    for days, more in ((10, 10), (40, 30)):
        await live_since(shop.connection, days)
        for _ in range(more):
            await shop.connection.execute("SELECT changefeed.tick(1, true)")
            await age(shop.connection, DAY)
        await shop.connection.execute("SELECT changefeed.days(1)")
        cursor = await shop.connection.execute(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT json) SELECT * FROM changefeed.days(1)"
        )
        ((plan,),) = await cursor.fetchall()
        buffers.append(plan[0]["Plan"]["Shared Hit Blocks"])
    # Four times the days; while each day asked all the others, it was 4.7 times as much.
    assert buffers[1] <= 4 * buffers[0]


@pytest.mark.parametrize("parent", ["tick_1", "log_1"])
@pytest.mark.parametrize("which", ["future", "past", "day"])
async def test_a_detach_whose_backend_was_killed_is_finished(shop: Shop, parent: str, which: str) -> None:
    await grow_old(shop)
    name = f"{parent}_{which}" if which != "day" else min(await partitions(shop.connection, parent))
    async with await psycopg.AsyncConnection.connect(shop.dsn) as reader:
        await reader.execute(f"SELECT count(*) FROM changefeed_log.{parent}".encode())
        async with await psycopg.AsyncConnection.connect(shop.dsn, autocommit=True) as worker:
            detach = f"ALTER TABLE changefeed_log.{parent} DETACH PARTITION changefeed_log.{name} CONCURRENTLY"
            detaching = asyncio.create_task(worker.execute(detach.encode()))
            await _until(shop, "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhdetachpending)")
            await shop.connection.execute("SELECT pg_terminate_backend(%s)", (worker.info.backend_pid,))
            with pytest.raises(psycopg.OperationalError):
                await detaching
    done = await run(shop)
    assert done.steps[0].action is Action.FINALIZE
    assert keys(await shop.page(Beginning())) == RETAINED


@pytest.mark.req("P1", "P6")
async def test_days_that_ran_out_are_made_again_and_nothing_of_the_overflow_is_lost(shop: Shop) -> None:
    await live_since(shop.connection, 10, ahead=-3)
    await shop.insert(1)
    await shop.tick()
    facts = await read_days(shop.connection, 1)
    [looked] = await retention.examine(shop.dsn)
    assert [o.day for o in looked.obstacles if o.alarm] == ["tick_1_future", "log_1_future"]
    assert all("retention run" in o.remedy for o in looked.obstacles)
    assert days_ahead(facts, Part.LOG) == 0
    start = (await shop.page(Beginning(), size=0)).cursor
    # One transaction that has written stands in the way for a while.
    async with await psycopg.AsyncConnection.connect(shop.dsn) as writer:
        await writer.execute("INSERT INTO orders VALUES (2, 0, 'x')")
        running = asyncio.create_task(run(shop))
        await _until(shop, "SELECT EXISTS (SELECT FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted)")
        await writer.commit()
    done = await running
    assert Action.REPLACE in {step.action for step in done.steps}
    assert not [o for o in done.obstacles if o.alarm]
    assert keys(await shop.page(After(start))) == [1, 2]
    await shop.insert(3)
    assert keys(await shop.page(After(start))) == [1, 2, 3]


@pytest.mark.req("P1", "P6")
async def test_a_transaction_that_spans_midnight_and_the_drop_of_its_day(shop: Shop) -> None:
    """Its change was dated days before it committed; it belongs to a later batch and stays as long as that one."""
    await live_since(shop.connection, 12)
    async with await psycopg.AsyncConnection.connect(shop.dsn) as writer:
        await writer.execute("INSERT INTO orders VALUES (1, 0, 'long')")
        # Dated ten days ago by the transaction itself: its row and its lock lie in that day.
        await writer.execute(
            "UPDATE changefeed_log.log_1 SET changed_at = changed_at - interval '10 days' WHERE seq = 1"
        )
        await age(shop.connection, 11 * DAY)
        await shop.insert(2)
        await shop.tick()
        await age(shop.connection, 8 * DAY)
        await shop.tick(force=True)
        day = f"log_1_{datetime.now(UTC) - 10 * DAY:%Y%m%d}"
        done = await run(shop)
        assert day in await partitions(shop.connection, "log_1")
        [blocked] = [o for o in done.obstacles if o.day == day]
        assert f"pid {writer.info.backend_pid}" in blocked.reason
        await writer.commit()
    done = await run(shop)
    assert day in await partitions(shop.connection, "log_1"), "its batch is retained, so its change is"
    assert "committed much later" in next(o.reason for o in done.obstacles if o.day == day)
    assert 1 in keys(await shop.page(Beginning()))


@pytest.mark.req("P6")
async def test_expiry_is_decided_inside_a_read_that_a_drop_overtakes(shop: Shop) -> None:
    """Between the steps of a run, a reader of the dropped history is refused or reads all of it: never a part."""
    await grow_old(shop)
    start = (await shop.page(Beginning(), size=0)).cursor
    everything = list(range(10, 0, -1))
    outcomes = []
    async with open_provider(shop.dsn, QUIET) as reader:
        while True:
            for size in (1000, 3):
                read = page_read(After(start), size=size)
                try:
                    page = await reader.read_page(shop.feed, read)
                except CheckpointExpired:
                    outcomes.append("expired")
                else:
                    assert keys(page) == everything[: len(keys(page))]
                    assert len(keys(page)) == min(size, 10)
                    outcomes.append("whole")
            step = next_step(await read_days(shop.connection, 1))
            if step is None:
                break
            await execute(shop.connection, 1, step)
    assert outcomes[0] == "whole"
    assert outcomes[-1] == "expired"
    assert outcomes == sorted(outcomes, reverse=True)


async def test_a_transaction_left_open_keeps_days_from_being_made_no_longer_than_a_while(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_WAIT", "500ms")
    await live_since(shop.connection, 3, ahead=2)
    async with await psycopg.AsyncConnection.connect(shop.dsn) as forgotten:
        await forgotten.execute("INSERT INTO orders VALUES (1, 0, 'x')")
        await run(shop)
        await forgotten.commit()
    assert keys(await shop.page(Beginning())) == [1]


@pytest.mark.parametrize(
    ("hold", "action"),
    [
        ("LOCK TABLE changefeed_log.tick_1 IN SHARE UPDATE EXCLUSIVE MODE", "detach tick_1_"),
        ("SELECT count(*) FROM changefeed_log.tick_1", "detach tick_1_"),
    ],
    ids=["maintenance", "reader"],
)
async def test_a_run_that_gives_up_on_a_lock_names_the_day_and_who_holds_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, hold: str, action: str
) -> None:
    monkeypatch.setattr(retention, "_WAIT", "200ms")
    await grow_old(shop)
    async with await psycopg.AsyncConnection.connect(shop.dsn, application_name="nightly report") as holder:
        await holder.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await holder.execute(hold.encode())
        with capture_logs() as lines:
            [done] = await retention.run(shop.dsn)
        assert done.problem.startswith(action)
        assert f"held up by pid {holder.info.backend_pid} 'nightly report', transaction since" in done.problem
        assert "pg_terminate_backend" in done.problem
        assert hold not in done.problem
        [line] = [line for line in lines if line["event"] == "retention stopped"]
        assert (line["feed"], line["problem"]) == ("public.orders", done.problem)
        [looked] = await retention.examine(shop.dsn)
        assert looked.last_problem == done.problem
    await run(shop)
    assert keys(await shop.page(Beginning())) == RETAINED


async def test_a_writer_that_keeps_the_overflow_from_becoming_a_day_is_named(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "stop_after_attempt", lambda _: stop_after_attempt(1))
    await live_since(shop.connection, 10, ahead=-3)
    async with await psycopg.AsyncConnection.connect(shop.dsn) as writer:
        await writer.execute("INSERT INTO orders VALUES (1, 0, 'x')")
        [done] = await retention.run(shop.dsn)
        assert "create log_1_" in done.problem
        assert f"held up by pid {writer.info.backend_pid}, transaction since" in done.problem
        await writer.commit()
    await run(shop)
    assert keys(await shop.page(Beginning())) == [1]


async def test_many_runs_at_once_do_no_harm(shop: Shop) -> None:
    await grow_old(shop)
    done = await asyncio.gather(*(retention.run(shop.dsn) for _ in range(3)))
    assert all(feed.problem == "" for feeds in done for feed in feeds)
    assert sum(not feed.busy for feeds in done for feed in feeds) >= 1
    await run(shop)
    assert keys(await shop.page(Beginning())) == RETAINED


async def test_a_feed_that_fails_leaves_the_others_alone(shop: Shop) -> None:
    await shop.connection.execute("CREATE TABLE lines (id int PRIMARY KEY)")
    await shop.connection.execute("SELECT changefeed.watch('lines')")
    await live_since(shop.connection, 3, 2, ahead=2)
    await shop.connection.execute("DELETE FROM changefeed_log.tick_1")
    first, second = await retention.run(shop.dsn)
    assert "no tick left" in first.problem
    assert second.problem == ""
    assert second.steps
    [looked] = [f for f in await retention.run(shop.dsn) if f.feed == "public.lines"]
    assert looked.steps == ()


@pytest.mark.parametrize("chosen", [timedelta(0), timedelta(hours=2), timedelta(days=367)])
async def test_a_retention_below_what_ticks_need_is_refused(shop: Shop, chosen: timedelta) -> None:
    with pytest.raises(OperationError, match=r"retention is .*Choose 1 day to 366 days"):
        await retention.set_retention(shop.dsn, "public.orders", chosen)
    cursor = await shop.connection.execute("SELECT retention FROM changefeed.feeds")
    assert await cursor.fetchall() == [(timedelta(days=7),)]
    with pytest.raises(OperationError, match=r"there is no feed 'public\.lines'"):
        await retention.set_retention(shop.dsn, "public.lines", DAY)


async def test_a_retention_that_is_set_is_kept_to(shop: Shop) -> None:
    await grow_old(shop)
    await retention.set_retention(shop.dsn, "public.orders", 3 * DAY)
    await run(shop)
    assert keys(await shop.page(Beginning())) == [2, 1]


async def test_an_idle_feed_keeps_a_tick_and_its_readers_stay(shop: Shop) -> None:
    await live_since(shop.connection, 40)
    await shop.insert(1)
    await shop.tick()
    await age(shop.connection, 30 * DAY)
    done = await run(shop)
    assert done.steps[0].action is Action.TICK
    # Nothing is dropped before the tick after it is old enough: until now somebody may have waited.
    assert keys(await shop.page(Beginning())) == [1]
    facts = done.facts
    assert facts is not None
    assert facts.now - facts.newest_tick_at < timedelta(minutes=5)


@pytest.mark.parametrize("table", ["log_1", "tick_1"])
async def test_a_day_that_an_open_transaction_has_written_to_stays_until_it_ends(shop: Shop, table: str) -> None:
    """It may write there again; and a row of its own that nobody sees would go with the day."""
    await grow_old(shop)
    day = min(await partitions(shop.connection, table))
    async with await psycopg.AsyncConnection.connect(shop.dsn) as writer:
        await writer.execute(
            f"UPDATE changefeed_log.{day} SET xid = xid".encode()
            if table == "log_1"
            else f"UPDATE changefeed_log.{day} SET at = at".encode()
        )
        done = await run(shop)
        [blocked] = [o for o in done.obstacles if o.day == day]
        assert blocked.alarm
        assert f"pid {writer.info.backend_pid}, transaction since" in blocked.reason
        assert blocked.remedy == "end that transaction"
        assert day in await partitions(shop.connection, table)
        await writer.rollback()
    assert not (await run(shop)).obstacles
    assert day not in await partitions(shop.connection, table)
    assert keys(await shop.page(Beginning())) == RETAINED


@pytest.mark.req("P1", "P6")
async def test_a_prepared_transaction_keeps_the_day_that_it_wrote_to(shop: Shop) -> None:
    await live_since(shop.connection, 12)
    # One that rings the doorbell cannot be prepared, so its rows are written as a feed with `poll` has them written.
    await shop.connection.execute("UPDATE changefeed.feeds SET doorbell = 'poll'")
    await shop.connection.execute("CREATE TABLE lines (id int PRIMARY KEY)")
    await shop.connection.execute("SELECT changefeed.watch('lines', doorbell => 'poll')")
    await live_since(shop.connection, 12, 2)
    async with await psycopg.AsyncConnection.connect(shop.dsn) as writer:
        await writer.execute("INSERT INTO lines VALUES (1)")
        await writer.execute("UPDATE changefeed_log.log_2 SET changed_at = changed_at - interval '10 days'")
        await writer.execute("PREPARE TRANSACTION 'forgotten'")
        await writer.commit()
        await shop.connection.execute("SELECT changefeed.tick(2, true)")
        await age(shop.connection, 9 * DAY, 2)
        await shop.connection.execute("SELECT changefeed.tick(2, true)")
        day = f"log_2_{datetime.now(UTC) - 10 * DAY:%Y%m%d}"
        _, lines = await retention.run(shop.dsn)
        assert lines.problem == ""
        [blocked] = [o for o in lines.obstacles if o.day == day]
        assert blocked.alarm
        assert blocked.reason.startswith(
            "written to by a transaction that is still open: prepared transaction 'forgotten'"
        )
        assert day in await partitions(shop.connection, "log_2")
        await shop.connection.execute("COMMIT PREPARED 'forgotten'")
    feed = await shop.provider.open_feed(address("public.lines"))
    assert keys(await shop.provider.read_page(feed, page_read(Beginning()))) == [1]
    _, lines = await retention.run(shop.dsn)
    assert "committed much later" in next(o.reason for o in lines.obstacles if o.day == day)
    assert keys(await shop.provider.read_page(feed, page_read(Beginning()))) == [1]


@pytest.mark.req("P1", "P6")
async def test_rows_dated_before_the_first_day_raise_an_alarm_and_go_when_nobody_needs_them(shop: Shop) -> None:
    await live_since(shop.connection, 12)
    start = (await shop.page(Beginning(), size=0)).cursor
    await shop.insert(1)
    # The clock was behind when it was written.
    await shop.connection.execute("UPDATE changefeed_log.log_1 SET changed_at = changed_at - interval '30 days'")
    await shop.tick()
    done = await run(shop)
    [past] = done.obstacles
    assert (past.day, past.alarm) == ("log_1_past", True)
    assert "the server's clock was behind" in past.reason
    assert keys(await shop.page(After(start))) == [1]
    for _ in range(9):
        await age(shop.connection, DAY)
        await live_since(shop.connection, 12)
        await shop.tick(force=True)
        done = await run(shop)
    assert not done.obstacles
    cursor = await shop.connection.execute("SELECT count(*) FROM changefeed_log.log_1")
    assert await cursor.fetchone() == (0,)


@pytest.mark.req("P6")
async def test_ticks_dated_ahead_are_dated_back_as_documented_and_tokens_stay(shop: Shop) -> None:
    page = (Path(__file__).parents[2] / "docs/providers/postgres.md").read_text()
    [remedy] = re.findall(r"select changefeed\.date_anew\(1\);", page)
    await shop.insert(1)
    await shop.tick()
    await age(shop.connection, -40 * DAY)
    async with open_provider(shop.dsn, QUIET) as ahead:
        token = (await ahead.read_page(shop.feed, page_read(Beginning()))).cursor
    await shop.insert(2)
    await shop.connection.execute(remedy.encode())
    cursor = await shop.connection.execute(
        "SELECT FROM changefeed_log.tick_1 WHERE at > now() OR reached > now() UNION ALL"
        " SELECT FROM changefeed_log.log_1 WHERE changed_at > now()"
    )
    assert cursor.rowcount == 0
    async with open_provider(shop.dsn, QUIET) as later:
        assert keys(await later.read_page(shop.feed, page_read(After(token)))) == [2]


@pytest.mark.req("P6")
async def test_a_token_lives_as_long_as_its_page_forecast(shop: Shop) -> None:
    """Whole days pass, so a forecast for n days later is the same moment of that day."""
    await retention.set_retention(shop.dsn, "public.orders", 2 * DAY)
    shop.feed = await shop.provider.open_feed(shop.feed.address)
    await live_since(shop.connection, 8)
    tokens: list[tuple[int, Page]] = []
    expired = 0
    for today in range(6):
        await shop.insert(today)
        tokens.append((today, await shop.page(Beginning())))
        await run(shop)
        # Another gateway, which does not know the ticks by heart.
        async with open_provider(shop.dsn, QUIET) as other:
            for made, page in tokens:
                assert page.expire_time is not None
                alive = datetime.now(UTC) < page.expire_time - (today - made) * DAY
                try:
                    start = After(aged(page.cursor, (today - made) * DAY))
                    later = await other.read_page(shop.feed, page_read(start))
                except CheckpointExpired:
                    assert not alive
                    expired += 1
                else:
                    assert keys(later) == list(range(made + 1, today + 1))
        await age(shop.connection, DAY)
        # What it knows by heart has other times by now, as if its database had another history.
        shop.provider.forget()
    assert expired


@pytest.mark.parametrize("scope", [EntireCollection(), LogicalPartition("0"), PhysicalPartition(PartitionId("0-4095"))])
@pytest.mark.req("P6")
async def test_a_gateway_that_was_asleep_tells_a_reader_that_its_history_was_dropped(shop: Shop, scope: Scope) -> None:
    """Its own clock stood still, and it knows the ticks by heart: only the database can tell it."""
    await live_since(shop.connection, 12)
    await shop.insert(1)
    start = (await shop.page(Beginning(), scope=scope, size=0)).cursor
    await shop.insert(2)
    assert keys(await shop.page(After(start), scope=scope)) == [1, 2]
    # Seen from the gateway, all of it was a moment ago.
    shift = keeping_marks(9 * DAY)
    await age(shop.connection, shift)
    await shop.tick(force=True)
    await age(shop.connection, keeping_marks(7 * DAY + DAY))
    await shop.tick(force=True)
    await run(shop)
    with pytest.raises(CheckpointExpired):
        await shop.page(After(start), scope=scope)


@pytest.mark.req("P6")
async def test_a_day_that_is_lost_is_found_by_who_has_just_read_there(shop: Shop) -> None:
    await shop.insert(1)
    start = (await shop.page(Beginning(), size=0)).cursor
    assert keys(await shop.page(After(start))) == [1]
    # A day to come holds nothing yet.
    later = f"{datetime.now(UTC) + 3 * DAY:%Y%m%d}"
    await shop.connection.execute(f"DROP TABLE changefeed_log.log_1_{later}".encode())
    assert keys(await shop.page(After(start))) == [1]
    await shop.connection.execute(f"DROP TABLE changefeed_log.log_1_{datetime.now(UTC):%Y%m%d}".encode())
    with pytest.raises(HistoryGap):
        await shop.page(After(start))


async def test_a_page_of_the_same_tables_is_one_statement(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions of any age: what proves that nothing was dropped comes with the page."""
    await grow_old(shop)
    await shop.page(Beginning(), size=3)
    asked: list[object] = []
    execute = psycopg.AsyncCursor.execute

    async def record(cursor: Any, query: Any, *arguments: Any, **how: Any) -> Any:
        asked.append(query)
        return await execute(cursor, query, *arguments, **how)

    monkeypatch.setattr(psycopg.AsyncCursor, "execute", record)
    start = After((await shop.page(Beginning(), size=0)).cursor)
    asked.clear()
    assert keys(await shop.page(start, size=3, wait=1)) == [10, 9, 8]
    assert len(asked) == 1


@pytest.mark.req("P6")
async def test_a_reader_at_a_tick_that_goes_with_a_mixed_day_is_told_that_it_expired(shop: Shop) -> None:
    """Ticks of day D, of D+1, and of D again: at every moment of a run the reader is told the same."""
    await live_since(shop.connection, 12)
    await age(shop.connection, 11 * DAY)
    ticks: list[int] = []
    for days_ago in (10, 9, 10, 9, 8, 4):
        await shop.insert(len(ticks))
        ticks.append(await shop.tick())
        at = datetime.now(UTC).replace(hour=12) - days_ago * DAY
        await shop.connection.execute(
            "UPDATE changefeed_log.tick_1 SET at = %s, reached = %s WHERE id = %s",
            (at, datetime.now(UTC) - min(days_ago, 9) * DAY, ticks[-1]),
        )
    await shop.connection.execute("DELETE FROM changefeed_log.tick_1 WHERE id < %s", (ticks[0],))
    while (step := next_step(await read_days(shop.connection, 1))) is not None:
        await execute(shop.connection, 1, step)
        cursor = await shop.connection.execute("SELECT array_agg(id ORDER BY id) FROM changefeed_log.tick_1")
        [(left,)] = await cursor.fetchall()
        assert left == list(range(left[0], left[-1] + 1)), "none is missing between two others"
    assert left[0] == ticks[4]
    await run(shop)


async def test_a_day_that_is_kept_far_beyond_its_time_is_an_alarm(shop: Shop) -> None:
    await grow_old(shop, days=12)
    [looked] = await retention.examine(shop.dsn)
    alarms = [o for o in looked.obstacles if o.alarm]
    assert alarms
    assert all("days longer than asked" in o.reason for o in alarms)
    assert not [o for o in (await run(shop)).obstacles if o.alarm]


@pytest.mark.req("DB-10")
async def test_a_run_of_the_gateway_passes_over_feeds_in_which_nothing_is_due(shop: Shop) -> None:
    for name in ("lines", "parts", "notes", "stock"):
        await shop.connection.execute(f"CREATE TABLE {name} (id int PRIMARY KEY)".encode())
        await shop.connection.execute("SELECT changefeed.watch(%s::regclass)", (name,))

    async def due() -> list[str]:
        found = [done.feed for done in await retention.run_due(shop.dsn)]
        cursor = await shop.connection.execute(
            "SELECT count(*) FROM changefeed.retention_runs WHERE ran_at > now() - interval '1 minute'"
        )
        assert await cursor.fetchone() == (5,)
        return found

    assert await due() == []
    await live_since(shop.connection, 12, 2)  # days that are over
    await live_since(shop.connection, 3, 3, ahead=2)  # too few ahead
    await live_since(shop.connection, 3, 4)
    day = f"log_4_{datetime.now(UTC) - DAY:%Y%m%d}"
    await shop.connection.execute(f"ALTER TABLE changefeed_log.log_4 DETACH PARTITION changefeed_log.{day}".encode())
    await live_since(shop.connection, 10, 5, ahead=-3)  # run out: the overflow has a row
    await shop.connection.execute("INSERT INTO stock VALUES (1)")
    assert await due() == ["public.lines", "public.parts", "public.notes", "public.stock"]
    assert await due() == ["public.notes"], "a hole is an alarm until it is over"
    assert [next_step(await read_days(shop.connection, feed)) for feed in range(1, 6)] == [None] * 5
