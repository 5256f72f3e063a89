"""What an operator asks of a database beside migrations."""

from collections.abc import Sequence

import psycopg


class OperationError(Exception):
    """The database refused; the message says why and, where it knows, what to do instead."""


async def watch(
    dsn: str, table: str, *, partition_key: Sequence[str] = (), image: str = "captured", doorbell: str = "notify"
) -> str:
    """Make a feed of a plain table; again without harm. Answers the collection's name. Raises OperationError."""
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            cursor = await connection.execute(
                "SELECT changefeed.watch(%s::regclass, %s::text[], %s, %s)",
                (table, list(partition_key) or None, image, doorbell),
            )
            feed = await cursor.fetchone()
            cursor = await connection.execute("SELECT name FROM changefeed.feeds WHERE feed_id = %s", feed)
            row = await cursor.fetchone()
    except psycopg.Error as error:
        raise refused(error) from error
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
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            rows = await (await connection.execute(statement.encode(), arguments)).fetchall()
    except psycopg.Error as error:
        raise refused(error) from error
    return [str(row[0]) for row in rows]


def refused(error: psycopg.Error) -> OperationError:
    """Say an error of the database in its own words: an operator's commands handle names, not documents."""
    parts = [error.diag.message_primary or str(error).strip()]
    if error.sqlstate in ("3F000", "42883"):
        parts.append("The change log is not installed: run `changefeed migrate`.")
    elif error.diag.message_hint:
        parts.append(error.diag.message_hint)
    return OperationError(". ".join(part.rstrip(".") for part in parts))
