"""Reads what a feed's log and ticks hold."""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from psycopg import sql
from psycopg.rows import class_row

from changefeed_gateway.providers.postgres.connections import Connection
from changefeed_gateway.providers.postgres.errors import OperationError
from changefeed_gateway.providers.postgres.retention.days import ALWAYS, NEVER, Day, FeedDays, Part, State
from changefeed_gateway.providers.postgres.retention.plan import oldest_to_stay


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    part: str
    name: str
    state: str
    starts: datetime | None
    ends: datetime | None
    bytes: int
    empty: bool
    newest: datetime | None
    first_tick: int | None
    last_tick: int | None
    next_tick_at: datetime | None
    writers: list[str]


_DAYS: Final = """
SELECT part, name, state, starts, ends, bytes, empty, newest, first_tick, last_tick, next_tick_at, writers
FROM changefeed.days(%s)
"""


async def read_days(connection: Connection, feed_id: int) -> FeedDays:
    """What a feed holds now. Raises psycopg.Error."""
    query = sql.SQL(
        "SELECT f.name, f.retention, clock_timestamp(), (SELECT t.at FROM {0} t ORDER BY t.id DESC LIMIT 1),"
        " (SELECT t.at FROM {0} t ORDER BY t.id LIMIT 1)"
        " FROM changefeed.feeds f WHERE f.feed_id = %s"
    ).format(sql.Identifier("changefeed_log", f"tick_{feed_id}"))
    row = await (await connection.execute(query, (feed_id,))).fetchone()
    if row is None:
        raise OperationError(f"the feed {feed_id} is gone")
    name, retention, now, newest, oldest = row
    async with connection.cursor(row_factory=class_row(_Row)) as cursor:
        rows = await (await cursor.execute(_DAYS, (feed_id,))).fetchall()
    facts = FeedDays(
        feed_id=feed_id,
        name=name,
        now=now,
        retention=retention,
        newest_tick_at=newest or now,
        oldest_tick_at=oldest or now,
        days=tuple(map(_to_day, rows)),
    )
    if (tick := oldest_to_stay(facts)) is None:
        raise OperationError(f"the feed {name} has no tick left: drop the feed and watch its table again")
    cursor2 = await connection.execute("SELECT changefeed.days_needed(%s, %s)", (feed_id, tick))
    needed = {day async for (day,) in cursor2}
    return replace(facts, days=tuple(replace(day, needed=day.name in needed) for day in facts.days))


def _to_day(row: _Row) -> Day:
    starts, ends = row.starts or ALWAYS, row.ends or NEVER
    if row.state == State.DETACHED.value:
        starts, ends = _span(row.name)
    return Day(
        part=Part(row.part),
        name=row.name,
        state=State(row.state),
        starts=starts,
        ends=ends,
        bytes=row.bytes,
        empty=row.empty,
        newest=row.newest,
        first_tick=row.first_tick,
        last_tick=row.last_tick,
        next_tick_at=row.next_tick_at,
        writers=tuple(row.writers),
    )


def _span(name: str) -> tuple[datetime, datetime]:
    """The time that a detached table took, by its name: it has no bounds any more."""
    match = re.search(r"_(\d{8})(?:_(\d{8}))?$", name)
    if match is None:
        return ALWAYS, NEVER
    first = datetime.strptime(match[1], "%Y%m%d").replace(tzinfo=UTC)
    last = datetime.strptime(match[2], "%Y%m%d").replace(tzinfo=UTC) if match[2] else first + timedelta(days=1)
    return first, last
