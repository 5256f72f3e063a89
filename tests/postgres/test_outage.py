"""A database that is away: what the log tells, and what a caller is told how soon."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from changefeed_gateway.core.errors import TransientFailure
from changefeed_gateway.core.model import Address
from changefeed_gateway.providers.postgres import outage
from changefeed_gateway.providers.postgres.provider import PostgresOptions, PostgresProvider
from tests.databases import LOG, running_postgres

QUICK = PostgresOptions(
    name="main",
    idle_cadence=timedelta(milliseconds=50),
    check_cadence=timedelta(milliseconds=50),
    retention_interval=timedelta(milliseconds=50),
)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - the log rings no bell
            await asyncio.sleep(0.02)


async def test_an_outage_is_told_when_it_begins_once_a_minute_and_when_it_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(outage, "monotonic", lambda: now[0])
    address = Address(connection="main", database="", collection="documents")
    with capture_logs() as log:

        def told(event: str) -> list[object]:
            return [line for line in log if line["event"] == event]

        async with running_postgres() as server:
            dsn = await server.fresh(LOG)
            provider = PostgresProvider(dsn, QUICK)
            try:
                await provider.start()
                await provider.doorbell.listening.wait()
                log.clear()
                await asyncio.to_thread(server.server.stop)
                await until(lambda: bool(told("the database is away")))
                began = asyncio.get_running_loop().time()
                with pytest.raises(TransientFailure, match="refused the connection"):
                    await provider.open_feed(address)
                # Ten times as long would be the patience of a database that only is slow.
                assert asyncio.get_running_loop().time() - began < 9
                assert len(log) == 1
                now[0] = 61.0
                await until(lambda: bool(told("the database is still away")))
                await asyncio.to_thread(server.server.start)
                await provider.doorbell.listening.wait()
                await until(lambda: bool(told("the database is back")))
            finally:
                await provider.aclose()
    assert [line["event"] for line in log] == [
        "the database is away",
        "the database is still away",
        "the database is back",
    ]
    assert all(line["connection"] == "main" for line in log)
