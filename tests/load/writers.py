"""Writers of a watched table, and the audit that each transaction keeps of itself."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import psycopg
from psycopg import errors
from psycopg.rows import TupleRow

Connection = psycopg.AsyncConnection[TupleRow]

SCHEMA = """
CREATE TABLE orders (id bigint PRIMARY KEY, writer integer NOT NULL, n bigint NOT NULL, note text);
CREATE TABLE audit (op text NOT NULL, id bigint NOT NULL, n bigint NOT NULL, image text);
CREATE SEQUENCE new_ids;
SELECT changefeed.watch('orders', partition_key => array['writer']);
"""
"""`n` counts the changes of a row, so the audit knows the order in which they committed."""

_INSERT = """
WITH w AS (
    INSERT INTO orders SELECT nextval('new_ids'), %(writer)s, 1, 'new' FROM generate_series(1, %(count)s) RETURNING *)
INSERT INTO audit SELECT 'CREATE', id, n, row_to_json(w)::text FROM w
"""
_UPDATE = """
WITH chosen AS (SELECT id FROM orders ORDER BY hashint8(id # %(salt)s) LIMIT %(count)s),
     w AS (UPDATE orders o SET n = o.n + 1, note = repeat('x', (o.n %% 50)::integer) FROM chosen
           WHERE o.id = chosen.id RETURNING o.*)
INSERT INTO audit SELECT 'UPDATE', id, n, row_to_json(w)::text FROM w
"""
_UPSERT = """
WITH chosen AS (SELECT id, writer FROM orders ORDER BY hashint8(id # %(salt)s) LIMIT 1 FOR UPDATE),
     w AS (
    INSERT INTO orders
    SELECT CASE %(count)s WHEN 1 THEN nextval('new_ids') ELSE id END, writer, 1, 'upserted' FROM chosen
    ON CONFLICT (id) DO UPDATE SET n = orders.n + 1 RETURNING *)
INSERT INTO audit SELECT CASE n WHEN 1 THEN 'CREATE' ELSE 'UPDATE' END, id, n, row_to_json(w)::text FROM w
"""
"""The row is locked first: one that another writer deletes meanwhile would live again and count from 1 anew."""
_DELETE = """
WITH w AS (DELETE FROM orders WHERE id = (SELECT id FROM orders ORDER BY hashint8(id # %(salt)s) LIMIT 1) RETURNING *)
INSERT INTO audit SELECT 'DELETE', id, n + 1, NULL FROM w
"""
_LOCK_ONE = "SELECT id, n FROM orders ORDER BY hashint8(id # %(salt)s) LIMIT 1 FOR UPDATE"
_REKEY = "UPDATE orders SET id = nextval('new_ids'), n = 1 WHERE id = %(id)s"
_AUDIT_NEWEST = "INSERT INTO audit SELECT 'CREATE', id, n, row_to_json(o)::text FROM orders o WHERE id = ANY(%(ids)s)"


class Writer:
    """One connection that runs transactions of every kind until it is told to stop."""

    def __init__(self, connection: Connection, number: int, dice: random.Random) -> None:
        self._connection = connection
        self._number = number
        self._dice = dice
        self.commits = 0

    async def run(self, stop: asyncio.Event, far_behind: Callable[[], bool]) -> None:
        """Write, unless readers are far behind: those of single changes follow at no pace of fourteen writers."""
        while not stop.is_set():
            if not far_behind():
                await self._transaction()
            await asyncio.sleep(self._dice.expovariate(1 / 0.04))

    async def _transaction(self) -> None:
        try:
            async with self._connection.transaction(force_rollback=self._dice.random() < 0.15):
                for _ in range(self._dice.randint(1, 3)):
                    await self._step()
            self.commits += 1
        except (errors.DeadlockDetected, errors.UniqueViolation):
            pass  # the transaction is undone, its audit with it

    async def _step(self) -> None:
        kinds: list[Callable[[], Awaitable[None]]] = [
            *[self._update] * 5,
            *[self.insert] * 2,
            self._copy,
            self._upsert,
            self._delete,
            self._rekey,
            self._savepoint,
        ]
        await self._dice.choice(kinds)()

    async def _run(self, statement: str, **values: object) -> None:
        values = {
            "salt": self._dice.getrandbits(30),
            "writer": self._number,
            "count": self._dice.randint(1, 4),
            **values,
        }
        await self._connection.execute(statement.encode(), values)

    async def insert(self) -> None:
        """Add a few rows."""
        await self._run(_INSERT)

    async def _update(self) -> None:
        await self._run(_UPDATE)

    async def _upsert(self) -> None:
        await self._run(_UPSERT)

    async def _delete(self) -> None:
        await self._run(_DELETE)

    async def _rekey(self) -> None:
        cursor = await self._connection.execute(_LOCK_ONE.encode(), {"salt": self._dice.getrandbits(30)})
        if (row := await cursor.fetchone()) is not None:
            await self._run("INSERT INTO audit VALUES ('DELETE', %(id)s, %(n)s + 1, NULL)", id=row[0], n=row[1])
            await self._run(_REKEY, id=row[0])
            newest = await (await self._connection.execute("SELECT currval('new_ids')")).fetchone()
            assert newest is not None
            await self._run(_AUDIT_NEWEST, ids=[newest[0]])

    async def _copy(self) -> None:
        ids = await (
            await self._connection.execute(
                "SELECT nextval('new_ids') FROM generate_series(1, %s)", [self._dice.randint(1, 9)]
            )
        ).fetchall()
        async with (
            self._connection.cursor() as cursor,
            cursor.copy("COPY orders (id, writer, n, note) FROM STDIN") as copy,
        ):
            for (new_id,) in ids:
                await copy.write_row((new_id, self._number, 1, "copied"))
        await self._run(_AUDIT_NEWEST, ids=[row[0] for row in ids])

    async def _savepoint(self) -> None:
        async with self._connection.transaction(force_rollback=True):
            await self._update()
        async with self._connection.transaction():
            await self._update()


async def audited(connection: Connection) -> dict[int, list[tuple[str, str]]]:
    """For each row, its committed changes in order: kind and image (empty for a delete)."""
    cursor = await connection.execute("SELECT id, op, coalesce(image, '') FROM audit ORDER BY id, n")
    changes: dict[int, list[tuple[str, str]]] = {}
    for row_id, op, image in await cursor.fetchall():
        changes.setdefault(row_id, []).append((op, image))
    return changes
