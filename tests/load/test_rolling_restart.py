"""Two gateways in front of one database, restarted one after the other under load: nobody notices but by the clock."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from changefeed_client import BEGINNING, ChangeFeedClient, collection, connect
from tests.databases import LOG, PostgresForTests
from tests.load.gateway_process import GatewayProcess
from tests.load.scene import ITEMS
from tests.monitored import until

pytestmark = [pytest.mark.xdist_group("load"), pytest.mark.timeout(120)]


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

    async def read(self, client: ChangeFeedClient) -> None:
        """Read until cancelled."""
        loop = asyncio.get_running_loop()
        heard = loop.time()
        async for delivery in client.tail(collection("main/public.items"), BEGINNING):
            now = loop.time()
            self.longest_silence = max(self.longest_silence, now - heard)
            heard = now
            self.keys += [int(event.key.components[0].value) for event in delivery.events]


@pytest.mark.req("P1", "P4", "BX-2")
async def test_a_rolling_restart_under_load_loses_nothing_and_keeps_nobody_waiting(dsn: str, tmp_path: Path) -> None:
    gateways = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        gateways.append(GatewayProcess(tmp_path / name, dsn))
    written: list[int] = []
    stop = asyncio.Event()

    async def write() -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            while not stop.is_set():
                cursor = await connection.execute("INSERT INTO items DEFAULT VALUES RETURNING id")
                written.extend(row[0] for row in await cursor.fetchall())
                await asyncio.sleep(0.02)

    await asyncio.gather(*(gateway.start() for gateway in gateways))
    consumer = Consumer()
    # As a balancer does: whichever of them takes a connection.
    balanced = "ipv4:" + ",".join(gateway.target for gateway in gateways)
    async with connect(balanced) as client:
        reading, writing = asyncio.create_task(consumer.read(client)), asyncio.create_task(write())
        try:
            await _until_read(consumer, written)
            for gateway in gateways:
                await gateway.stop()
                # By the other one, while this one is down: nobody waits for it.
                await _until_read(consumer, written)
                await gateway.start()
            stop.set()
            await writing
            await _until_read(consumer, written)
        finally:
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
            await asyncio.gather(*(gateway.stop() for gateway in gateways))
    assert list(dict.fromkeys(consumer.keys)) == written
    print(f"{len(written)} changes, longest silence {consumer.longest_silence:.1f} s")


async def _until_read(consumer: Consumer, written: list[int]) -> None:
    """Wait until the consumer has what is written by now."""
    wanted = written[-1] if written else 1

    async def has_read() -> bool:
        return bool(consumer.keys) and consumer.keys[-1] >= wanted

    await until(has_read, 60)
