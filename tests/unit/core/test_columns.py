"""The changes of a page, column by column, say what single ones do."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed_gateway.core.columns import Columns
from changefeed_gateway.core.model import (
    Change,
    ChangeType,
    ExactTime,
    ItemState,
    Key,
    KeyComponent,
    KeyType,
    Origin,
    PartitionId,
)

TEXTS = st.text(max_size=10)
TIMES = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC))
EXACT = st.builds(ExactTime.of, TIMES, st.integers(1, 999))
CHANGES = st.builds(
    Change,
    event_id=TEXTS,
    change_type=st.sampled_from(ChangeType),
    key=st.builds(
        Key,
        TEXTS,
        st.lists(st.builds(KeyComponent, TEXTS, TEXTS, st.sampled_from(KeyType)), max_size=3).map(tuple),
        TEXTS,
    ),
    item_state=st.sampled_from(ItemState),
    item=st.none() | TEXTS,
    commit_time=st.none() | TIMES | EXACT,
    partition_id=TEXTS.map(PartitionId),
    sequence=TEXTS,
    origin=st.sampled_from(Origin),
    annotations=TEXTS,
)


@given(st.lists(CHANGES, max_size=6), st.slices(6))
def test_single_changes_come_out_as_they_went_in(changes: list[Change], part: slice) -> None:
    columns = Columns.of(changes)
    assert list(columns) == changes == columns
    assert [columns[index] for index in range(len(changes))] == changes
    assert list(columns[part]) == changes[part]
    assert list(Columns.joined([changes, columns, changes[part]])) == [*changes, *changes, *changes[part]]
    assert Columns.of(columns) is columns


@given(TIMES, st.integers(0, 999))
def test_a_time_keeps_its_nanoseconds(moment: datetime, nanoseconds: int) -> None:
    change = Change(
        "1",
        ChangeType.UPDATE,
        Key("k", ()),
        ItemState.OMITTED,
        None,
        ExactTime.of(moment, nanoseconds),
        PartitionId(""),
        "",
    )
    [since] = Columns.of([change]).commit_times
    assert since == (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000 + nanoseconds
    [again] = Columns.of([change])
    assert getattr(again.commit_time, "nanoseconds", 0) == nanoseconds


def test_a_naive_time_is_refused() -> None:
    naive = Change(
        "1", ChangeType.UPDATE, Key("k", ()), ItemState.OMITTED, None, datetime(2026, 1, 1), PartitionId(""), ""
    )
    with pytest.raises(TypeError):
        Columns.of([naive])
