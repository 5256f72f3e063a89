"""When a tick is made, and what it says."""

from collections.abc import AsyncIterator
from typing import NamedTuple

import psycopg
import pytest
from psycopg import errors
from psycopg.rows import class_row

from tests.postgres.conftest import Connection


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
