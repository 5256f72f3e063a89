"""Laws of the memory provider's cursors: they keep their order through bytes, and name their partition."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from changefeed_gateway.core.errors import InvalidRequest
from changefeed_gateway.core.model import Cursor
from changefeed_gateway.providers.memory.cursor import decode_cursor, encode_cursor

numbers = st.integers(0, 2**32 - 1)
positions = st.integers(0, 2**64 - 1)


@given(number=numbers, position=positions)
def test_a_cursor_gives_back_its_position(number: int, position: int) -> None:
    assert decode_cursor(encode_cursor(number, position), number=number) == position


@given(number=numbers, one=positions, other=positions)
def test_cursors_of_a_partition_compare_as_their_positions(number: int, one: int, other: int) -> None:
    assert (encode_cursor(number, one) < encode_cursor(number, other)) == (one < other)


@given(number=numbers, other=numbers, position=positions)
def test_a_cursor_of_another_partition_is_refused(number: int, other: int, position: int) -> None:
    assume(number != other)
    with pytest.raises(InvalidRequest):
        decode_cursor(encode_cursor(number, position), number=other)


@given(noise=st.binary(max_size=20), number=numbers)
def test_noise_is_no_cursor(noise: bytes, number: int) -> None:
    assume(len(noise) != len(encode_cursor(0, 0)))
    with pytest.raises(InvalidRequest):
        decode_cursor(Cursor(noise), number=number)
