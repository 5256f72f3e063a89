"""Two gateways in front of one database, one of them of two processes, restarted one after the other under load: nobody
notices but by the clock."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import psycopg
import pytest

from changefeed_client import BEGINNING, collection, connect
from tests.databases import LOG, PostgresForTests
from tests.load.gateway_process import GatewayProcess
from tests.load.scene import ITEMS
from tests.monitored import until

pytestmark = [pytest.mark.xdist_group("load"), pytest.mark.timeout(240)]


@pytest.fixture
async def dsn(postgres: PostgresForTests) -> AsyncIterator[str]:
    dsn = await postgres.fresh(LOG)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(ITEMS.encode())
    yield dsn
    await postgres.drop(dsn)


class Consumer:
    """Reads everything, and notes how long it heard nothing."""

    def __init__(self) -> None:
        self.keys: list[int] = []
        self.longest_silence = 0.0

    async def read(self, target: str) -> None:
        """Read until cancelled, on a connection of its own."""
        loop = asyncio.get_running_loop()
        heard = loop.time()
        async with connect(target) as client:
            async for delivery in client.tail(collection("main/public.items"), BEGINNING):
                now = loop.time()
                self.longest_silence = max(self.longest_silence, now - heard)
                heard = now
                self.keys += [int(event.key.components[0].value) for event in delivery.events]


CONSUMERS = 4


@pytest.mark.req("P1", "P4", "BX-2")
async def test_a_rolling_restart_under_load_loses_nothing_and_keeps_nobody_waiting(
    dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "changefeed_client")
    gateways = []
    for workers in (1, 2):
        directory = tmp_path / str(workers)
        directory.mkdir()
        gateways.append(GatewayProcess(directory, dsn, settings={"workers": workers}))
    written: list[int] = []
    stop = asyncio.Event()

    async def write() -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            while not stop.is_set():
                cursor = await connection.execute("INSERT INTO items DEFAULT VALUES RETURNING id")
                written.extend(row[0] for row in await cursor.fetchall())
                await asyncio.sleep(0.02)

    consumers = [Consumer() for _ in range(CONSUMERS)]
    # As a balancer does: whichever of them takes a connection.
    balanced = "ipv4:" + ",".join(gateway.target for gateway in gateways)
    tasks: list[asyncio.Task[None]] = []
    try:
        await asyncio.gather(*(gateway.start() for gateway in gateways))
        tasks += [asyncio.create_task(work) for work in (write(), *(each.read(balanced) for each in consumers))]
        writing = tasks[0]
        await _until_read(consumers, written)
        for gateway in gateways:
            await gateway.stop()
            # By the other one, while this one is down: nobody waits for it.
            await _until_read(consumers, written)
            await gateway.start()
        stop.set()
        await writing
        await _until_read(consumers, written)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(gateway.stop() for gateway in gateways))
    for consumer in consumers:
        assert list(dict.fromkeys(consumer.keys)) == written
    # Who is asked to reconnect does so after the time it was told (reconnect_after), and is served at its first try.
    interruptions = [record.getMessage() for record in caplog.records if "interrupted" in record.getMessage()]
    assert len(interruptions) >= CONSUMERS
    assert [said for said in interruptions if not said.endswith("closed by the gateway: CLOSING_REASON_DRAINING")] == []
    silence = max(consumer.longest_silence for consumer in consumers)
    print(f"{len(written)} changes, {len(interruptions)} interruptions, longest silence {silence:.1f} s")


async def _until_read(consumers: Sequence[Consumer], written: list[int]) -> None:
    """Wait until each consumer has what is written by now."""
    wanted = written[-1] if written else 1

    async def have_read() -> bool:
        return all(consumer.keys and consumer.keys[-1] >= wanted for consumer in consumers)

    await until(have_read, 60)
