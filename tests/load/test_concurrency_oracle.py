"""Whatever writers do and however often the gateway is killed: every committed change arrives, in one order."""

import asyncio
import random
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest

from changefeed.v1.resource_pb2 import EntireCollection, FeedScope, ResourceAddress
from tests.databases import LOG, PostgresForTests
from tests.load.crew import Crew
from tests.load.gateway_process import GatewayProcess
from tests.load.readers import Reader
from tests.load.writers import SCHEMA, Connection, Writer, audited
from tests.soak import hangs_after, soak_dice, soak_seconds

T = TypeVar("T")

SECONDS = soak_seconds(5)
KILL_AFTER = 1.5, min(6, SECONDS / 2)
"""Seconds that a gateway lives, at least and at most."""
WRITERS = 14
FAR_BEHIND = 5_000
"""Events that the slowest reader of everything has less than the fastest, before writers wait for it."""
PATIENCE = 60
"""Seconds without any event after which something is lost."""
ENTIRE = FeedScope(entire_collection=EntireCollection())
_ACTIVE = "SELECT partition_id, high > low FROM changefeed.partitions WHERE end_tick IS NULL ORDER BY low"
_SPLIT = "SELECT changefeed.split_partition('public.orders', %s)"
_MERGE = "SELECT changefeed.merge_partitions('public.orders', %s, %s)"


def readers(gateway: GatewayProcess) -> list[Reader | Crew]:
    address = ResourceAddress(connection="main", collection="public.orders")
    entire = [Reader(f"pages of {size}", gateway, address, ENTIRE, page_size=size) for size in (1, 7, 50, 1000)]
    entire += [Reader(f"stream {n}", gateway, address, ENTIRE) for n in (1, 2)]
    mine = FeedScope(logical_partition="3")
    return [
        *entire,
        Crew("crew of streams", gateway, address, "0-4095"),
        Crew("crew of pages", gateway, address, "0-4095", page_size=100),
        Reader("writer 3, stream", gateway, address, mine),
        Reader("writer 3, pages", gateway, address, mine, page_size=20),
    ]


async def kill_at_random(gateway: GatewayProcess, dice: random.Random, stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            await asyncio.wait_for(stop.wait(), dice.uniform(*KILL_AFTER))
        except TimeoutError:
            await gateway.kill()
            await gateway.start()


async def reshape_at_random(dsn: str, dice: random.Random, stop: asyncio.Event) -> None:
    """Split partitions and merge neighbours."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        while not stop.is_set():
            rows = await (await connection.execute(_ACTIVE)).fetchall()
            place = dice.randrange(len(rows))
            if place and dice.random() < len(rows) / 8:
                await connection.execute(_MERGE, (rows[place - 1][0], rows[place][0]))
            elif rows[place][1]:
                await connection.execute(_SPLIT, (rows[place][0],))
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), dice.uniform(0.05, 1))


async def write(
    dsn: str, elsewhere: str, all_readers: list[Reader | Crew], dice: random.Random, stop: asyncio.Event
) -> int:
    """Run all writers until the time is over; answers how many transactions committed."""
    streams = all_readers[3:6]
    async with AsyncExitStack() as stack:
        here, auditor, *connections = [
            await stack.enter_async_context(await psycopg.AsyncConnection.connect(dsn, autocommit=True))
            for _ in range(WRITERS + 2)
        ]
        other = await stack.enter_async_context(await psycopg.AsyncConnection.connect(elsewhere, autocommit=True))
        writers = [Writer(c, n, random.Random(dice.random())) for n, c in enumerate(connections, 1)]
        long_one = Writer(here, 99, random.Random(dice.random()))

        def far_behind() -> bool:
            counts = [len(r.events) for r in all_readers if isinstance(r, Crew) or r.scope == ENTIRE]
            return max(counts) - min(counts) > FAR_BEHIND

        async with asyncio.TaskGroup() as group:
            for writer in writers:
                group.create_task(writer.run(stop, far_behind))
            async with other.transaction():
                await other.execute("SELECT pg_current_xact_id()")
                async with here.transaction():
                    await long_one.insert()
                    await _pass(auditor, streams)
                    await asyncio.sleep(SECONDS * 0.4)
                    await long_one.insert()
                await asyncio.sleep(SECONDS * 0.2)
            await asyncio.sleep(SECONDS * 0.4)
            stop.set()
        return sum(writer.commits for writer in writers)


async def _pass(auditor: Connection, streams: list[Reader | Crew]) -> None:
    """Return once each stream has a change that commits from now on, whatever transaction stays open."""
    committed = sum(map(len, (await audited(auditor)).values()))
    for stream in streams:
        await _come(stream, committed + 1)


def check(all_readers: list[Reader | Crew], expected: dict[int, list[tuple[str, str]]]) -> None:
    """Nothing lost, nothing twice, per-row order, exact images, one order for all."""
    readers_alone = [reader for reader in all_readers if isinstance(reader, Reader)]
    entire = [reader for reader in readers_alone if not reader.name.startswith("writer")]
    for reader in entire:
        assert reader.by_key() == expected, reader.name
        assert reader.order == entire[0].order, f"{reader.name} saw another order than {entire[0].name}"
    for crew in all_readers:
        if isinstance(crew, Crew):
            assert crew.by_key() == expected, crew.name
            assert len(crew.workers) > 1
    sparse = [reader for reader in readers_alone if reader.name.startswith("writer")]
    assert sparse[0].order == sparse[1].order
    chosen = set(sparse[0].order)
    assert [event for event in entire[0].order if event in chosen] == sparse[0].order


@pytest.mark.soak
@pytest.mark.xdist_group("load")
@pytest.mark.timeout(hangs_after(SECONDS))
@pytest.mark.req("P1", "P2", "CF-07", "US2.1", "US3.1", "US3.2", "SC-1", "SC-2", "DB-1", "DB-11", "BX-1", "BX-2")
async def test_every_committed_change_arrives_in_one_order(postgres: PostgresForTests, tmp_path: Path) -> None:
    dice = soak_dice()
    dsn, elsewhere = await postgres.fresh(LOG), await postgres.fresh(LOG)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(SCHEMA)
        gateway = GatewayProcess(tmp_path, dsn)
        await gateway.start()
        stop = asyncio.Event()
        all_readers = readers(gateway)
        reading = asyncio.gather(*(reader.run() for reader in all_readers))
        killing = asyncio.gather(kill_at_random(gateway, dice, stop), reshape_at_random(dsn, dice, stop))
        try:
            commits = await _unless_failed(reading, write(dsn, elsewhere, all_readers, dice, stop))
            await killing
            expected = await audited(connection)
            await _unless_failed(reading, _caught_up(all_readers, expected, connection))
        finally:
            reading.cancel()
            killing.cancel()
            await asyncio.gather(reading, killing, return_exceptions=True)
            await gateway.stop()
        check(all_readers, expected)
    assert gateway.starts > 1, "the gateway was never killed"
    print(
        f"{commits} commits, {sum(map(len, expected.values()))} changes, {gateway.starts - 1} kills,"
        f" {sum(r.resumes for r in all_readers)} resumes, {sum(r.repeated for r in all_readers)} events again"
    )


async def _caught_up(
    all_readers: list[Reader | Crew], expected: dict[int, list[tuple[str, str]]], connection: Connection
) -> None:
    total = sum(len(changes) for changes in expected.values())
    logged = await (
        await connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE partition_key = '3') FROM changefeed_log.log_1"
        )
    ).fetchone()
    assert logged is not None
    assert logged[0] == total
    for reader in all_readers:
        owed = logged[1] if reader.name.startswith("writer") else total
        await _come(reader, owed)


async def _come(reader: Reader | Crew, event_count: int) -> None:
    """Wait for events. A busy machine may take long for pages of one change: only what stands still is lost."""
    while (had := len(reader.events)) < event_count:
        async with asyncio.timeout(PATIENCE):
            await reader.wait_for(had + 1)


async def _unless_failed(reading: asyncio.Future[list[None]], work: Coroutine[Any, Any, T]) -> T:
    """Wait for some work; a reader that fails ends the wait with its own error."""
    task = asyncio.create_task(work)
    both: set[asyncio.Future[Any]] = {reading, task}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if reading.done():
        task.cancel()
        await asyncio.wait({task})
        await reading
    return await task
