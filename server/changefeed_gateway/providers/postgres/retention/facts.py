"""Reads what a feed's log and ticks hold."""

import re
from collections.abc import Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from psycopg import sql
from psycopg.rows import class_row

from changefeed_gateway.providers.postgres.connections import Connection
from changefeed_gateway.providers.postgres.errors import OperationError
from changefeed_gateway.providers.postgres.retention.days import ALWAYS, DAY, NEVER, Day, FeedDays, Part, State
from changefeed_gateway.providers.postgres.retention.plan import Step, oldest_to_stay


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
FROM changefeed.days(%s, %s)
"""


async def read_days(connection: Connection, feed_id: int) -> FeedDays:
    """What a feed holds now. Raises psycopg.Error, and OperationError for one that is gone or has no tick."""
    query = sql.SQL(
        "SELECT f.name, f.incarnation::text, f.retention, clock_timestamp(),"
        " (SELECT t.at FROM {0} t ORDER BY t.id DESC LIMIT 1), (SELECT t.at FROM {0} t ORDER BY t.id LIMIT 1)"
        " FROM changefeed.feeds f WHERE f.feed_id = %s"
    ).format(sql.Identifier("changefeed_log", f"tick_{feed_id}"))
    row = await (await connection.execute(query, (feed_id,))).fetchone()
    if row is None:
        raise OperationError(f"the feed {feed_id} is gone")
    name, incarnation, retention, now, newest, oldest = row
    facts = FeedDays(
        feed_id=feed_id,
        name=name,
        incarnation=incarnation,
        now=now,
        retention=retention,
        newest_tick_at=newest or now,
        oldest_tick_at=oldest or now,
        days=await _read(connection, feed_id, None),
    )
    return await _judged(connection, facts, None)


async def read_after(connection: Connection, facts: FeedDays, step: Step) -> FeedDays:
    """What a feed holds after a step: the step's own days are read anew. Raises as `read_days`.

    The others are as before: nobody else makes, detaches or drops any meanwhile, and whatever was written to one since
    is found when its own turn has come and it has been detached, before it is dropped.
    """
    cursor = await connection.execute(
        "SELECT FROM changefeed.feeds WHERE feed_id = %s AND incarnation::text = %s", (facts.feed_id, facts.incarnation)
    )
    if not step.days or step.cut or await cursor.fetchone() is None:
        # What a tick, or ticks that are gone, change is told by other days; after a restore all is another history's.
        return await read_days(connection, facts.feed_id)
    names = {day.name for day in step.days}
    others = tuple(day for day in facts.days if day.name not in names)
    facts = replace(facts, days=(*others, *await _read(connection, facts.feed_id, names)))
    return await _judged(connection, facts, names)


async def _read(connection: Connection, feed_id: int, names: Set[str] | None) -> tuple[Day, ...]:
    async with connection.cursor(row_factory=class_row(_Row)) as cursor:
        rows = await (await cursor.execute(_DAYS, (feed_id, None if names is None else list(names)))).fetchall()
    return tuple(map(_to_day, rows))


async def _judged(connection: Connection, facts: FeedDays, names: Set[str] | None) -> FeedDays:
    """With whether the days that may go are needed: all, or those of some names while the oldest tick is the same."""
    if (tick := oldest_to_stay(facts)) is None:
        raise OperationError(f"the feed {facts.name} has no tick left: drop the feed and watch its table again")
    asked = {day.name for day in facts.days if day.state is not State.ATTACHED or day.ends <= facts.cutoff}
    if names is not None and tick == facts.judged_by:
        asked &= names
    needed: set[str] = set()
    if asked:
        cursor = await connection.execute(
            "SELECT changefeed.days_needed(%s, %s, %s)", (facts.feed_id, tick, list(asked))
        )
        needed = {day async for (day,) in cursor}
    days = (replace(day, needed=day.name in needed) if day.name in asked else day for day in facts.days)
    return replace(facts, days=tuple(days), judged_by=tick)


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
