"""From log rows to changes."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed_gateway.core.model import (
    Change,
    ChangeType,
    ItemState,
    Key,
    KeyComponent,
    KeyType,
    Origin,
    PartitionId,
)
from changefeed_gateway.providers.postgres.log.images import (
    CurrentImage,
    captured_items,
    current_items,
    items_left_out,
    rows_within,
)
from changefeed_gateway.providers.postgres.mapping import ChangeMaker, Items, Row, time_of

AT = datetime(2026, 1, 1, tzinfo=UTC)
SENT_AT = 820_540_800_000_000
"""Microseconds since 2000."""
WHOLE = PartitionId("0-4095")


def row(seq: int = 1, **other: Any) -> Row:
    """As the server sends it."""
    values = {"op": "upsert", "created": False, "partition_key": "w", "key": "k", "image": None, "size": None}
    values |= {"bucket": 7, "annotations": None}
    values |= other
    values = {name: value.encode() if isinstance(value, str) else value for name, value in values.items()}
    return (
        *(seq, 700, values.get("time", SENT_AT), values["op"], values["created"]),
        *(values["partition_key"], values["key"], values["image"], values["size"]),
        *(values["bucket"], values["annotations"]),
    )  # type: ignore[return-value]


def maker(**columns: KeyType) -> ChangeMaker:
    return ChangeMaker(
        incarnation="0123456789abcdef",
        key_columns=list(columns),
        key_types=list(columns.values()),
    )


def make_one(one: Row, made_by: ChangeMaker | None = None) -> Change:
    made_by = made_by or maker(id=KeyType.STRING)
    (change,) = made_by.make([one], Items([ItemState.OMITTED], [None]), [WHOLE])
    return change


def test_a_change_says_everything() -> None:
    items = Items([ItemState.INCLUDED], [b'{"a": 1}'])
    made = maker(id=KeyType.NUMBER).make([row(42, created=True, key="7")], items, [WHOLE])
    assert made == [
        Change(
            event_id="9f9f5111-42",
            change_type=ChangeType.CREATE,
            key=Key("w", (KeyComponent("id", "7", KeyType.NUMBER),)),
            item_state=ItemState.INCLUDED,
            item='{"a": 1}',
            commit_time=AT,
            partition_id=WHOLE,
            sequence="42",
            origin=Origin.APPLICATION,
        )
    ]
    assert type(made[0]) is Change
    assert type(made[0].key) is Key
    assert type(made[0].key.components[0]) is KeyComponent


@pytest.mark.parametrize(
    ("op", "created", "expected"),
    [
        ("upsert", True, ChangeType.CREATE),
        ("upsert", False, ChangeType.UPDATE),
        ("delete", False, ChangeType.DELETE),
        ("truncate", False, ChangeType.TRUNCATE),
    ],
)
def test_change_types(op: str, created: bool, expected: ChangeType) -> None:
    assert make_one(row(op=op, created=created)).change_type is expected


def test_a_truncate_has_no_key() -> None:
    truncate = row(op="truncate", partition_key="", key="")
    for made_by in (maker(id=KeyType.STRING), maker(a=KeyType.STRING, b=KeyType.NUMBER)):
        assert make_one(truncate, made_by).key == Key("", ())


@pytest.mark.parametrize(("text", "value"), [("plain", "plain"), ("", ""), ('["[x"]', "[x"), ('["é\\"]"]', 'é"]')])
def test_one_key_column(text: str, value: str) -> None:
    assert make_one(row(key=text)).key.components == (KeyComponent("id", value),)


def test_several_key_columns() -> None:
    made = make_one(row(key='["a,b","7"]'), maker(name=KeyType.STRING, number=KeyType.NUMBER))
    assert made.key.components == (
        KeyComponent("name", "a,b"),
        KeyComponent("number", "7", KeyType.NUMBER),
    )


def test_items_left_out() -> None:
    items = items_left_out([row(), row(op="delete")], ItemState.OMITTED)
    assert items == Items([ItemState.OMITTED, ItemState.NOT_APPLICABLE], [None, None])


def test_captured_items() -> None:
    rows = [
        row(1, image="{}", size=2),
        row(2, size=9000),
        row(3, size=50_001),
        row(4, image="{" + " " * 100 + "}", size=102),
        row(5),
        row(6, op="delete"),
    ]
    assert captured_items(rows, {2: b"fetched"}, 50_000).states == [
        ItemState.INCLUDED,
        ItemState.INCLUDED,
        ItemState.TOO_LARGE,
        ItemState.INCLUDED,
        ItemState.UNAVAILABLE,
        ItemState.NOT_APPLICABLE,
    ]
    assert captured_items(rows, {2: b"fetched"}, 50_000).texts == [b"{}", b"fetched", None, rows[3][7], None, None]
    assert captured_items(rows[3:4], {}, 100) == Items([ItemState.TOO_LARGE], [None])


def test_current_items_follow_the_item_to_its_partition() -> None:
    rows = [row(1, key="a"), row(2, key="b"), row(3, key="gone"), row(4, key="a", op="delete"), row(5, key="big")]
    images = {
        b"a": CurrentImage(b"w", 1, b"A"),
        b"b": CurrentImage(b"elsewhere", 1, b"B"),
        b"big": CurrentImage(b"w", 1001, None),
    }
    moved, items = current_items(rows, images, 1000, of_a_part=False)
    assert [partition_key for _, _, _, _, _, partition_key, *_ in moved] == [b"w", b"elsewhere", b"w", b"w", b"w"]
    assert items.texts == [b"A", b"B", None, None, None]
    assert items.states == [
        ItemState.INCLUDED_CURRENT,
        ItemState.INCLUDED_CURRENT,
        ItemState.NOT_APPLICABLE,
        ItemState.NOT_APPLICABLE,
        ItemState.TOO_LARGE,
    ]


def test_for_a_part_of_the_collection_what_moved_away_is_gone() -> None:
    rows = [row(1, key="b")]
    moved, items = current_items(rows, {b"b": CurrentImage(b"elsewhere", 1, b"B")}, 9, of_a_part=True)
    assert moved == rows
    assert items == Items([ItemState.NOT_APPLICABLE], [None])


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([], 0), ([100], 1), ([5, 5], 2), ([5, 5, 1], 2), ([20, 1], 2), ([1, 20, 9], 3), ([8, 8, 8], 1)],
)
def test_rows_that_fit_into_ten_bytes_of_items_of_fifteen_at_most(sizes: list[int], expected: int) -> None:
    assert rows_within(sizes, 10, 15) == expected


def test_a_change_carries_the_annotations_of_its_transaction() -> None:
    assert make_one(row(annotations='{"actor": "ann"}')).annotations == '{"actor": "ann"}'
    assert make_one(row()).annotations == ""


@given(st.integers(-63_082_281_600_000_000, 252_455_615_999_999_999))
def test_a_time_is_exact_as_it_is_sent(sent: int) -> None:
    at = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=sent)
    assert make_one(row(time=sent)).commit_time == time_of(sent) == at


@given(
    st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=3),
    st.text(max_size=5),
    st.none() | st.text(max_size=9),
)
def test_texts_pass_as_they_are_sent(values: list[str], item: str, annotations: str | None) -> None:
    alone = len(values) == 1 and not values[0].startswith("[")
    key = values[0] if alone else json.dumps(values, ensure_ascii=False)
    made_by = maker(**{f"c{number}": KeyType.STRING for number in range(len(values))})
    one = row(key=key, partition_key=key, image=item, size=len(item.encode()), annotations=annotations)
    (made,) = made_by.make([one], captured_items([one], {}, 10**6), [WHOLE])
    assert made.key == Key(key, tuple(KeyComponent(f"c{number}", value) for number, value in enumerate(values)))
    assert (made.item, made.annotations) == (item, annotations or "")
