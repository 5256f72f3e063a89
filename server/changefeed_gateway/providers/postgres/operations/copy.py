"""A copy of a collection in a table of PostgreSQL, and the items of a watched table to compare one with."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from changefeed_gateway.core.errors import Category
from changefeed_gateway.providers.postgres.connections import keep_to_own_names, transport_options
from changefeed_gateway.providers.postgres.errors import OperationError, operation_error

Connection = psycopg.AsyncConnection[TupleRow]

_NO_BOUND: Final = 2**62


_ROWS: Final = "CREATE TABLE {} (key text PRIMARY KEY, item json NOT NULL, round integer NOT NULL)"
_PLACE: Final = "CREATE TABLE {} (source text PRIMARY KEY, token text NOT NULL, round integer NOT NULL)"
_PUT: Final = """
INSERT INTO {} SELECT u.key, u.item::json, %s FROM unnest(%s::text[], %s::text[]) u (key, item)
ON CONFLICT (key) DO UPDATE SET item = excluded.item, round = excluded.round
"""
_BEGIN: Final = "INSERT INTO {0} SELECT %s::text, %s::text, %s::integer WHERE NOT EXISTS (SELECT FROM {0})"
_UNFIT: Final = (
    psycopg.errors.UndefinedColumn,
    psycopg.errors.DatatypeMismatch,
    psycopg.errors.InvalidColumnReference,
    psycopg.errors.SyntaxError,
    psycopg.errors.WrongObjectType,
)
_MOVE: Final = "UPDATE {} SET token = %s, round = %s WHERE source = %s AND token = %s AND round = %s"


class PostgresCopy:
    """A table of key, item and snapshot (`round`), and `<table>_place` beside it; see `cli.mirror.copy`.

    Every method is one transaction. Raises OperationError.
    """

    def __init__(self, dsn: str, table: str, source: str) -> None:
        """`table`: a name with or without its schema; made if it is not there."""
        self._dsn, self._source = dsn, source
        *schema, name = table.split(".")
        self._table, self._place_table = sql.Identifier(*schema, name), sql.Identifier(*schema, f"{name}_place")
        self._connection: Connection | None = None
        self._known: tuple[str, int] | None = None
        """The place as it was asked for, or moved to, last."""

    async def place(self) -> tuple[str, int] | None:
        """The token to go on with, and the number of the snapshot; makes the tables.

        Without a token where rows of that snapshot are there and no place.
        """
        async with self._transaction() as connection:
            is_new = await self._make_tables(connection)
            found = await connection.execute(sql.SQL("SELECT source, token, round FROM {}").format(self._place_table))
            rows = await found.fetchall()
            if not rows:
                self._known = None
                return await self._rows_without_place(connection)
            ((source, token, number),) = rows
            if source != self._source:
                raise _refused(f"the table is a copy of {source}: name another one with --table")
            if is_new:
                raise _refused(
                    f"the copy's table is gone and its place is not: bring {self._table.as_string(connection)} back, or"
                    f" drop {self._place_table.as_string(connection)} to copy anew"
                )
        self._known = token, number
        return self._known

    async def _make_tables(self, connection: Connection) -> bool:
        """Make what is not there; answers whether that was the table of the rows."""
        is_new = await self._make_table(connection, _ROWS, self._table)
        await self._make_table(connection, _PLACE, self._place_table)
        try:
            await connection.execute(sql.SQL(_PUT).format(self._table), (0, [], []))
        except _UNFIT as error:
            name, why = self._table.as_string(connection), error.diag.message_primary
            raise _refused(f"{name} is no table of a copy, {why}: name another one with --table") from error
        return is_new

    async def _make_table(self, connection: Connection, statement: str, table: sql.Identifier) -> bool:
        """Make a table, if it is not there: where somebody else made it, no right to do so is needed."""
        name = table.as_string(connection)
        ((is_there,),) = await (await connection.execute("SELECT to_regclass(%s) IS NOT NULL", (name,))).fetchall()
        if is_there:
            return False
        try:
            await connection.execute(sql.SQL(statement).format(table))
        except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateTable) as error:
            raise _refused("another mirror begins in the table: let only one run") from error
        return True

    async def _rows_without_place(self, connection: Connection) -> tuple[str, int] | None:
        found = await connection.execute(sql.SQL("SELECT max(round) FROM {}").format(self._table))
        ((number,),) = await found.fetchall()
        return None if number is None else ("", number)

    async def take(self, steps: Sequence[tuple[str, str, str]], place: tuple[str, int], *, whole: bool) -> None:
        """Take steps in order (put, remove or clear; key; item); `whole`: drop the rows of earlier snapshots.

        Refuses, and changes nothing, where somebody else has moved the place meanwhile.
        """
        _, number = place
        cleared, last = _settled(steps)
        async with self._transaction() as connection:
            await self._move(connection, place)
            if cleared:
                await connection.execute(sql.SQL("DELETE FROM {}").format(self._table))
            removed = [key for key, item in last.items() if item is None]
            put = {key: item for key, item in last.items() if item is not None}
            await connection.execute(sql.SQL("DELETE FROM {} WHERE key = ANY(%s)").format(self._table), (removed,))
            await connection.execute(sql.SQL(_PUT).format(self._table), (number, list(put), list(put.values())))
            if whole:
                await connection.execute(sql.SQL("DELETE FROM {} WHERE round < %s").format(self._table), (number,))
        self._known = place

    async def _move(self, connection: Connection, place: tuple[str, int]) -> None:
        if self._known is None:
            # Nor beside the place of another source, which may be written at the same time.
            await connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(self._place_table))
            moved = await connection.execute(sql.SQL(_BEGIN).format(self._place_table), (self._source, *place))
        else:
            arguments = (*place, self._source, *self._known)
            moved = await connection.execute(sql.SQL(_MOVE).format(self._place_table), arguments)
        if not moved.rowcount:
            raise _refused("another mirror writes to the table: let only one run")

    async def items(self) -> Mapping[str, str]:
        """All rows."""
        async with self._transaction() as connection:
            found = await connection.execute(sql.SQL("SELECT key, item::text FROM {}").format(self._table))
            return dict(await found.fetchall())

    async def aclose(self) -> None:
        """Close the connection; idempotent."""
        if self._connection is not None:
            await self._connection.close()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        try:
            if self._connection is None:
                options = transport_options(self._dsn, "changefeed-mirror")
                self._connection = await psycopg.AsyncConnection.connect(self._dsn, **options)
            async with self._connection.transaction():
                yield self._connection
        except psycopg.Error as error:
            raise operation_error(error) from error


def _refused(why: str) -> OperationError:
    return OperationError(why, Category.INVALID_REQUEST)


def _settled(steps: Sequence[tuple[str, str, str]]) -> tuple[bool, dict[str, str | None]]:
    """Whether everything goes first, and what of each key is there at the end; None: nothing."""
    cleared, last = False, dict[str, str | None]()
    for kind, key, item in steps:
        if kind == "clear":
            cleared, last = True, {}
        else:
            last[key] = item if kind == "put" else None
    return cleared, last


async def source_items(dsn: str, collection: str) -> dict[str, str]:
    """The items of a feed as they are now, in one statement; keys as JSON arrays of texts. Raises OperationError."""
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await keep_to_own_names(connection)
            feeds = await connection.execute(
                "SELECT feed_id, cardinality(key_columns) FROM changefeed.feeds WHERE name = %s", (collection,)
            )
            row = await feeds.fetchone()
            if row is None:
                raise OperationError(f"there is no feed {collection!r}", Category.NOT_FOUND)
            statement = sql.SQL(
                "SELECT key, image, problem FROM {}(null, %(most)s, %(most)s, %(most)s, null, false)"
                " WHERE wanted OR problem IS NOT NULL"
            )
            found = await connection.execute(
                statement.format(sql.Identifier("changefeed_log", f"items_{row[0]}")), {"most": _NO_BOUND}
            )
            items: dict[str, str] = {}
            async for key, image, problem in found:
                if problem is not None:
                    raise OperationError(f"the items of {collection} cannot be read: {problem}")
                items[_key(key, row[1])] = image
            return items
    except psycopg.Error as error:
        raise operation_error(error) from error


def _key(key: str, columns: int) -> str:
    return json.dumps(json.loads(key) if columns > 1 or key[:1] == "[" else [key], ensure_ascii=False)
