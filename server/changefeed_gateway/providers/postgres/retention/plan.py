"""What retention does next to a feed: days made ahead, old ones dropped. Pure; `steps` carries it out.

One step is planned from what the database holds, then the next one from what it holds then. So it makes no difference
whether a run goes on or begins after another one died.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from itertools import pairwise
from typing import Final

from changefeed_gateway.providers.postgres.retention.days import (
    ALWAYS,
    DAY,
    NEVER,
    Day,
    FeedDays,
    Part,
    State,
    day_name,
    days_ahead,
    midnight,
)

DAYS_AHEAD: Final = 3
"""Whole days after today that a refill makes."""
REFILL_BELOW: Final = 2
"""Fewer days ahead than this are filled up: every other day."""
MARGIN: Final = timedelta(days=1)
"""With less time before the catch-all it is not taken away, not even for an instant."""
IDLE_TICK: Final = timedelta(hours=1)
"""A feed without a newer tick is given one: the next day to drop needs a tick after it."""


class Action(Enum):
    """What a step does to its days."""

    TICK = "make a tick"
    CREATE = "create and attach"
    ATTACH = "attach"
    DETACH = "detach"
    FINALIZE = "finish the detach of"
    DROP = "drop"
    REPLACE = "turn the catch-all into a day, and create"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step, which the database does whole or, for a detach, in two parts that can be finished later."""

    action: Action
    part: Part
    days: tuple[Day, ...]
    """Of REPLACE: what the catch-all becomes, then those to create."""
    reason: str
    cut: tuple[Day, ...] = ()
    """Of a detach of days of ticks: later days that hold some of the same numbers, which go with them."""

    @property
    def upto(self) -> int:
        """The last tick that a detach of days of ticks takes; 0 when it takes none."""
        return max((day.last_tick or 0 for day in self.days), default=0)


def plan(facts: FeedDays, *, most: int = 1000) -> list[Step]:
    """Every step until nothing is left to do, as far as it can be foreseen."""
    steps: list[Step] = []
    while len(steps) < most and (step := next_step(facts)) is not None:
        steps.append(step)
        facts = after(facts, step)
    return steps


def next_step(facts: FeedDays) -> Step | None:
    """What to do now; None when all is done. Writers first: days before drops, ticks before the log (P6)."""
    for part in Part:
        if (step := _repair(facts, part) or _refill(facts, part)) is not None:
            return step
    if facts.now - facts.newest_tick_at > IDLE_TICK:
        return Step(action=Action.TICK, part=Part.TICKS, days=(), reason="the newest one is older than an hour")
    if (step := _expire_ticks(facts)) is not None:
        return step
    for day in _over(facts, Part.LOG):
        if not day.needed:
            return _detach(day, _ended(facts))
    return next(
        (_detach(past, "empty: it grows to the first day") for part in Part if (past := _short(facts, part))), None
    )


def oldest_to_stay(facts: FeedDays) -> int | None:
    """The tick that is the oldest once every day of ticks that may go is gone; None without any tick."""
    while (step := _expire_ticks(facts)) is not None:
        facts = after(facts, step)
    return _oldest(facts)


def _oldest(facts: FeedDays) -> int | None:
    firsts = [d.first_tick for d in facts.of(Part.TICKS, State.ATTACHED)]
    return min((first for first in firsts if first is not None), default=None)


def _over(facts: FeedDays, part: Part) -> list[Day]:
    """Days whose time is over and that nobody can still write to.

    An empty one only from the beginning on: further in, its time would need another table in its place.
    """
    over, leading = [], True
    for day in facts.of(part, State.ATTACHED):
        leading = leading and day.empty and not day.writers
        if day.ends <= facts.cutoff and not day.writers and (not day.empty or (leading and day.starts != ALWAYS)):
            over.append(day)
    return over


def _expire_ticks(facts: FeedDays) -> Step | None:
    """Only from the oldest tick on, and only with a tick after them from which the retained time can be read.

    Where the clock stepped over midnight, days hold ticks of the same numbers in turn. Those that are over go together,
    with what the others hold of the same numbers: who reads there is told that it expired, not that one is missing.
    """
    over = _over(facts, Part.TICKS)
    for day in over:
        if day.empty:
            return _detach(day, _ended(facts))
    filled = [d for d in facts.of(Part.TICKS, State.ATTACHED) if d.first_tick is not None]
    for day in sorted(filled, key=_last):
        if day not in over or not _readable_after(facts, day) or _last(day) == max(map(_last, filled)):
            continue
        begun = [d for d in filled if (d.first_tick or 0) <= _last(day)]
        if all(d in over and _last(d) <= _last(day) for d in begun if d.ends <= facts.cutoff):
            going = tuple(d for d in begun if d in over)
            cut = tuple(d for d in begun if d not in over)
            return Step(action=Action.DETACH, part=Part.TICKS, days=going, reason=_ended(facts), cut=cut)
    return None


def _readable_after(facts: FeedDays, day: Day) -> bool:
    """Whether the retained time can be read from a tick after a day's last one, and from none up to it."""
    following, overlap = day.next_tick_at, day.overlaps_until
    return following is not None and following <= facts.cutoff and (overlap is None or overlap <= facts.cutoff)


def _last(day: Day) -> int:
    return day.last_tick or 0


def _ended(facts: FeedDays) -> str:
    return f"ended before {facts.cutoff:%Y-%m-%d %H:%M}"


def _repair(facts: FeedDays, part: Part) -> Step | None:
    """Finish what was begun, and leave no time without a table that takes its rows."""
    for day in facts.of(part, State.LEAVING):
        return Step(action=Action.FINALIZE, part=part, days=(day,), reason="an earlier run did not finish it")
    gaps = _gaps(facts, part)
    for day in facts.of(part, State.DETACHED):
        if not day.marked:
            continue
        if is_done_with(facts, day):
            return Step(action=Action.DROP, part=part, days=(day,), reason="detached, and nobody needs it")
        if part is Part.LOG and any(start <= day.starts and day.ends <= end for start, end in gaps):
            return Step(action=Action.ATTACH, part=part, days=(day,), reason="detached, with changes not yet expired")
    for start, end in holes(facts, part) + [gap for gap in gaps if gap[1] == NEVER]:
        # An empty day in place of a lost one would hide the loss: its readers are told as long as there is none.
        lost = part is Part.LOG and start != ALWAYS and end > facts.cutoff
        if (first := max(start, facts.today) if lost else start) < end:
            days = _new_days(facts, part, first, end)
            return Step(action=Action.CREATE, part=part, days=days, reason="no table takes this time")
    return None


def holes(facts: FeedDays, part: Part) -> list[tuple[datetime, datetime]]:
    """Times before the last table that none takes, in order; without the past that its catch-all grows over."""
    past = _short(facts, part)
    return [
        (start, end)
        for start, end in _gaps(facts, part)
        if end != NEVER and (past is None or past.ends != start or end > facts.now)
    ]


def _short(facts: FeedDays, part: Part) -> Day | None:
    """The catch-all of the past, where days after it were dropped and it can grow because it is empty."""
    past, following = [*facts.of(part, State.ATTACHED), None, None][:2]
    if past is None or following is None or past.starts != ALWAYS or past.writers or not past.empty:
        return None
    return past if past.ends < following.starts else None


def is_done_with(facts: FeedDays, day: Day) -> bool:
    """Whether a detached table can be dropped: what was detached on purpose could be dropped then."""
    if day.empty or day.part is Part.LOG:
        return day.empty or not day.needed
    oldest = _oldest(facts)
    return day.last_tick is not None and oldest is not None and day.last_tick < oldest


def _refill(facts: FeedDays, part: Part) -> Step | None:
    future = next((d for d in facts.of(part, State.ATTACHED) if d.future), None)
    if future is None or days_ahead(facts, part) >= REFILL_BELOW:
        return None
    if future.empty and not future.writers and future.starts - facts.now >= MARGIN:
        return _detach(future, f"empty: {days_ahead(facts, part)} days are left before it")
    newest = future.newest or facts.now
    if newest > facts.now + MARGIN:
        return None
    end = max(facts.today, midnight(newest), future.starts) + DAY
    became = replace(future, name=day_name(part, facts.feed_id, future.starts, end), ends=end)
    created = _new_days(facts, part, end, NEVER)
    return Step(action=Action.REPLACE, part=part, days=(became, *created), reason="the days have run out")


def after(facts: FeedDays, step: Step) -> FeedDays:
    """What a feed holds when a step is done, as far as it can be foreseen."""
    names = {day.name for day in step.days}
    others = tuple(day for day in facts.days if day.name not in names)
    match step.action:
        case Action.DROP:
            return replace(facts, days=others)
        case Action.DETACH | Action.FINALIZE:
            changed = tuple(replace(day, state=State.DETACHED) for day in step.days)
            cut = {day.name for day in step.cut}
            others = tuple(_without(day, step.upto) if day.name in cut else day for day in others)
            return replace(facts, days=(*others, *changed))
        case Action.CREATE | Action.ATTACH:
            changed = tuple(replace(day, state=State.ATTACHED) for day in step.days)
            return replace(facts, days=(*others, *changed))
        case Action.REPLACE:
            others = tuple(d for d in others if not (d.part is step.part and d.future))
            return replace(facts, days=(*others, *step.days))
        case Action.TICK:
            return replace(facts, newest_tick_at=facts.now)


def _without(day: Day, upto: int) -> Day:
    """A day of ticks without those up to one."""
    if _last(day) <= upto:
        return replace(day, first_tick=None, last_tick=None, empty=True)
    return replace(day, first_tick=upto + 1)


def _detach(day: Day, reason: str) -> Step:
    return Step(action=Action.DETACH, part=day.part, days=(day,), reason=reason)


def _gaps(facts: FeedDays, part: Part) -> list[tuple[datetime, datetime]]:
    """Times that no attached table takes, in order."""
    gaps, until = [], ALWAYS
    for day in facts.of(part, State.ATTACHED):
        if day.starts > until:
            gaps.append((until, day.starts))
        until = max(until, day.ends)
    return [*gaps, (until, NEVER)] if until < NEVER else gaps


def _new_days(facts: FeedDays, part: Part, start: datetime, end: datetime) -> tuple[Day, ...]:
    edges: Sequence[datetime] = (start, end)
    if end == NEVER:
        first = facts.today if start == ALWAYS else start
        last = facts.today + (DAYS_AHEAD + 1) * DAY
        midnights = [facts.today + n * DAY for n in range(DAYS_AHEAD + 2)]
        inner = [first, *(m for m in midnights if first < m <= last)]
        edges = [*([ALWAYS] if start == ALWAYS else []), *inner, NEVER]
    return tuple(Day(part=part, name=day_name(part, facts.feed_id, a, b), starts=a, ends=b) for a, b in pairwise(edges))
