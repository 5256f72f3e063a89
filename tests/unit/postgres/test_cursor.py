"""Positions and the cursors of a page."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed_gateway.core.errors import InvalidRequest
from changefeed_gateway.core.model import Cursor
from changefeed_gateway.providers.postgres.cursor import (
    Position,
    RowCursors,
    decode_position,
    encode_position,
    mark_of,
)

AT = {tick: datetime(2026, 1, 1, second=tick, tzinfo=UTC) for tick in range(2, 6)}

positions = st.builds(Position, st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))


times = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC))


@given(positions, positions, times)
def test_cursors_keep_the_order_of_positions(one: Position, other: Position, at: datetime) -> None:
    assert decode_position(encode_position(one, at)) == (one, mark_of(at))
    assert (encode_position(one, at) < encode_position(other, at)) == (one < other)
    assert len(encode_position(one, at)) == 20


@given(times, st.integers(1, 2**32 - 1))
def test_ticks_made_less_than_an_hour_apart_have_other_marks(at: datetime, microseconds: int) -> None:
    assert mark_of(at) != mark_of(at + timedelta(microseconds=microseconds))


@given(st.binary(max_size=40).filter(lambda data: len(data) != 20 or data[0] > 127 or data[8] > 127))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_position(Cursor(data))
    assert caught.value.reason == "TOKEN_MALFORMED"


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Batches and sequence numbers of rows in reading order."""
    batches = sorted(draw(st.lists(st.integers(2, 5), min_size=1, max_size=12)))
    numbers = draw(st.permutations(range(1, 13)))[: len(batches)]
    read = sorted(zip(batches, numbers, strict=True))
    return [batch for batch, _ in read], [seq for _, seq in read]


@given(rows(), st.booleans(), st.data())
def test_a_row_cursor_stands_between_its_row_and_the_next(
    read: tuple[list[int], list[int]], complete: bool, data: st.DataObject
) -> None:
    batches, numbers = read
    length = data.draw(st.integers(0, len(batches)))
    cursors = RowCursors(batches, numbers, length, complete=complete, times=AT)
    assert len(cursors) == len(list(cursors)) == length
    assert list(cursors) == sorted(set(cursors))
    for index in range(length):
        position = cursors.position(index)
        for other, (batch, seq) in enumerate(zip(batches, numbers, strict=True)):
            passed = batch <= position.tick or (batch == position.tick + 1 and seq <= position.seq)
            assert passed == (other <= index)
        last_known = index == len(batches) - 1
        ends_batch = complete if last_known else batches[index + 1] != batches[index]
        assert (position.seq == 0) == ends_batch


def test_cursors_are_a_sequence() -> None:
    cursors = RowCursors([2, 2, 3], [1, 2, 1], 3, complete=True, times=AT)
    assert cursors[-1] == encode_position(Position(3), AT[3]) == cursors[2]
    assert cursors[:2] == [encode_position(Position(1, 1), AT[2]), encode_position(Position(2), AT[2])]
    with pytest.raises(IndexError):
        cursors[3]
