"""What retention cannot settle by itself, and what an operator does about it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from changefeed_gateway.providers.postgres.retention.days import ALWAYS, Day, FeedDays, Part, State, day_name
from changefeed_gateway.providers.postgres.retention.plan import MARGIN, holes, is_done_with

FAR: Final = timedelta(days=4)
"""A day that is kept for so much longer than the retention asks is an alarm: no run for a weekend is none."""
_LATE_COMMIT: Final = "a transaction that wrote to it committed much later"


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Something that retention leaves as it is, and why."""

    day: str
    reason: str
    remedy: str = ""
    alarm: bool = False
    """An operator should look; otherwise time settles it."""


def obstacles(facts: FeedDays) -> list[Obstacle]:
    """What is not as it should be and is not in the plan, or is in it and still worth an alarm."""
    found: list[Obstacle] = []
    for part in Part:
        for day in facts.of(part, State.ATTACHED):
            if day.starts == ALWAYS and not day.empty:
                found.append(
                    Obstacle(
                        day=day.name,
                        reason=f"holds rows dated before {day.ends:%Y-%m-%d}: the server's clock was behind",
                        remedy="check the clock; they are dropped when no retained position needs them",
                        alarm=True,
                    )
                )
            elif day.future and not day.empty:
                found.append(_overflow(facts, day))
            elif day.ends <= facts.cutoff and day.writers:
                found.append(
                    Obstacle(
                        day=day.name,
                        reason=f"written to by a transaction that is still open: {'; '.join(day.writers)}",
                        remedy="end that transaction",
                        alarm=True,
                    )
                )
            elif not day.empty and day.ends <= facts.cutoff - FAR:
                found.append(_overdue(facts, day))
            elif day.ends <= facts.cutoff and day.needed:
                found.append(Obstacle(day=day.name, reason=_LATE_COMMIT))
        found += [_hole(facts, part, start, end) for start, end in holes(facts, part) if start != ALWAYS]
        for day in facts.of(part, State.DETACHED):
            if not day.marked:
                found.append(
                    Obstacle(
                        day=day.name,
                        reason="is named as a day of this feed and is none: of before a restore, or somebody's own",
                        remedy="drop or rename it; retention leaves it alone",
                        alarm=True,
                    )
                )
            elif not is_done_with(facts, day):
                found.append(
                    Obstacle(
                        day=day.name,
                        reason="detached by hand, with rows that readers may need",
                        remedy="attach it again, or drop it and let its readers begin anew",
                        alarm=True,
                    )
                )
    return found


def _overdue(facts: FeedDays, day: Day) -> Obstacle:
    """An alarm whatever the reason: a retention that has ended is not to be found out by a full disk."""
    remedy = "see that retention runs, and the server's clock"
    if day.needed:
        reason = _LATE_COMMIT
    elif day.last_tick is None:
        reason = "no run has dropped it"
    elif day.next_tick_at is None or day.next_tick_at > facts.cutoff:
        next_at = f"of {day.next_tick_at:%Y-%m-%d %H:%M}" if day.next_tick_at else "yet to be made"
        reason = f"the tick after its last one is {next_at}: it goes when that is as old as the retention"
    elif day.overlaps_until is not None and day.overlaps_until > facts.cutoff:
        reason = f"its ticks and those of {day.overlaps_until:%Y-%m-%d} are mixed, because the clock stepped"
    else:
        reason = "no run has dropped it, or a day that holds ticks of the same numbers cannot go yet"
    kept = (facts.cutoff - day.ends).days
    return Obstacle(day=day.name, reason=f"kept {kept} days longer than asked: {reason}", remedy=remedy, alarm=True)


def _hole(facts: FeedDays, part: Part, start: datetime, end: datetime) -> Obstacle:
    """A catch-all takes what comes before the first day and after the last one, nothing in between."""
    if end > facts.now:
        reason = "missing: writes to the watched table are refused in its time (23514), the overflow does not take them"
        remedy = "run changefeed retention run at once: it makes the day, or attaches it again"
    else:
        reason = "missing: who reads from before it, or in it, is refused (HISTORY_GAP)"
        remedy = (
            "run changefeed retention run, which attaches a day of the log that was only detached; where it was"
            " dropped, its readers start from a snapshot, or from now and read the source after that"
        )
    return Obstacle(day=day_name(part, facts.feed_id, start, end), reason=reason, remedy=remedy, alarm=True)


def _overflow(facts: FeedDays, day: Day) -> Obstacle:
    ahead = (day.newest or facts.now) > facts.now + MARGIN
    return Obstacle(
        day=day.name,
        reason=f"holds rows up to {day.newest:%Y-%m-%d}: " + ("the clock was ahead" if ahead else "days had run out"),
        remedy=f"set the server's clock right, then SELECT changefeed.date_anew({facts.feed_id})"
        if ahead
        else "run changefeed retention run: it becomes a day, and days are made after it",
        alarm=True,
    )
