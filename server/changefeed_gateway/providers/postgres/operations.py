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


def refused(error: psycopg.Error) -> OperationError:
    """Say an error of the database in its own words: an operator's commands handle names, not documents."""
    parts = [error.diag.message_primary or str(error).strip()]
    if error.sqlstate in ("3F000", "42883"):
        parts.append("The change log is not installed: run `changefeed migrate`.")
    elif error.diag.message_hint:
        parts.append(error.diag.message_hint)
    return OperationError(". ".join(part.rstrip(".") for part in parts))
