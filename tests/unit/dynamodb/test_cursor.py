"""Positions as bytes: those of one shard compare in its order, whatever its clocks did, or not at all."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed_gateway.providers.dynamodb.cursor import Position, after, at_time, before, decode, encode, horizon, now

TIMES = st.integers(1_000, 2**32 - 1)
NUMBERS = st.integers(1, 10**40 - 1)


@dataclass(frozen=True)
class History:
    """A shard's records: numbers that rise, and times that do what they like."""

    numbers: list[int]
    times: list[int]

    def after(self, index: int) -> Position:
        return after(self.numbers[index], self.times[index])


@st.composite
def histories(draw: st.DrawFn) -> History:
    numbers = draw(st.lists(NUMBERS, min_size=2, max_size=20, unique=True).map(sorted))
    times = draw(st.lists(TIMES, min_size=len(numbers), max_size=len(numbers)))
    return History(numbers, times)


OTHERS = st.one_of(TIMES.map(at_time), st.builds(now, TIMES, st.just(1), mark=st.integers(0, 2**64 - 1)))
"""Positions that are times."""
ANY = st.one_of(TIMES.map(horizon), st.builds(before, NUMBERS, TIMES), st.builds(after, NUMBERS, TIMES), OTHERS)


@pytest.mark.req("P1", "P2")
@given(histories(), st.lists(TIMES))
def test_places_in_a_shard_compare_by_number_however_its_clock_jumps(history: History, seen: list[int]) -> None:
    """One reader's place before another's, wherever each began and however long each has waited there."""
    for first, second in pairwise(range(len(history.numbers))):
        waited = history.after(first)
        for moment in seen:
            waited = waited.seen_empty(moment)
        assert encode(horizon(2**32 - 1)) < encode(waited) < encode(history.after(second))
        assert encode(waited) < encode(before(history.numbers[second] + 1, history.times[second]))


@pytest.mark.req("P1")
@given(OTHERS, st.lists(TIMES), st.one_of(TIMES.map(horizon), st.builds(before, NUMBERS, TIMES)))
def test_a_place_that_is_a_time_lies_before_every_place_with_a_number(
    other: Position, seen: list[int], place: Position
) -> None:
    """So no run of pages that a tail holds is taken to follow it."""
    for moment in seen:
        other = other.seen_empty(moment)
    assert (other.comparable, place.comparable) == (False, True)
    assert encode(other) < encode(place)


@given(ANY)
def test_a_position_can_be_read_back(position: Position) -> None:
    assert decode(encode(position)) == position


@given(NUMBERS, TIMES, st.lists(TIMES, min_size=1))
def test_a_place_is_proven_by_what_was_seen_after_its_record_was_made(number: int, made: int, seen: list[int]) -> None:
    place = after(number, made)
    assert not place.proven
    for moment in seen:
        place = place.seen_empty(moment)
    assert place.proven == (max(seen) > made)
