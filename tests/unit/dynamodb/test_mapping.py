"""Items as JSON: every attribute value can be read back."""

import json
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed_gateway.core.model import (
    Beginning,
    ChangeType,
    EntireCollection,
    ItemState,
    KeyComponent,
    KeyType,
    Origin,
    PageRead,
    PartitionId,
)
from changefeed_gateway.providers.dynamodb.mapping import ChangeMaker, KeySchema, item_json

DIGITS = st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**33), max_value=10**33)
NUMBERS = DIGITS.map(str) | st.integers(-(10**38) + 1, 10**38 - 1).map(str)
SCALARS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(lambda v: {"S": v}, st.text()),
    st.builds(lambda v: {"N": v}, NUMBERS),
    st.builds(lambda v: {"B": v}, st.binary()),
    st.builds(lambda v: {"BOOL": v}, st.booleans()),
    st.just({"NULL": True}),
    st.builds(lambda v: {"SS": sorted(v)}, st.sets(st.text(), min_size=1)),
    st.builds(lambda v: {"NS": sorted(v)}, st.sets(NUMBERS, min_size=1)),
    st.builds(lambda v: {"BS": sorted(v)}, st.sets(st.binary(), min_size=1)),
)
NAMES = st.text(max_size=8) | st.sampled_from(["$binary", "$stringSet", "$", "$$x"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.builds(lambda v: {"L": v}, st.lists(inner, max_size=4))
        | st.builds(lambda v: {"M": v}, st.dictionaries(NAMES, inner, max_size=4))
    ),
    max_leaves=12,
)


class Digits(str):
    """A JSON number as it stands in the text."""


def back(value: Any) -> dict[str, Any]:
    """Read one attribute value back, as the documentation says."""
    match value:
        case Digits():
            return {"N": str(value)}
        case str():
            return {"S": value}
        case bool():
            return {"BOOL": value}
        case None:
            return {"NULL": True}
        case list():
            return {"L": [back(member) for member in value]}
        case {"$binary": text}:
            return {"B": b64decode(text)}
        case {"$stringSet": members}:
            return {"SS": members}
        case {"$numberSet": members}:
            return {"NS": [str(member) for member in members]}
        case {"$binarySet": members}:
            return {"BS": [b64decode(member) for member in members]}
        case _:
            assert isinstance(value, dict)
            return {"M": item_back(value)}


def item_back(item: dict[str, Any]) -> dict[str, Any]:
    return {name[1:] if name.startswith("$") else name: back(value) for name, value in item.items()}


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_every_item_can_be_read_back(item: dict[str, Any]) -> None:
    text = item_json(item)
    assert item_back(json.loads(text, parse_int=Digits, parse_float=Digits)) == item


@pytest.mark.parametrize("number", ["1E+2", "+5", ".5", "00012"])
def test_a_number_that_json_spells_otherwise_keeps_its_value(number: str) -> None:
    assert Decimal(json.loads(item_json({"n": {"N": number}}), parse_int=Digits, parse_float=Digits)["n"]) == Decimal(
        number
    )


READ = PageRead(scope=EntireCollection(), start=Beginning(), max_changes=10, max_bytes=1000, max_item_bytes=100)


def record(name: str = "INSERT", **content: Any) -> dict[str, Any]:
    return {
        "eventID": "e1",
        "eventName": name,
        "dynamodb": {
            "ApproximateCreationDateTime": datetime(2026, 1, 1, tzinfo=UTC),
            "Keys": {"b": {"N": "1.50"}, "a": {"S": "[x"}},
            "SequenceNumber": "000000000000000000042",
            **content,
        },
    }


def test_the_schema_says_which_attribute_is_which() -> None:
    change = ChangeMaker(KeySchema("a", "b"), PartitionId("shard")).make(record(), READ)
    assert change.key.partition_key == '["[x"]'
    assert change.key.sort_key == "1.50"
    assert change.key.components == (KeyComponent("a", "[x"), KeyComponent("b", "1.50", KeyType.NUMBER))
    assert (change.sequence, change.change_type) == ("42", ChangeType.CREATE)


def test_an_item_is_there_left_out_too_large_or_not_captured() -> None:
    maker = ChangeMaker(KeySchema("a", "b"), PartitionId("shard"))
    small = record(NewImage={"a": {"S": "x"}})
    assert maker.make(small, READ).item == '{"a":"x"}'
    assert maker.make(record(NewImage={"a": {"S": "x" * 200}}), READ).item_state is ItemState.TOO_LARGE
    assert maker.make(record(), READ).item_state is ItemState.UNAVAILABLE
    assert maker.make(record("REMOVE"), READ).item_state is ItemState.NOT_APPLICABLE


def test_what_time_to_live_deletes_has_its_origin() -> None:
    maker = ChangeMaker(KeySchema("a", "b"), PartitionId("shard"))
    by_service = {"userIdentity": {"Type": "Service", "PrincipalId": "dynamodb.amazonaws.com"}}
    assert maker.make(record("REMOVE") | by_service, READ).origin is Origin.EXPIRY
    assert maker.make(record("REMOVE"), READ).origin is Origin.APPLICATION
    assert READ.max_wait == timedelta(0)
