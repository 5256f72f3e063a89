"""Positions in a feed range: their bytes and their order."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed_gateway.core.errors import InvalidRequest, Reason
from changefeed_gateway.core.model import Cursor
from changefeed_gateway.providers.cosmos.cursor import (
    WHOLE_RUN,
    Interval,
    Mode,
    Position,
    at_time,
    beginning,
    decode,
    decode_all,
    encode,
    encode_all,
)

ALL = Interval("", "FF")
MODE = Mode.ALL_VERSIONS_AND_DELETES

BOUNDS = st.text("0123456789ABCDEF", min_size=2, max_size=96)
POSITIONS = st.builds(
    Position,
    interval=st.builds(Interval, BOUNDS, BOUNDS),
    origin=st.one_of(
        st.just(""),
        st.integers(0, 2**62).map(lambda number: f'"{number}"'),
        st.integers(0, 2**31).map(lambda second: f"@{second}"),
    ),
    as_of=st.integers(0, 2**32 - 1),
    lsn=st.integers(0, 2**63),
    inside=st.one_of(st.just(""), st.just(WHOLE_RUN), st.integers(1, 2**32 - 1).map(lambda number: f"{number:08x}")),
    passed=st.integers(0, 2**32 - 1),
)


@given(POSITIONS, st.sampled_from(Mode))
def test_a_position_is_what_its_bytes_say(position: Position, mode: Mode) -> None:
    assert decode(encode(position, mode), mode) == position


@given(st.lists(POSITIONS, min_size=1, max_size=5))
def test_several_positions_are_what_their_bytes_say(positions: list[Position]) -> None:
    assert decode_all(encode_all(positions, MODE), MODE) == positions


@given(POSITIONS, POSITIONS)
def test_bytes_compare_as_what_was_passed(one: Position, other: Position) -> None:
    if (one.lsn, one.inside) < (other.lsn, other.inside):
        assert encode(one, MODE) < encode(other, MODE)


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(written: bytes) -> None:
    reasons = set()
    for read in (decode, decode_all):
        try:
            read(Cursor(written), MODE)
        except InvalidRequest as error:
            reasons.add(error.reason)
    assert reasons <= {Reason.TOKEN_MALFORMED.value, Reason.TOKEN_WRONG_RESOURCE.value}


def test_a_position_of_the_other_mode_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="other mode"):
        decode(encode(beginning(ALL), Mode.LATEST_VERSION), MODE)


def test_only_a_time_has_no_place_in_the_order() -> None:
    assert not at_time(ALL, 1_700_000_000).comparable
    assert at_time(ALL, 1_700_000_000).at('"7"', 0, 0).comparable
    assert beginning(ALL).comparable


def test_the_end_of_an_answer_lies_behind_all_that_was_in_it() -> None:
    start = beginning(ALL)
    within = start.behind(9, "00000002", 0, 2)
    end = within.at('"9"', 9, 0)
    assert encode(start, MODE) < encode(within, MODE) < encode(end, MODE)
    assert end.passes(9, "ffffffff")
    assert not end.passes(10, "00000001")


def test_an_etag_that_is_no_number_is_a_position_all_the_same() -> None:
    end = beginning(ALL).at('"opaque-7"', 9, 0)
    assert (end.origin, end.lsn) == ('"opaque-7"', 9)


def test_a_token_is_forecast_by_its_age_where_the_window_is_known() -> None:
    position = beginning(ALL).at('"9"', 9, 1_700_000_000)
    window = timedelta(days=7)
    assert position.expire_time(None) is None
    forecast = position.expire_time(window)
    assert forecast is not None
    assert forecast.timestamp() == 1_700_000_000 + window.total_seconds()
