"""What an operator asks of a database beside migrations."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypedDict, Unpack

import psycopg
from psycopg.rows import TupleRow, class_row

from changefeed_gateway.core.errors import Category
from changefeed_gateway.providers.postgres.connections import keep_to_own_names
from changefeed_gateway.providers.postgres.errors import OperationError, operation_error


class WatchOptions(TypedDict, total=False):
    """Options of `changefeed.watch`; what is left out is the default there."""

    key: Sequence[str]
    partition_key: Sequence[str]
    image: str
    """captured or none"""
    image_columns: Sequence[str]
    doorbell: str
    """notify or poll"""
    always: bool
    """Also what is written as a replica."""
    retention: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedState:
    """One row of `changefeed.feed_states()`; `source` is None for a feed of several tables, or of one that is gone."""

    name: str
    source: str | None
    key: list[str]
    partition_key: list[str]
    image: str
    image_columns: list[str] | None
    doorbell: str
    capture: str
    always: bool
    retention: timedelta
    state: str
    problem: str | None
    remedy: str | None


_WATCH: Final = """
SELECT changefeed.watch(%(table)s::oid::regclass, key => %(key)s::text[], partition_key => %(partition_key)s::text[],
    image => %(image)s, image_columns => %(image_columns)s::text[], doorbell => %(doorbell)s, always => %(always)s,
    retention => %(retention)s)
"""

_FEED_STATES: Final = """
SELECT name, source, key, partition_key, image, image_columns, doorbell, capture, always, retention,
       state, problem, remedy
FROM changefeed.feed_states()
"""

# By the feed's name also where its table is gone.
_UNWATCH: Final = """
WITH feed AS (
    SELECT feed_id, name FROM changefeed.feeds WHERE name = %(name)s::text OR source = %(table)s::oid
    ORDER BY name = %(name)s::text DESC LIMIT 1)
SELECT name, changefeed.drop_feed(feed_id) FROM feed
"""


async def watch(dsn: str, table: str, **options: Unpack[WatchOptions]) -> str:
    """Make a feed of a table; again without harm. Answers the collection's name. Raises OperationError."""
    arguments = {
        "key": list(options.get("key", ())) or None,
        "partition_key": list(options.get("partition_key", ())) or None,
        "image": options.get("image", "captured"),
        "image_columns": list(options.get("image_columns", ())) or None,
        "doorbell": options.get("doorbell", "notify"),
        "always": options.get("always", False),
        "retention": options.get("retention"),
    }
    async with _connected(dsn) as connection:
        # As the session of who asks finds it, and nothing else of that session's names.
        found = await (await connection.execute("SELECT %s::regclass::oid", (table,))).fetchone()
        await keep_to_own_names(connection)
        feed = await (await connection.execute(_WATCH, {"table": found and found[0], **arguments})).fetchone()
        cursor = await connection.execute("SELECT name FROM changefeed.feeds WHERE feed_id = %s", feed)
        row = await cursor.fetchone()
    if row is None:
        raise OperationError(f"{table} was not made a feed")
    return str(row[0])


async def split_partition(dsn: str, feed: str, partition_id: str, first_bucket: int | None = None) -> list[str]:
    """Retire a physical partition for two; the upper one begins with `first_bucket` (default: the middle).

    Answers the ids of the new ones. Raises OperationError.
    """
    return await _replace_partitions(
        dsn, "SELECT partition_id FROM changefeed.split_partition(%s, %s, %s::int)", (feed, partition_id, first_bucket)
    )


async def merge_partitions(dsn: str, feed: str, first_id: str, second_id: str) -> list[str]:
    """Retire two neighbouring physical partitions for one; answers its id. Raises OperationError."""
    return await _replace_partitions(
        dsn, "SELECT partition_id FROM changefeed.merge_partitions(%s, %s, %s)", (feed, first_id, second_id)
    )


async def _replace_partitions(dsn: str, statement: str, arguments: Sequence[object]) -> list[str]:
    async with _connected(dsn) as connection:
        await keep_to_own_names(connection)
        async with connection.transaction():
            rows = await (await connection.execute(statement.encode(), arguments)).fetchall()
    return [str(row[0]) for row in rows]


async def unwatch(dsn: str, table: str) -> str:
    """End the feed of a table, or a feed whose table is gone; answers its name. Raises OperationError."""
    async with _connected(dsn) as connection:
        found = await (await connection.execute("SELECT to_regclass(%s)::oid", (table,))).fetchone()
        await keep_to_own_names(connection)
        arguments = {"name": table, "table": found and found[0]}
        row = await (await connection.execute(_UNWATCH, arguments)).fetchone()
    if row is None:
        raise OperationError(f"{table} is not watched. `changefeed feeds` lists what is", Category.NOT_FOUND)
    return str(row[0])


async def feed_states(dsn: str) -> list[FeedState]:
    """Every feed, by name. Raises OperationError."""
    async with _connected(dsn) as connection:
        await keep_to_own_names(connection)
        cursor = connection.cursor(row_factory=class_row(FeedState))
        return await (await cursor.execute(_FEED_STATES)).fetchall()


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[psycopg.AsyncConnection[TupleRow]]:
    """A connection in autocommit; what the database refuses becomes OperationError."""
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            # Of its transactions, whatever the database's default is: a tick needs it.
            await connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
            yield connection
    except psycopg.Error as error:
        raise operation_error(error) from error
