"""Many writers at once on one watched table, who keep the truth in a table of their own."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import psycopg
from psycopg.rows import TupleRow

Connection = psycopg.AsyncConnection[TupleRow]

SPACES = 8
COLLECTION = "public.orders"

_SCHEMA = """
CREATE TABLE orders (id bigserial PRIMARY KEY, space int NOT NULL, version int NOT NULL, note text);
CREATE TABLE truth (id bigint NOT NULL, version int NOT NULL, op text NOT NULL, note text);
SELECT changefeed.watch('orders', partition_key => '{space}');
"""

_INSERT = f"""
WITH done AS (
    INSERT INTO orders (space, version, note) SELECT n %% {SPACES}, 1, %(note)s FROM generate_series(1, %(count)s) n
    RETURNING id, version, note)
INSERT INTO truth SELECT id, version, 'upsert', note FROM done
"""

_UPDATE = """
WITH chosen AS (SELECT id FROM orders WHERE id >= %(low)s ORDER BY id LIMIT %(count)s FOR UPDATE SKIP LOCKED),
     done AS (UPDATE orders o SET version = o.version + 1, note = %(note)s FROM chosen c WHERE o.id = c.id
              RETURNING o.id, o.version, o.note)
INSERT INTO truth SELECT id, version, 'upsert', note FROM done
"""

_DELETE = """
WITH chosen AS (SELECT id FROM orders WHERE id >= %(low)s ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED),
     done AS (DELETE FROM orders o USING chosen c WHERE o.id = c.id RETURNING o.id, o.version)
INSERT INTO truth SELECT id, version + 1, 'delete', null FROM done
"""


async def connect(dsn: str) -> Connection:
    return await psycopg.AsyncConnection.connect(dsn)


async def prepare(dsn: str) -> None:
    """Make the tables and the feed."""
    async with await connect(dsn) as connection:
        await connection.execute(_SCHEMA)


class Writer:
    """Short transactions of every kind, one after the other."""

    def __init__(self, connection: Connection, seed: int) -> None:
        self._connection = connection
        self._random = random.Random(seed)

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._random.choice((self._plain, self._plain, self._aborted, self._savepoint, self._copy))()
            await asyncio.sleep(self._random.choice((0, 0, 0.002)))

    async def _change(self) -> None:
        chance = self._random
        low = chance.randrange(1, 400)
        note = chance.randbytes(chance.choice((1, 20, 100))).hex()
        match chance.randrange(6):
            case 0 | 1:
                await self._connection.execute(_INSERT, {"count": chance.choice((1, 1, 5)), "note": note})
            case 2 | 3 | 4:
                await self._connection.execute(_UPDATE, {"low": low, "count": chance.choice((1, 1, 3)), "note": note})
            case _:
                await self._connection.execute(_DELETE, {"low": low})

    async def _pause(self) -> None:
        await asyncio.sleep(self._random.choice((0, 0, 0.001, 0.01)))

    async def _plain(self) -> None:
        async with self._connection.transaction():
            for _ in range(self._random.randrange(1, 4)):
                await self._change()
                await self._pause()

    async def _aborted(self) -> None:
        async with self._connection.transaction(force_rollback=True):
            await self._change()
            await self._pause()

    async def _savepoint(self) -> None:
        async with self._connection.transaction():
            await self._change()
            async with self._connection.transaction(force_rollback=True):
                await self._change()
            async with self._connection.transaction():
                await self._change()
            await self._pause()

    async def _copy(self) -> None:
        async with self._connection.transaction():
            cursor = await self._connection.execute("SELECT nextval('orders_id_seq') FROM generate_series(1, 3)")
            ids = [number for (number,) in await cursor.fetchall()]
            for table, row in (("orders (id, space, version)", (1, 1)), ("truth (id, version, op)", (1, "upsert"))):
                async with self._connection.cursor().copy(f"COPY {table} FROM STDIN") as copy:
                    for number in ids:
                        await copy.write_row((number, *row))


@asynccontextmanager
async def storm(dsn: str, other_dsn: str, *, writers: int = 12) -> AsyncIterator[None]:
    """Writers at work, one transaction open all the while that has written, and one in another database."""
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(await connect(dsn)) for _ in range(writers)]
        long = await stack.enter_async_context(await connect(dsn))
        elsewhere = await stack.enter_async_context(await connect(other_dsn))
        await elsewhere.execute("SELECT pg_current_xact_id()")
        await long.execute(_INSERT, {"count": 7, "note": "long"})
        stop = asyncio.Event()
        tasks = [asyncio.create_task(Writer(connection, seed).run(stop)) for seed, connection in enumerate(connections)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)
            await long.execute(_UPDATE, {"low": 1, "count": 5, "note": "long"})
            await long.commit()
            await elsewhere.rollback()


async def truth(dsn: str) -> dict[str, list[tuple[str, int]]]:
    """What was committed, by row, in the order of its versions."""
    rows: dict[str, list[tuple[str, int]]] = defaultdict(list)
    async with await connect(dsn) as connection:
        async for number, op, version in await connection.execute(
            "SELECT id::text, op, version FROM truth ORDER BY id, version"
        ):
            rows[number].append((op, version))
    return rows
