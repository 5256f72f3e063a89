"""Reads what a feed's log and ticks hold."""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from psycopg import sql
from psycopg.rows import class_row

from changefeed_gateway.providers.postgres.connections import Connection
from changefeed_gateway.providers.postgres.errors import OperationError
from changefeed_gateway.providers.postgres.retention.days import ALWAYS, DAY, NEVER, Day, FeedDays, Part, State
from changefeed_gateway.providers.postgres.retention.plan import oldest_to_stay


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    part: str
    name: str
    state: str
    marked: bool
    starts: datetime | None
    ends: datetime | None
    bytes: int
    empty: bool
    newest: datetime | None
    first_tick: int | None
    last_tick: int | None
    next_tick_at: datetime | None
    overlaps_until: datetime | None
    writers: list[str]


_DAYS: Final = """
SELECT part, name, state, marked, starts, ends, bytes, empty, newest, first_tick, last_tick, next_tick_at,
    overlaps_until, writers
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
        marked=row.marked,
        starts=starts,
        ends=ends,
        bytes=row.bytes,
        empty=row.empty,
        newest=row.newest,
        first_tick=row.first_tick,
        last_tick=row.last_tick,
        next_tick_at=row.next_tick_at,
        overlaps_until=row.overlaps_until,
        writers=tuple(row.writers),
    )


_SPAN: Final = re.compile(r"_(\d{8}(?:t\d{6})?)(?:_(\d{8}(?:t\d{6})?))?$")


def _span(name: str) -> tuple[datetime, datetime]:
    """The time that a detached table took, by its name: it has no bounds any more."""
    if (match := _SPAN.search(name)) is None:
        return ALWAYS, NEVER
    try:
        first = _time(match[1])
        return first, _time(match[2]) if match[2] else first + DAY
    except (ValueError, OverflowError):
        return ALWAYS, NEVER  # No calendar has it: not a name that retention gives.


def _time(stamp: str) -> datetime:
    return datetime.strptime(stamp, "%Y%m%dt%H%M%S" if "t" in stamp else "%Y%m%d").replace(tzinfo=UTC)
