"""When a tick is made, and what it says."""

from collections.abc import AsyncIterator
from typing import NamedTuple

import psycopg
import pytest
from psycopg import errors
from psycopg.rows import class_row

from tests.postgres.conftest import Connection
from tests.postgres.roles import login


class Tick(NamedTuple):
    id: int
    last_seq: int
    made: bool
    quiet: bool


async def tick(connection: Connection, *, force: bool = False) -> Tick:
    async with connection.cursor(row_factory=class_row(Tick)) as cursor:
        await cursor.execute("SELECT id, last_seq, made, quiet FROM changefeed.tick(1, %s)", [force])
        answer = await cursor.fetchone()
    assert answer is not None
    return answer


@pytest.fixture
async def connection(log_database: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection:
        await connection.execute("CREATE TABLE t (id int PRIMARY KEY); SELECT changefeed.watch('t')")
        yield connection


@pytest.fixture
async def writer(log_database: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(log_database) as connection:
        yield connection
        await connection.rollback()


async def test_a_fresh_feed_reads_zero_and_needs_no_tick(connection: Connection) -> None:
    assert await tick(connection) == (1, 0, False, True)
    await connection.execute("INSERT INTO t VALUES (1)")
    assert await tick(connection) == (2, 1, True, True)
    assert await tick(connection) == (2, 1, False, True)


async def test_force_makes_one_anyway(connection: Connection) -> None:
    assert (await tick(connection, force=True))[:3] == (2, 0, True)


@pytest.mark.req("P1", "DB-1")
async def test_a_change_that_commits_after_the_newest_tick_gets_one_more_tick(
    connection: Connection, writer: Connection
) -> None:
    await writer.execute("INSERT INTO t VALUES (1)")
    assert await tick(connection) == (2, 1, True, False)
    assert await tick(connection) == (2, 1, False, False)
    await writer.commit()
    assert await tick(connection) == (3, 1, True, True)
    assert await tick(connection) == (3, 1, False, True)


async def test_a_rolled_back_change_becomes_quiet(connection: Connection, writer: Connection) -> None:
    await writer.execute("INSERT INTO t VALUES (1)")
    await tick(connection)
    await writer.rollback()
    assert (await tick(connection)).quiet
    assert not (await tick(connection)).made


async def test_a_long_transaction_elsewhere_makes_no_ticks_of_its_own(
    connection: Connection, writer: Connection
) -> None:
    await writer.execute("CREATE TEMP TABLE unrelated (a int)")
    await connection.execute("INSERT INTO t VALUES (1)")
    first = await tick(connection)
    assert first.made
    assert not first.quiet
    assert [(await tick(connection)).made for _ in range(5)] == [False] * 5


async def test_numbers_left_by_savepoints_do_not_hold_anything_up(connection: Connection) -> None:
    async with connection.transaction():
        await connection.execute("SAVEPOINT s; INSERT INTO t VALUES (1); ROLLBACK TO s; INSERT INTO t VALUES (2)")
    assert await tick(connection) == (2, 2, True, True)


async def test_a_prepared_transaction_is_waited_for(connection: Connection, writer: Connection) -> None:
    await connection.execute(
        "CREATE TABLE quiet (id int PRIMARY KEY); SELECT changefeed.watch('quiet', doorbell => 'poll')"
    )
    await writer.execute("INSERT INTO quiet VALUES (1)")
    await writer.execute("PREPARE TRANSACTION 'later'")
    first = await (await connection.execute("SELECT made, quiet FROM changefeed.tick(2)")).fetchone()
    again = await (await connection.execute("SELECT made, quiet FROM changefeed.tick(2)")).fetchone()
    await connection.execute("COMMIT PREPARED 'later'")
    last = await (await connection.execute("SELECT made, quiet FROM changefeed.tick(2)")).fetchone()
    assert (first, again, last) == ((True, False), (False, False), (True, True))


async def test_a_transaction_that_has_written_cannot_make_a_tick(connection: Connection) -> None:
    async with connection.transaction(force_rollback=True):
        await connection.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(errors.ActiveSqlTransaction):
            await connection.execute("SELECT changefeed.tick(1)")


async def test_a_tick_refuses_a_snapshot_that_would_be_older_than_its_reading(connection: Connection) -> None:
    await connection.execute("SET default_transaction_isolation = 'repeatable read'")
    with pytest.raises(errors.ActiveSqlTransaction):
        await tick(connection)


@pytest.mark.req("P7", "BX-11")
async def test_no_login_of_a_stranger_or_a_reader_can_hold_up_a_tick(connection: Connection, log_database: str) -> None:
    async with (
        login(log_database, "hostile", "changefeed_reader") as dsn,
        await psycopg.AsyncConnection.connect(dsn) as it,
    ):
        # Every advisory lock that a feed of number 1 could ask for.
        await it.execute("SELECT pg_advisory_lock(n, 1) FROM generate_series(1667655780, 1667655799) n")
        await it.commit()
        for table in ("lock_ticks_1", "lock_retention_1"):
            for mode in ("ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE", "ACCESS EXCLUSIVE"):
                with pytest.raises(errors.InsufficientPrivilege):
                    await it.execute(f"LOCK TABLE changefeed_log.{table} IN {mode} MODE".encode())
                await it.rollback()
        # The strongest that it may have.
        await it.execute("LOCK TABLE changefeed_log.lock_ticks_1 IN ACCESS SHARE MODE")
        await connection.execute("INSERT INTO t VALUES (1)")
        assert (await tick(connection)).made


async def test_who_waits_for_the_lock_of_the_ticks_is_told_in_time(connection: Connection, writer: Connection) -> None:
    await writer.execute("SELECT changefeed.lock_feed('public.t')")
    await connection.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(errors.LockNotAvailable):
        await tick(connection)
    await writer.rollback()
    assert (await tick(connection)).made


async def test_a_tick_does_not_count_its_own_transaction_as_ended(connection: Connection) -> None:
    for seen, xid, expected in (
        ("10:20:", 15, "10:20:15"),
        ("10:20:11,19", 15, "10:20:11,15,19"),
        ("15:20:16", 15, "15:20:15,16"),
        ("10:20:15", 15, "10:20:15"),
        ("20:20:", 20, "20:20:"),
        ("10:20:11", 25, "10:20:11"),
    ):
        cursor = await connection.execute(
            "SELECT changefeed.as_under_way(%s::pg_snapshot, %s::text::xid8)::text", (seen, str(xid))
        )
        assert await cursor.fetchone() == (expected,)
