"""What retention looks at: the days that a feed's log and ticks consist of, by one reading of the database."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

ALWAYS: Final = datetime.min.replace(tzinfo=UTC)
NEVER: Final = datetime.max.replace(tzinfo=UTC)
DAY: Final = timedelta(days=1)


class Part(Enum):
    """Which of a feed's two partitioned tables; the word that its name begins with."""

    TICKS = "tick"
    LOG = "log"


class State(Enum):
    """Where a table stands."""

    ATTACHED = "attached"
    LEAVING = "leaving"
    """A detach was begun and not finished: readers do not see it, its range is not free."""
    DETACHED = "detached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A partition of the log or the ticks: a day, several, or one of the catch-alls, which are open to one side."""

    part: Part
    name: str
    state: State = State.ATTACHED
    marked: bool = True
    """Carries the mark of the feed's epoch: without it a detached table may be anybody's."""
    starts: datetime = ALWAYS
    ends: datetime = NEVER
    bytes: int = 0
    empty: bool = True
    newest: datetime | None = None
    """Time of the newest row of the catch-all of the time to come."""
    first_tick: int | None = None
    last_tick: int | None = None
    next_tick_at: datetime | None = None
    overlaps_until: datetime | None = None
    """The latest time of a tick up to its last one that lies in a later day, because the clock stepped."""
    writers: tuple[str, ...] = ()
    """Open transactions that wrote to it."""
    needed: bool = False
    """Holds a change that the oldest tick to stay does not see; told of those alone that could go."""

    @property
    def future(self) -> bool:
        """Whether it catches what comes after the last day."""
        return self.state is not State.DETACHED and self.ends == NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedDays:
    """What a feed holds, by one reading of the database and its clock."""

    feed_id: int
    name: str
    now: datetime
    retention: timedelta
    newest_tick_at: datetime
    oldest_tick_at: datetime
    days: tuple[Day, ...]
    judged_by: int | None = None
    """The oldest tick to stay, by which days are `needed`."""
    incarnation: str = ""

    @property
    def cutoff(self) -> datetime:
        """Reading from this time on must always be possible."""
        return self.now - self.retention

    @property
    def today(self) -> datetime:
        """Midnight (UTC) before now."""
        return midnight(self.now)

    @property
    def oldest_day(self) -> datetime | None:
        """When the first day begins that has a date; None where only the catch-alls are there."""
        return min((d.starts for d in self.days if d.state is State.ATTACHED and d.starts != ALWAYS), default=None)

    @property
    def overflown(self) -> bool:
        """Whether a catch-all holds rows: no day covers their time."""
        attached = [d for d in self.days if d.state is State.ATTACHED]
        return any(not d.empty for d in attached if d.starts == ALWAYS or d.ends == NEVER)

    @property
    def log_bytes(self) -> int:
        """Size of the log, with what is detached."""
        return sum(d.bytes for d in self.days if d.part is Part.LOG)

    @property
    def tick_bytes(self) -> int:
        """Size of the ticks, with what is detached."""
        return sum(d.bytes for d in self.days if d.part is Part.TICKS)

    def of(self, part: Part, *states: State) -> list[Day]:
        """Days of one part in some states, in the order of time."""
        return sorted((d for d in self.days if d.part is part and d.state in states), key=lambda d: d.starts)


def days_ahead(facts: FeedDays, part: Part) -> int:
    """Whole days after today that have their table."""
    future = next((d for d in facts.of(part, State.ATTACHED, State.LEAVING) if d.future), None)
    attached = facts.of(part, State.ATTACHED)
    end = future.starts if future else max((d.ends for d in attached), default=facts.today)
    return max(0, (end - facts.today).days - 1)


def day_name(part: Part, feed_id: int, starts: datetime, ends: datetime) -> str:
    """Name of a partition: by its day, by the first and the one after the last of several, past or future."""
    parent = f"{part.value}_{feed_id}"
    if starts == ALWAYS:
        return f"{parent}_past"
    if ends == NEVER:
        return f"{parent}_future"
    whole = starts == midnight(starts) and ends - starts == DAY
    return f"{parent}_{_stamp(starts)}" if whole else f"{parent}_{_stamp(starts)}_{_stamp(ends)}"


def _stamp(time: datetime) -> str:
    return f"{time:%Y%m%d}" if time == midnight(time) else f"{time:%Y%m%dt%H%M%S}"


def midnight(time: datetime) -> datetime:
    """The start of a time's day."""
    return time.replace(hour=0, minute=0, second=0, microsecond=0)
