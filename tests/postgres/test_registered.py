"""A connection that stays registered with the loop does all that psycopg's own does."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from changefeed_gateway.providers.postgres.registered import RegisteredConnection
from tests.postgres.conftest import Connection


@pytest.fixture
async def connection(log_database: str) -> AsyncIterator[RegisteredConnection]:
    connection = await RegisteredConnection.connect(log_database, autocommit=True)
    yield connection
    await connection.close()


@pytest.fixture
async def other(log_database: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection:
        yield connection


async def one(connection: RegisteredConnection) -> object:
    row = await (await connection.execute("SELECT 1")).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.req("P8")
async def test_its_socket_is_registered_once_for_many_statements(
    connection: RegisteredConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await one(connection)
    loop, registered = asyncio.get_running_loop(), list[int]()
    add = loop.add_reader

    def counted(socket: int, *args: Any) -> None:
        registered.append(socket)
        add(socket, *args)

    monkeypatch.setattr(loop, "add_reader", counted)
    for _ in range(10):
        assert await one(connection) == 1
    assert connection.fileno() not in registered


async def test_a_long_answer_comes_whole_and_an_error_does_no_harm(connection: RegisteredConnection) -> None:
    for _ in range(2):
        cursor = await connection.execute("SELECT n, repeat('x', 1000) FROM generate_series(1, 20000) n")
        assert [row[0] for row in await cursor.fetchall()] == list(range(1, 20001))
        with pytest.raises(psycopg.errors.DivisionByZero):
            await connection.execute("SELECT 1 / (n - 500) FROM generate_series(1, 1000) n")
        assert await one(connection) == 1


async def test_a_statement_that_does_not_fit_into_the_socket_is_sent_and_the_next_one_answered(
    connection: RegisteredConnection,
) -> None:
    """psycopg registers the socket for it, and takes that back."""
    text = "x" * 30_000_000
    async with asyncio.timeout(30):
        assert await one(connection) == 1
        cursor = await connection.execute("SELECT %s::text", (text,))
        assert await cursor.fetchone() == (text,)
        assert await one(connection) == 1


async def test_who_waits_for_notifications_for_a_while_has_the_next_statement_answered(
    connection: RegisteredConnection,
) -> None:
    async with asyncio.timeout(30):
        assert await one(connection) == 1
        assert [notification async for notification in connection.notifies(timeout=0.05)] == []
        assert await one(connection) == 1


@pytest.mark.parametrize("turns", range(8))
async def test_who_is_cancelled_cancels_the_statement_and_the_connection_goes_on(log_database: str, turns: int) -> None:
    # A server that is told to stop before it has begun a statement goes on with it: psycopg closes the connection then.
    for _ in range(3):
        if await goes_on(log_database, turns):
            return
    pytest.fail("every cancellation closes the connection")


async def goes_on(dsn: str, turns: int) -> bool:
    """Whether a connection answers after a task that asked it was cancelled, after some turns of the loop."""
    async with await RegisteredConnection.connect(dsn, autocommit=True) as connection:
        asking = asyncio.create_task(connection.execute("SELECT pg_sleep(60)" if turns % 2 else "SELECT"))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        async with asyncio.timeout(20):
            await asyncio.wait({asking})
        assert asking.cancelled() or not asking.exception()
        if connection.closed:
            return False
        assert connection.pgconn.transaction_status == TransactionStatus.IDLE
        return await one(connection) == 1


async def test_a_time_limit_ends_a_statement(connection: RegisteredConnection) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await connection.execute("SELECT pg_sleep(60)")
    assert await one(connection) == 1


async def test_a_backend_that_is_ended_between_two_statements_is_an_error_of_the_next_one(
    connection: RegisteredConnection, other: Connection
) -> None:
    await one(connection)
    await other.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
    for _ in range(5):
        await asyncio.sleep(0.01)
    with pytest.raises(psycopg.OperationalError):
        await one(connection)


async def test_a_backend_that_is_ended_during_a_statement_is_an_error_of_it(
    connection: RegisteredConnection, other: Connection
) -> None:
    asking = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
    await asyncio.sleep(0.05)
    await other.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
    async with asyncio.timeout(20):
        with pytest.raises(psycopg.OperationalError):
            await asking


async def test_what_comes_while_nobody_asks_keeps_the_loop_no_busier(
    connection: RegisteredConnection, other: Connection
) -> None:
    """The loop tells of a socket as long as there is something to read; who does not read must not be told."""
    await connection.execute("LISTEN something")
    await other.execute("NOTIFY something")
    while connection._socket is not None:  # noqa: ASYNC110 - until it has been told
        await asyncio.sleep(0.001)
    assert await one(connection) == 1
    assert [notification.channel async for notification in connection.notifies(timeout=5, stop_after=1)] == [
        "something"
    ]


async def test_the_number_of_a_closed_connections_socket_is_free_for_another(
    log_database: str, other: Connection
) -> None:
    """Were it still registered, the loop would never tell of the new one."""
    async with asyncio.timeout(30):
        for ended in (False, True):
            connection = await RegisteredConnection.connect(log_database, autocommit=True)
            await one(connection)
            number = connection.fileno()
            if ended:
                await other.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
                with pytest.raises(psycopg.OperationalError):
                    await one(connection)
            await connection.close()
            read, write = os.pipe()
            os.dup2(read, number)
            told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().add_reader(number, told.set_result, None)
            os.write(write, b"x")
            await told
            asyncio.get_running_loop().remove_reader(number)
            for opened in {read, write, number}:
                os.close(opened)
