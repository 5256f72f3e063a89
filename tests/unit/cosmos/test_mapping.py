"""Keys, event ids and order of the documents of a change feed."""

import asyncio
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed_gateway.core.columns import ITEM
from changefeed_gateway.core.errors import InvalidRequest, ProviderFailure
from changefeed_gateway.core.model import Change, Now, PageRead, PartitionId, PhysicalPartition
from changefeed_gateway.providers.cosmos.cursor import Interval, Mode, Position
from changefeed_gateway.providers.cosmos.gathering import gather
from changefeed_gateway.providers.cosmos.mapping import (
    UNDEFINED,
    ChangeMaker,
    key_paths,
    parse_partition_key,
    partition_key_text,
)

PATHS = key_paths({"paths": ["/pk"]})
SCALARS = st.one_of(
    st.text(), st.booleans(), st.none(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False)
)


def reading(size: int = 1_000) -> PageRead:
    return PageRead(
        scope=PhysicalPartition(PartitionId("0")),
        start=Now(),
        max_changes=size,
        max_bytes=10_000_000,
        max_item_bytes=1_000_000,
    )


def gathered(
    documents: list[dict[str, Any]], mode: Mode, size: int, position: Position
) -> tuple[list[Change], Position]:
    """One page, and where it ends."""
    maker = ChangeMaker("rid", PATHS, mode, PartitionId("0"))
    found = asyncio.run(gather(documents, position, maker, mode, reading(size)))
    return list(found.changes), found.positions[-1] if found.positions else position


@given(st.lists(SCALARS, min_size=1, max_size=3))
def test_a_partition_key_text_names_its_values(values: list[Any]) -> None:
    paths = key_paths({"paths": ["/a", "/b", "/c"][: len(values)]})
    assert parse_partition_key(partition_key_text(values), paths) == values


def test_a_key_path_may_be_nested_or_quoted() -> None:
    [plain, nested, quoted] = key_paths({"paths": ["/a", "/a/b", '/"a b"/c']})
    assert (plain.name, nested.steps, quoted.steps) == ("a", ("a", "b"), ("a b", "c"))


@pytest.mark.parametrize("text", ["[", "[]", '[["a"]]', '["a","b"]', '[{"a":1}]', "[" * 10_000])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_partition_key(text, PATHS)


def test_a_missing_value_is_a_key_of_its_own() -> None:
    assert partition_key_text([UNDEFINED]) == "[{}]"
    assert parse_partition_key("[{}]", PATHS) == [UNDEFINED]


def record(lsn: int, item: str, operation: str = "replace") -> dict[str, Any]:
    current = {"id": item, "pk": "a", "_ts": 1, "_etag": f"{lsn}"}
    return {"current": current, "metadata": {"lsn": lsn, "crts": 1, "operationType": operation}}


@pytest.mark.req("P7")
def test_an_item_takes_no_more_memory_than_its_text() -> None:
    maker = ChangeMaker("rid", PATHS, Mode.ALL_VERSIONS_AND_DELETES, PartitionId("0"))
    documents = [record(number, "x" * 100) for number in range(100)]
    tracemalloc.start()
    try:
        rows = [maker.make(document, number, reading()) for number, document in enumerate(documents)]
        items, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rows[0][ITEM]) > 100
    # With all else that a row has some 1,500 bytes; what orjson hands over has room for 4,096.
    assert items < 100 * 3_000


@pytest.mark.req("P3")
def test_ids_are_those_that_were_told_before() -> None:
    """Whoever stored some compares them with those that are told now."""
    start = Position(Interval("", "FF"), '"0"', 0)
    record_changes, _ = gathered([record(7, "b"), record(7, "b")], Mode.ALL_VERSIONS_AND_DELETES, 10, start)
    assert [change.event_id for change in record_changes] == [
        "76963bc74598a8d728a9ace522584fb0",
        "b54f2581d37b11b4e52aa98908f8fbdc",
    ]
    version = {"id": "b", "pk": "a", "_rid": "r", "_etag": "e", "_ts": 1, "_lsn": 7}
    [version_change], _ = gathered([version], Mode.LATEST_VERSION, 10, start)
    assert version_change.event_id == "c2c06e06f8d78f4318395472b94cf7fa"


RUNS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=6), min_size=1, max_size=5)


@given(RUNS, st.integers(1, 7))
def test_pages_of_any_size_cut_runs_without_changing_an_id(runs: list[list[str]], size: int) -> None:
    documents = [record(lsn, item) for lsn, run in enumerate(runs, 1) for item in run]
    start = Position(Interval("", "FF"), '"0"', 0)
    whole, _ = gathered(documents, Mode.ALL_VERSIONS_AND_DELETES, 1_000, start)
    assert len({change.event_id for change in whole}) == len(documents)
    pieces: list[Change] = []
    position = start
    while len(pieces) < len(documents):
        page, position = gathered(documents, Mode.ALL_VERSIONS_AND_DELETES, size, position)
        assert page
        pieces += page
    assert pieces == whole


@given(st.sets(st.sampled_from("abcdefgh"), min_size=1), st.sets(st.sampled_from("abcdefgh")), st.integers(1, 8))
def test_latest_versions_that_move_on_take_no_other_with_them(batch: set[str], moved: set[str], size: int) -> None:
    """What was read of a transaction may be elsewhere when the rest of it is asked for."""

    def version(lsn: int, item: str) -> dict[str, Any]:
        return {"id": item, "pk": "a", "_rid": f"rid {item}", "_etag": f"{lsn} {item}", "_ts": 1, "_lsn": lsn}

    start = Position(Interval("", "FF"), '"0"', 0)
    first, position = gathered([version(1, item) for item in batch], Mode.LATEST_VERSION, size, start)
    later = [version(1, item) for item in sorted(batch - moved, reverse=True)]
    later += [version(2 + number, item) for number, item in enumerate(sorted(batch & moved))]
    rest, _ = gathered(later, Mode.LATEST_VERSION, 1_000, position)
    assert {change.key.sort_key for change in [*first, *rest]} == batch
    assert {change.key.sort_key for change in rest} >= batch & moved


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"metadata": {}},
        {"metadata": {"lsn": "x"}},
        {"metadata": {"lsn": 1}},
        {"metadata": None},
        record(1, "a", "odd"),
    ],
)
def test_a_document_that_is_not_as_documented_is_a_provider_error(document: dict[str, Any]) -> None:
    with pytest.raises(ProviderFailure):
        gathered([document], Mode.ALL_VERSIONS_AND_DELETES, 10, Position(Interval("", "FF"), '"0"', 0))


@pytest.mark.parametrize("told", [{"pk": "a"}, ["a"], "a"])
def test_a_deletion_names_its_key_in_every_form(told: Any) -> None:
    metadata = {"lsn": 1, "crts": 1, "operationType": "delete", "id": "1", "partitionKey": told}
    [change], _ = gathered(
        [{"metadata": metadata}], Mode.ALL_VERSIONS_AND_DELETES, 10, Position(Interval("", "FF"), '"0"', 0)
    )
    assert (change.key.partition_key, change.key.sort_key) == ("a", "1")
