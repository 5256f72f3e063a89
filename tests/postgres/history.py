"""Gives a feed a past: days that lie behind it, and changes and ticks of those days."""

from datetime import UTC, datetime, timedelta

from changefeed_gateway.core.model import Cursor
from changefeed_gateway.providers.postgres.cursor import decode_position, encode_position
from tests.postgres.conftest import Connection
from tests.postgres.shop import Shop

DAY = timedelta(days=1)
MARK_PERIOD = timedelta(microseconds=2**32)
"""After this time a position's mark of its tick comes round: about 72 minutes."""
RETAINED = [6, 5, 4, 3, 2, 1]
"""What `grow_old` made less than seven days ago, by the number of days."""


async def grow_old(shop: Shop, *, days: int = 10) -> None:
    """One change and one tick a day, the oldest `days` days ago; change n was made n days ago."""
    await live_since(shop.connection, days + 1)
    for number in range(days, 0, -1):
        await age(shop.connection, DAY)
        await shop.insert(number)
        await shop.tick()
    await age(shop.connection, DAY)


async def live_since(connection: Connection, days: int, feed_id: int = 1, *, ahead: int = 4) -> None:
    """Lay a feed's days out as if it had been made so many days ago; what it holds is kept, where it belongs."""
    async with connection.transaction():
        # A gateway may be at work: nothing is written between the copy and the drop, and both lock in a page's order.
        for parent in (f"log_{feed_id}", f"tick_{feed_id}"):
            await connection.execute(f"LOCK TABLE changefeed_log.{parent} IN ACCESS EXCLUSIVE MODE".encode())
        for parent in (f"tick_{feed_id}", f"log_{feed_id}"):
            table = f"changefeed_log.{parent}"
            await connection.execute(
                f"CREATE TEMP TABLE kept_{parent} ON COMMIT DROP AS SELECT * FROM {table}".encode()
            )
            cursor = await connection.execute(
                "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass", (table,)
            )
            for (name,) in await cursor.fetchall():
                await connection.execute(f"DROP TABLE {name}".encode())
            await connection.execute("SET LOCAL ROLE changefeed_owner")
            await connection.execute(
                "SELECT changefeed.create_days(%s, (now() AT TIME ZONE 'UTC')::date - %s::int, %s)",
                (parent, days, days + ahead),
            )
            await connection.execute("RESET ROLE")
            await connection.execute(f"INSERT INTO {table} SELECT * FROM kept_{parent}".encode())


async def age(connection: Connection, by: timedelta, feed_id: int = 1) -> None:
    """Let all that a feed holds have happened earlier."""
    async with connection.transaction():
        await connection.execute(
            f"UPDATE changefeed_log.tick_{feed_id} SET at = at - %s, reached = reached - %s, day = NULL".encode(),
            (by, by),
        )
        await connection.execute(
            f"UPDATE changefeed_log.log_{feed_id} SET changed_at = changed_at - %s".encode(), (by,)
        )


def aged(cursor: Cursor, by: timedelta) -> Cursor:
    """A position that was written before `age`: as if it had been written that much earlier, its tick's mark too."""
    position, mark = decode_position(cursor)
    return encode_position(position, datetime.fromtimestamp(0, UTC) + timedelta(microseconds=mark) - by)


async def outdate(connection: Connection, feed_id: int) -> timedelta:
    """Let every change that there is have happened so long ago that a retention of seven days drops it.

    Answers how long ago. Ticks that see all of it are of a later day, the last one that can be started from, and
    stay: so does a reader that has read everything. Positions that were written before keep their marks.
    """
    seen = keeping_marks(7 * DAY)
    changed = keeping_marks(seen + DAY)
    await connection.execute("SELECT changefeed.tick(%s)", (feed_id,))
    await live_since(connection, 9, feed_id)
    async with connection.transaction():
        await connection.execute(
            f"UPDATE changefeed_log.tick_{feed_id} t SET at = at - shift, reached = reached - shift, day = NULL FROM ("
            "SELECT u.id, CASE WHEN EXISTS ("
            f"SELECT FROM changefeed_log.log_{feed_id} l WHERE NOT pg_visible_in_snapshot(l.xid, u.snapshot)"
            f") THEN %s ELSE %s END AS shift FROM changefeed_log.tick_{feed_id} u) s WHERE s.id = t.id".encode(),
            (changed, seen),
        )
        await connection.execute(
            f"UPDATE changefeed_log.log_{feed_id} SET changed_at = changed_at - %s".encode(), (changed,)
        )
    return changed


def keeping_marks(at_least: timedelta) -> timedelta:
    """So long or a little longer, so that positions keep the marks of their ticks."""
    return -(-at_least // MARK_PERIOD) * MARK_PERIOD


async def partitions(connection: Connection, parent: str) -> dict[str, str]:
    """Bounds of each attached partition, by name, in the order of their names."""
    cursor = await connection.execute(
        "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = %s::regclass AND NOT i.inhdetachpending ORDER BY c.relname",
        (f"changefeed_log.{parent}",),
    )
    return dict(await cursor.fetchall())
