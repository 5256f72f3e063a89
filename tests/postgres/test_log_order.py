"""Every committed change once, in one order for every reader, whatever the writers do."""

import asyncio
import itertools
import json
import random
from collections import defaultdict

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from changefeed_gateway.providers.postgres.connections import Connections
from changefeed_gateway.providers.postgres.cursor import Position
from changefeed_gateway.providers.postgres.log.partitions import Buckets, Part
from changefeed_gateway.providers.postgres.log.reading import LogReader
from changefeed_gateway.providers.postgres.statements import Statements
from changefeed_gateway.providers.postgres.ticks.tick import Tick
from changefeed_gateway.providers.postgres.ticks.window import TickWindow

_SECONDS = 3.0
_CHANGES = 1000
_TENANTS = 40
_ROWS = 200


class _Abort(Exception):
    pass


async def _work(connection: psycopg.AsyncConnection, dice: random.Random, writer: int, number: int) -> None:
    some = sorted(dice.sample(range(_ROWS), dice.choice((1, 1, 2, 20))))
    match dice.randrange(8):
        case 0:
            async with connection.cursor().copy("COPY items (id, tenant) FROM STDIN") as copy:
                for row in range(dice.randrange(1, 30)):
                    await copy.write_row((f"{writer}-{number}-{row}", row % _TENANTS))
        case 1:
            await connection.execute(
                "DELETE FROM items WHERE id LIKE %s", (f"{writer}-{dice.randrange(number + 1)}-%",)
            )
        case 2:
            try:
                async with connection.transaction():
                    await connection.execute("UPDATE items SET version = version + 1 WHERE id = %s", (f"r{some[0]}",))
                    raise _Abort
            except _Abort:
                pass
            await connection.execute("UPDATE items SET version = version + 1 WHERE id = %s", (f"r{some[-1]}",))
        case _:
            # In the order of their keys, so that writers wait for each other and never in a circle.
            for row in some:
                await connection.execute("UPDATE items SET version = version + 1 WHERE id = %s", (f"r{row}",))


async def _write(dsn: str, writer: int, stop: asyncio.Event) -> None:
    number, dice = 0, random.Random(writer)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        while not stop.is_set():
            number += 1
            try:
                async with connection.transaction():
                    await _work(connection, dice, writer, number)
                    if dice.random() < 0.1:
                        await asyncio.sleep(dice.random() * 0.05)
                    if dice.random() < 0.15:
                        raise _Abort
            except (_Abort, psycopg.errors.DeadlockDetected):
                pass


async def _long(dsn: str, sql: str, stop: asyncio.Event) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await connection.execute(sql)
        await stop.wait()


async def _tick(dsn: str, feed: int, ended: asyncio.Event, ticks: list[int]) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        while True:
            last = ended.is_set()
            cursor = await connection.execute("SELECT id FROM changefeed.tick(%s)", (feed,))
            row = await cursor.fetchone()
            assert row is not None
            ticks.append(row[0])
            if last:
                return
            await asyncio.sleep(random.uniform(0.002, 0.008))


class _Reader:
    def __init__(self, reader: LogReader, window: TickWindow, size: int, part: Part, start: int) -> None:
        self.reader, self.window, self.size, self.part = reader, window, size, part
        self.position = Position(start)
        self.rows: list[tuple[int, str, str, str, str | None, int]] = []

    async def drain(self) -> None:
        newest: Tick = await self.window.newest()
        self.window.add([newest])
        while self.position < Position(newest.id):
            stretch = await self.reader.read(self.position, newest.id, newest, self.size, self.part)
            assert stretch.end > self.position
            self.position = stretch.end
            for row, tick in zip(stretch.rows, stretch.ticks, strict=True):
                seq, _, _, op, _, partition_key, key, image, *_ = row
                item = None if image is None else image.decode()
                self.rows.append((seq, op.decode(), partition_key.decode(), key.decode(), item, tick))


@pytest.mark.req("P1", "P2", "DB-11")
async def test_readers_see_every_change_once_and_in_one_order(log_database: str) -> None:
    dsn = log_database
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as setup:
        await setup.execute(
            "CREATE TABLE items (id text PRIMARY KEY, tenant int NOT NULL, version int NOT NULL DEFAULT 1)"
        )
        cursor = await setup.execute("SELECT changefeed.watch('items', array['tenant'])")
        row = await cursor.fetchone()
        assert row is not None
        feed = row[0]
        await setup.execute(
            f"INSERT INTO items SELECT 'r' || g, g %% {_TENANTS} FROM generate_series(0, {_ROWS - 1}) g", ()
        )
    connections = Connections(dsn)
    await connections.open()
    statements = Statements.of_feed(feed, None)
    stop, ended, ticks = asyncio.Event(), asyncio.Event(), [0]

    def reader(size: int, part: Part = None, start: int = 1) -> _Reader:
        window = TickWindow(connections, statements)
        return _Reader(LogReader(connections, statements, window), window, size, part, start)

    ranges = [Buckets(0, 255), Buckets(256, 600), Buckets(601, 1700), Buckets(1701, 4095)]
    live = [reader(1), reader(7), reader(50), reader(1000), reader(50, "7"), *(reader(20, part) for part in ranges)]
    try:
        async with asyncio.TaskGroup() as group:
            ticker = group.create_task(_tick(dsn, feed, ended, ticks))
            writers = [group.create_task(_write(dsn, w, stop)) for w in range(12)]
            elsewhere = make_conninfo(dsn, dbname="postgres")
            writers.append(group.create_task(_long(dsn, "INSERT INTO items VALUES ('long', 7)", stop)))
            writers.append(group.create_task(_long(elsewhere, "SELECT pg_current_xact_id()", stop)))
            group.create_task(_end(dsn, feed, stop, ended, writers))
            while not ended.is_set():
                await asyncio.gather(*(r.drain() for r in live[1:]))
            await ticker
            await asyncio.gather(*(r.drain() for r in live))
        late = reader(50, None, ticks[len(ticks) // 2])
        await late.drain()
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as check:
            logged = await (await check.execute(f"SELECT seq FROM changefeed_log.log_{feed}")).fetchall()
            table: dict[str, int] = dict(await (await check.execute("SELECT id, version FROM items")).fetchall())
            buckets = await check.execute(f"SELECT DISTINCT partition_key, bucket FROM changefeed_log.log_{feed}")
            bucket_of: dict[str, int] = dict(await buckets.fetchall())
        assert len(logged) > _CHANGES
        whole = live[3].rows
        seqs = [r[0] for r in whole]
        assert len(seqs) == len(set(seqs))
        assert set(seqs) == {s for (s,) in logged}
        assert [seqs] * 3 == [[r[0] for r in other.rows] for other in live[:3]]
        assert [r[0] for r in live[4].rows] == [r[0] for r in whole if r[2] == "7"]
        for part, found in zip(ranges, live[5:], strict=True):
            expected = [r[0] for r in whole if part.low <= bucket_of[r[2]] <= part.high]
            assert [r[0] for r in found.rows] == expected
        assert [r[0] for r in late.rows] == seqs[len(seqs) - len(late.rows) :]
        assert any(a > b for a, b in itertools.pairwise(seqs)), "the storm never overtook a number"
        _check_rows(whole, table)
    finally:
        await connections.aclose()


async def _end(
    dsn: str, feed: int, stop: asyncio.Event, ended: asyncio.Event, writers: list[asyncio.Task[None]]
) -> None:
    """End the storm after some seconds, but not before it was one: a busy machine writes slowly."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as check:
        logged = 0
        while logged <= _CHANGES:
            await asyncio.sleep(_SECONDS)
            row = await (await check.execute(f"SELECT count(*) FROM changefeed_log.log_{feed}")).fetchone()
            logged = row[0] if row else 0
    stop.set()
    await asyncio.wait(writers)
    ended.set()


def _check_rows(rows: list[tuple[int, str, str, str, str | None, int]], table: dict[str, int]) -> None:
    """Versions of a row count up from 1 without a hole, which is their commit order; the last one is the table's."""
    versions: dict[str, list[int]] = defaultdict(list)
    alive: dict[str, int] = {}
    for _, op, _, key, image, _ in rows:
        if op == "delete":
            del alive[key]
        else:
            assert image is not None
            alive[key] = json.loads(image)["version"]
            versions[key].append(alive[key])
    for key, seen in versions.items():
        assert seen == list(range(1, len(seen) + 1)), key
    assert alive == table
