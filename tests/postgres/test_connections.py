"""The pool of connections under cancellations."""

import asyncio
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import structlog

from changefeed_gateway.core.errors import ProviderFailure, TransientFailure
from changefeed_gateway.providers.postgres import connections as connections_module
from changefeed_gateway.providers.postgres.connections import Connection, Connections
from tests.databases import PostgresForTests


async def test_who_is_cancelled_while_a_connection_comes_does_not_go_on(log_database: str) -> None:
    """At every moment between the connection's return and its use: at some of them the pool loses the cancellation."""
    connections = Connections(log_database, max_size=1)
    await connections.open()
    async with aclosing(connections):
        for moment in range(20):
            await _cancel_at(connections, moment)
        assert await connections.fetch("SELECT 1", {}) == [(1,)]


async def test_every_row_of_an_answer_comes_in_order_however_many_turns_they_are_made_in(log_database: str) -> None:
    connections = Connections(log_database, max_size=1)
    await connections.open()
    async with aclosing(connections):
        for count in (0, 1, 999, 1_000, 1_001, 2_000, 4_500):
            rows = await connections.fetch("SELECT generate_series(1, %(count)s)", {"count": count})
            assert rows == [(number,) for number in range(1, count + 1)]


async def _pids(connections: Connections, count: int) -> set[int]:
    return {pid for _ in range(count) for (pid,) in await connections.fetch("SELECT pg_backend_pid()", {})}


@pytest.mark.req("P8")
async def test_statements_one_after_the_other_take_one_connection_out_of_the_pool(log_database: str) -> None:
    connections = Connections(log_database, max_size=2)
    await connections.open()
    async with aclosing(connections):
        await _pids(connections, 1)
        before = connections.pool_stats()["requests_num"]
        assert len(await _pids(connections, 10)) == 1
        assert connections.pool_stats()["requests_num"] == before


async def test_who_queues_is_given_what_another_has_done_with(log_database: str) -> None:
    connections = Connections(log_database, max_size=1)
    await connections.open()
    async with aclosing(connections), asyncio.timeout(30):
        asking = [connections.fetch("SELECT pg_sleep(0.01)", {}) for _ in range(20)]
        assert len(await asyncio.gather(*asking)) == 20
        assert connections.pool_stats().get("requests_errors", 0) == 0


async def test_who_rests_between_two_tries_is_given_what_another_has_done_with(
    log_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "_FOR_A_CONNECTION", 0.05)
    connections = Connections(log_database, max_size=1, patience=timedelta(seconds=3))
    await connections.open()
    holds, release = asyncio.Event(), asyncio.Event()

    async def hold(_: Connection) -> None:
        holds.set()
        await release.wait()

    async with aclosing(connections), asyncio.timeout(30):
        holding = asyncio.create_task(connections.run(hold))
        await holds.wait()
        asking = asyncio.create_task(connections.fetch("SELECT 1", {}))
        while not connections._queueing:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
        while connections._queueing:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        release.set()
        await holding
        assert await asking == [(1,)]


@pytest.mark.req("P8")
async def test_a_question_goes_back_to_the_session_that_was_asked_before(log_database: str) -> None:
    """Another session would plan its statements anew."""
    connections = Connections(log_database, max_size=2)
    await connections.open()

    both = asyncio.Barrier(2)

    async def meet(connection: Connection) -> Connection:
        await both.wait()
        return connection

    async def stay(connection: Connection) -> Connection:
        return connection

    async with aclosing(connections), asyncio.timeout(30):
        mine, other = await asyncio.gather(connections.run(meet), connections.run(meet))
        assert other is not mine
        taken = connections.pool_stats()["requests_num"]
        for _ in range(3):
            assert await connections.run(stay, like=mine) is mine
            assert await connections.run(stay, like=other) is other
            assert await connections.run(stay) is other, "the one that was used last"
        assert connections.pool_stats()["requests_num"] == taken


async def test_a_connection_goes_back_to_the_pool_before_it_is_old(
    log_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "_AT_HAND_FOR", 0.0)
    connections = Connections(log_database, max_size=1)
    await connections.open()
    async with aclosing(connections):
        await _pids(connections, 5)
        assert connections.pool_stats()["requests_num"] == 5


async def test_a_session_whose_plans_are_of_another_table_is_given_up(log_database: str) -> None:
    connections = Connections(log_database, max_size=1)
    await connections.open()
    async with aclosing(connections), await psycopg.AsyncConnection.connect(log_database, autocommit=True) as owner:
        await owner.execute("CREATE TABLE orders AS SELECT 1 AS id")
        assert await connections.fetch("SELECT * FROM public.orders", {}) == [(1,)]
        await owner.execute("ALTER TABLE orders ADD region text")
        assert await connections.fetch("SELECT * FROM public.orders", {}) == [(1, None)]


@pytest.mark.req("P7")
async def test_a_statement_that_is_refused_for_good_costs_no_session(log_database: str) -> None:
    """It has the SQLSTATE of a plan that is old; a new connection a call would be at the cost of all feeds."""
    connections = Connections(log_database, max_size=1)
    await connections.open()
    async with aclosing(connections):
        before = await _pids(connections, 1)
        with pytest.raises(ProviderFailure):
            await connections.fetch("SELECT count(*) FROM pg_class FOR UPDATE", {})
        assert await _pids(connections, 1) == before


async def test_a_restart_is_not_seen_of_a_connection_at_hand(log_database: str) -> None:
    connections = Connections(log_database, max_size=3)
    await connections.open()
    async with aclosing(connections), asyncio.timeout(30):
        await asyncio.gather(*(connections.fetch("SELECT pg_sleep(0.05)", {}) for _ in range(3)))
        async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as killer:
            await killer.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = 'changefeed-gateway' AND datname = current_database()"
            )
        assert await connections.fetch("SELECT 1", {}) == [(1,)]
        answers = await asyncio.gather(*(connections.fetch("SELECT pg_sleep(0.05)", {}) for _ in range(3)))
        assert len(answers) == 3


async def _cancel_at(connections: Connections, moment: int) -> None:
    held, free, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hold(_: Connection) -> None:
        held.set()
        await free.wait()

    async def ask_until_cancelled() -> None:
        while not ended.is_set():
            await connections.fetch("SELECT", {})

    holding = asyncio.create_task(connections.run(hold))
    await held.wait()
    asking = asyncio.create_task(ask_until_cancelled())
    await asyncio.sleep(0.01)  # it is in the queue by now; were it not, the moment would only be another one
    free.set()
    for _ in range(moment):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking}, timeout=5)
    ended.set()
    await asyncio.wait({holding, asking})
    assert asking.cancelled()


async def test_a_server_that_refuses_is_asked_why_once_for_all_who_wait(
    postgres: PostgresForTests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were each to ask by a connection of its own, a thousand calls would take every place the server has."""
    connections = Connections(postgres.dsn("nowhere"), max_size=1)
    under_way = most = 0
    connect = psycopg.AsyncConnection.connect

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await connect(*args, **options)
        finally:
            under_way -= 1

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", counted)
    await connections.open()
    async with aclosing(connections), asyncio.timeout(60):
        asking = [connections.fetch("SELECT 1", {}) for _ in range(50)]
        answers = await asyncio.gather(*asking, return_exceptions=True)
    assert {getattr(answer, "reason", answer) for answer in answers} == {"DATABASE_NOT_FOUND"}
    assert len({id(answer) for answer in answers}) == 50, "an error for each: their tracebacks stay apart"
    # The pool tries for itself at its own times, and one may be under way beside the one that asks.
    assert most <= 2


async def test_who_waits_for_a_repair_that_is_closed_hears_an_error(
    log_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = Connections(log_database, max_size=1)
    await connections.open()
    sweeping = asyncio.Event()

    async def sweep() -> None:
        sweeping.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(connections._pool, "check", sweep)

    async def lose(_: Connection) -> None:
        raise psycopg.OperationalError("lost")

    losing = [asyncio.create_task(connections.run(lose)) for _ in range(2)]
    async with asyncio.timeout(30):
        await sweeping.wait()
        await connections.aclose()
        for answer in await asyncio.gather(*losing, return_exceptions=True):
            assert isinstance(answer, TransientFailure)


async def test_what_the_pool_does_knows_nothing_of_the_call_that_opened_it(
    log_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, Any]] = []
    connections = Connections(log_database, max_size=2)

    async def configure(_: Connection) -> None:
        found.append(structlog.contextvars.get_contextvars())

    monkeypatch.setattr(connections._pool, "_configure", configure)
    with structlog.contextvars.bound_contextvars(request_id="somebody's"):
        await connections.open()
        async with aclosing(connections):
            await connections.fetch("SELECT 1", {})
    assert found
    assert not any(found)
