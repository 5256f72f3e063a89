"""Whatever a feed's tables and its clock: retention drops no retained history and leaves no time uncovered."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from changefeed_gateway.providers.postgres.retention.days import (
    ALWAYS,
    NEVER,
    Day,
    FeedDays,
    Part,
    State,
    day_name,
    days_ahead,
)
from changefeed_gateway.providers.postgres.retention.plan import Action, after, next_step, oldest_to_stay

DAY = timedelta(days=1)
BASE = datetime(2026, 6, 1, tzinfo=UTC)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[FeedDays, list[tuple[int, datetime]]]:
    """A feed in any state, and its ticks: id and time, which steps back at times."""
    now = BASE + timedelta(hours=draw(st.integers(0, 24 * 40)))
    times = draw(st.lists(st.integers(-24 * 10, 24 * 42), min_size=1, max_size=12))
    if draw(st.booleans()):
        times.sort()
    ticks = [(n, BASE + timedelta(hours=hours)) for n, hours in enumerate(times, 1)]
    days: list[Day] = []
    for part in Part:
        edges = sorted(draw(st.sets(st.integers(0, 40), min_size=1, max_size=14)))
        bounds = [ALWAYS, *(BASE + edge * DAY for edge in edges), NEVER]
        leaving = draw(st.sampled_from([None, *range(len(bounds))]))
        for number, (starts, ends) in enumerate(pairwise(bounds)):
            state = State.LEAVING if number == leaving else draw(st.sampled_from([State.ATTACHED] * 5 + [None]))
            if state is None:
                continue
            held = [(n, at) for n, at in ticks if starts <= at < ends] if part is Part.TICKS else []
            filled = draw(st.booleans()) if part is Part.LOG else bool(held)
            if part is Part.TICKS and state is State.LEAVING and held:
                continue  # only what nobody needs is ever detached; ticks that are gone are gone
            last = held[-1][0] if held else None
            days.append(
                Day(
                    part=part,
                    name=day_name(part, 1, starts, ends),
                    state=state,
                    starts=starts,
                    ends=ends,
                    empty=not filled,
                    newest=max((at for _, at in held), default=None),
                    first_tick=held[0][0] if held else None,
                    last_tick=last,
                    writers=draw(st.sampled_from([(), (), (), ("pid 1",)])),
                    needed=part is Part.LOG and filled and draw(st.booleans()),
                )
            )
    kept = {n for d in days if d.part is Part.TICKS and d.first_tick for n, at in ticks if d.starts <= at < d.ends}
    assume(kept)
    ticks = [(n, at) for n, at in ticks if n in kept]
    days = [with_neighbours(day, ticks, now) for day in days]
    facts = FeedDays(
        feed_id=1,
        name="f",
        now=now,
        retention=draw(st.integers(1, 20)) * DAY,
        newest_tick_at=ticks[-1][1],
        oldest_tick_at=ticks[0][1],
        days=tuple(days),
    )
    return facts, ticks


def with_neighbours(day: Day, ticks: list[tuple[int, datetime]], now: datetime) -> Day:
    """With what the database tells of a day's ticks among the others."""
    if (last := day.last_tick) is None:
        return day
    return replace(
        day,
        next_tick_at=next((at for n, at in ticks if n > last and at <= now), None),
        overlaps_until=max((at for n, at in ticks if n <= last and day.ends <= at <= now), default=None),
    )


@given(worlds())
def test_a_plan_ends_covers_all_time_and_drops_nothing_that_is_retained(
    world: tuple[FeedDays, list[tuple[int, datetime]]],
) -> None:
    facts, ticks = world
    stays = oldest_to_stay(facts)
    # A read from the beginning of the retained time starts at the last tick before the first one after it.
    later = [n for n, at in ticks if facts.cutoff < at <= facts.now]
    start = max((n for n, _ in ticks if not later or n < min(later)), default=None)
    leaving = {d.name for d in facts.days if d.state is State.LEAVING}
    for _ in range(200):
        step = next_step(facts)
        if step is None:
            break
        for day in step.days:
            if step.action in (Action.DETACH, Action.DROP) and not day.empty:
                assert day.name in leaving or day.ends <= facts.cutoff
                assert not day.needed
                if day.part is Part.TICKS and start is not None and day.last_tick is not None:
                    assert day.last_tick < start
                    assert day.name in leaving or step.upto < start
            if step.action is Action.DETACH:
                assert not day.writers
            if step.action is Action.DETACH and day.part is Part.LOG and not day.empty:
                assert oldest_to_stay(facts) == stays, "the ticks before were dropped first"
        facts = after(facts, step)
    assert next_step(facts) is None, "the plan has an end"
    for part in Part:
        attached = facts.of(part, State.ATTACHED)
        assert (attached[0].starts, attached[-1].ends) == (ALWAYS, NEVER)
        future = attached[-1]
        if future.empty and not future.writers:
            assert days_ahead(facts, part) >= 2
        for one, other in pairwise(attached):
            lost = part is Part.LOG and facts.cutoff < other.starts <= facts.today
            assert one.ends == other.starts or (one.ends < other.starts and lost), "what is lost is not papered over"
        assert not facts.of(part, State.LEAVING)


@settings(deadline=None)
@given(
    st.dictionaries(st.integers(1, 12), st.integers(-15, 15), max_size=6),
    st.sampled_from(["milliseconds", "hours", "days"]),
    st.integers(1, 4),
)
def test_a_clock_that_steps_never_ends_retention(jumps: dict[int, int], unit: str, retention: int) -> None:
    """A tick every 8 hours, some at midnight by a wrong clock: long after the last one no day is kept longer."""
    ticks: list[tuple[int, datetime]] = []
    for hours in range(0, 24 * 35, 8):
        day, hour = divmod(hours, 24)
        wrong = timedelta(**{unit: jumps.get(day, 0)}) if hour == 0 else timedelta(0)
        ticks.append((len(ticks) + 1, BASE + timedelta(hours=hours) + wrong))
    now = BASE + 35 * DAY
    days: list[Day] = []
    for starts, ends in pairwise([ALWAYS, *(BASE + n * DAY for n in range(-1, 50)), NEVER]):
        held = [n for n, at in ticks if starts <= at < ends]
        first, last = (held[0], held[-1]) if held else (None, None)
        empty = Day(part=Part.LOG, name=day_name(Part.LOG, 1, starts, ends), starts=starts, ends=ends)
        name = day_name(Part.TICKS, 1, starts, ends)
        filled = replace(empty, part=Part.TICKS, name=name, empty=not held, first_tick=first, last_tick=last)
        days += [empty, with_neighbours(filled, ticks, now)]
    facts = FeedDays(
        feed_id=1,
        name="f",
        now=now,
        retention=retention * DAY,
        newest_tick_at=now,
        oldest_tick_at=ticks[0][1],
        days=tuple(days),
    )
    for _ in range(500):
        if (step := next_step(facts)) is None:
            break
        facts = after(facts, step)
    filled_days = [d for d in facts.of(Part.TICKS, State.ATTACHED) if not d.empty]
    assert all(d.ends > facts.cutoff - DAY for d in filled_days)
    assert min(d.first_tick or 0 for d in filled_days) == oldest_to_stay(facts)
