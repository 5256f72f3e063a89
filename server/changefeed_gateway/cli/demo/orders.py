"""A watched table beside the documents: its log keeps each row as the change left it."""

import asyncio
import random
from collections.abc import Iterable
from typing import Final

import psycopg

from changefeed.v1.change_event_pb2 import ChangeEvent

TABLE: Final = "demo.orders"
_ITEMS: Final = ("binder", "lamp", "notebook", "pencil", "stapler")
_PAUSE_SECONDS: Final = 0.25
_KEPT: Final = 50

_dice: Final = random.Random()  # noqa: S311 - no secret is made of it


class OrdersTable:
    """Writes orders, one statement a transaction, and counts what of them arrives."""

    def __init__(self) -> None:
        self.committed = 0
        self.received: set[str] = set()
        """Event ids: after a reconnect a change may come again."""

    async def prepare(self, dsn: str) -> None:
        """Make the table, if there is none."""
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute("CREATE SCHEMA IF NOT EXISTS demo")
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS demo.orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
                " item text NOT NULL, amount int NOT NULL, paid boolean NOT NULL DEFAULT false)"
            )

    def take(self, events: Iterable[ChangeEvent]) -> None:
        """Count what arrived."""
        self.received.update(event.event_id for event in events)

    async def write(self, connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        """Place an order, pay one, or remove an old one."""
        for statement, arguments in (
            ("INSERT INTO demo.orders (item, amount) VALUES (%s, %s)", (_dice.choice(_ITEMS), _dice.randint(1, 9))),
            (
                "UPDATE demo.orders SET paid = true WHERE id ="
                " (SELECT id FROM demo.orders WHERE NOT paid ORDER BY random() LIMIT 1)",
                (),
            ),
            (
                "DELETE FROM demo.orders WHERE id = (SELECT min(id) FROM demo.orders HAVING count(*) > %s)",
                (_KEPT,),
            ),
        ):
            cursor = await connection.execute(statement.encode(), arguments)
            self.committed += cursor.rowcount
            await asyncio.sleep(_PAUSE_SECONDS * _dice.random())
