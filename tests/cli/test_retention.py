"""`changefeed retention` on a real database: what it does, what it says, and how it ends."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from changefeed_gateway.core.model import Beginning
from tests.cli.conftest import CommandLine, Result
from tests.databases import LOG, PostgresForTests
from tests.postgres.history import RETAINED, grow_old, live_since, partitions
from tests.postgres.shop import Shop, keys, open_shop

FEED = "public.orders"


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody with a shell, and the shop that they look after."""

    cli: CommandLine
    shop: Shop

    async def __call__(self, *arguments: str) -> Result:
        result = await self.cli.run("retention", *arguments)
        assert "Traceback" not in result.err
        return result

    async def json(self, command: str, *, code: int = 0) -> dict[str, Any]:
        """What a command says of the one feed."""
        result = await self(command, "--json")
        assert result.code == code, result
        [record] = result.records
        assert record["type"] == "retention"
        return record

    async def tables(self) -> list[str]:
        """Every partition of the feed, with its bounds."""
        found = [await partitions(self.shop.connection, parent) for parent in ("tick_1", "log_1")]
        return [f"{name} {bounds}" for part in found for name, bounds in part.items()]

    async def retention(self) -> timedelta:
        cursor = await self.shop.connection.execute("SELECT retention FROM changefeed.feeds")
        [(retention,)] = await cursor.fetchall()
        assert isinstance(retention, timedelta)
        return retention


@pytest.fixture
async def operator(postgres: PostgresForTests, directory: Path) -> AsyncIterator[Operator]:
    dsn = await postgres.fresh(LOG)
    cli = CommandLine(directory)
    cli.environment["CHANGEFEED_CONNECTIONS__MAIN__DSN"] = dsn
    cli.environment["CHANGEFEED_CONNECTIONS__MAIN__PROVIDER"] = "postgres"
    async with open_shop(dsn) as shop:
        yield Operator(cli, shop)
    await postgres.drop(dsn)


def timeless(said: object) -> str:
    """Without times of day: a minute may pass between a plan and a run."""
    return re.sub(r"\d\d:\d\d", "", str(said))


@pytest.mark.req("DB-10")
async def test_a_plan_changes_nothing_and_a_run_does_what_it_said(operator: Operator) -> None:
    await grow_old(operator.shop)
    before = await operator.tables()
    planned = await operator.json("plan")
    assert await operator.tables() == before
    assert (await operator.json("status"))["last_run"] is None
    done = await operator.json("run")
    assert timeless(done["steps"]) == timeless(planned["steps"]) != "[]"
    assert (done["problem"], done["busy"]) == ("", False)
    assert keys(await operator.shop.page(Beginning())) == RETAINED
    assert (await operator.json("run"))["steps"] == []


async def test_people_read_what_was_done_and_why(operator: Operator) -> None:
    await grow_old(operator.shop)
    planned = await operator("plan")
    assert planned.code == 0
    assert "detach" in planned.out
    assert "ended before" in planned.out
    assert timeless((await operator("run")).out) == timeless(planned.out)
    assert (await operator("run")).out == f"main/{FEED}: nothing to do\n"
    status = await operator("status")
    assert status.code == 0
    for shown in (FEED, "7d", str((await operator.json("status"))["days_ahead"])):
        assert shown in status.out


async def test_status_counts_what_is_there(operator: Operator) -> None:
    await grow_old(operator.shop)
    await operator("run")
    status = await operator.json("status")
    assert status["retention"] == "604800s"
    assert status["days_ahead"] == 3
    assert status["earliest_position"] > status["oldest_day"]
    assert status["log_bytes"] > 0 < status["tick_bytes"]
    assert (status["overflow"], status["obstacles"], status["steps"]) == (False, [], [])
    assert status["last_run"] > status["earliest_position"]


async def test_rows_in_the_overflow_raise_an_alarm_until_a_run_has_made_a_day_of_it(operator: Operator) -> None:
    await live_since(operator.shop.connection, 10, ahead=-3)
    await operator.shop.insert(1)
    status = await operator.json("status", code=11)
    assert status["overflow"]
    assert "log_1_future" in [obstacle["day"] for obstacle in status["obstacles"] if obstacle["alarm"]]
    told = await operator("status")
    assert told.code == 11
    assert "days had run out - run changefeed retention run" in told.out
    await operator.json("run")
    assert not (await operator.json("status"))["overflow"]
    assert keys(await operator.shop.page(Beginning())) == [1]


async def test_a_run_that_could_not_finish_ends_with_a_code_and_is_remembered(operator: Operator) -> None:
    await grow_old(operator.shop)
    await operator.shop.connection.execute("DELETE FROM changefeed_log.tick_1")
    stopped = await operator.json("run", code=11)
    assert "no tick left" in stopped["problem"]


async def test_a_transaction_in_the_way_is_named_with_the_remedy(operator: Operator) -> None:
    shop = operator.shop
    await live_since(shop.connection, 12)
    async with await psycopg.AsyncConnection.connect(shop.dsn) as writer:
        await writer.execute("INSERT INTO orders VALUES (1, 0, 'x')")
        await writer.execute("UPDATE changefeed_log.log_1 SET changed_at = changed_at - interval '9 days'")
        status = await operator("status")
        assert status.code == 11
        assert f"pid {writer.info.backend_pid}" in status.out
        assert "end that transaction" in status.out
        await writer.rollback()
    assert (await operator("status")).code == 0


async def test_a_retention_that_is_set_is_kept_to(operator: Operator) -> None:
    await grow_old(operator.shop)
    result = await operator("set", FEED, "3d")
    assert (result.code, result.out) == (0, f"main/{FEED}: history is kept for 3d\n")
    assert await operator.retention() == timedelta(days=3)
    await operator("run")
    assert keys(await operator.shop.page(Beginning())) == [2, 1]


@pytest.mark.parametrize(
    ("feed", "retention", "code", "said"),
    [
        (FEED, "2h", 3, ("retention is", "choose 1 day to 366 days")),
        (FEED, "0s", 3, ("retention is", "choose 1 day to 366 days")),
        (FEED, "367d", 3, ("retention is", "choose 1 day to 366 days")),
        (FEED, "9" * 30 + "d", 2, ("retention", "is not a duration such as 14d")),
        (FEED, "soon", 2, ("retention", "'soon' is not a duration such as 14d")),
        ("public.lines", "3d", 4, ("there is no feed 'public.lines'", "changefeed.feeds")),
    ],
)
async def test_what_cannot_be_set_is_refused_by_field_with_the_remedy(
    operator: Operator, feed: str, retention: str, code: int, said: tuple[str, ...]
) -> None:
    result = await operator("set", feed, retention)
    assert (result.code, result.out) == (code, "")
    message = " ".join(result.err.replace("│", " ").split()).lower()
    for word in said:
        assert word in message
    assert await operator.retention() == timedelta(days=7)


@pytest.mark.parametrize("command", ["run", "plan", "status"])
async def test_a_database_that_is_not_there_or_has_no_log(
    operator: Operator, postgres: PostgresForTests, command: str
) -> None:
    operator.cli.environment["CHANGEFEED_CONNECTIONS__MAIN__DSN"] = postgres.dsn("postgres")
    result = await operator(command)
    assert result.code == 3
    assert "changefeed migrate" in result.err
    operator.cli.environment["CHANGEFEED_CONNECTIONS__MAIN__DSN"] = "host=127.0.0.1 port=1 dbname=x"
    assert (await operator(command)).code == 8


async def test_a_feed_whose_last_run_failed_says_so(operator: Operator) -> None:
    await operator.shop.connection.execute(
        "INSERT INTO changefeed.retention_runs VALUES (1, now(), 0, 'canceling statement due to lock timeout')"
    )
    assert (await operator.json("status"))["last_problem"] == "canceling statement due to lock timeout"
    assert "canceling" in (await operator("status")).out
