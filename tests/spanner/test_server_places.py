"""Where a query of a change stream may start and end, and what is refused, on the server and on the emulator."""

from datetime import datetime, timedelta

import grpc
import pytest
from google.api_core.exceptions import GoogleAPICallError, NotFound

from tests.spanner.conftest import Place
from tests.spanner.sdk import Record, mutation
from tests.spanner.server.clock import parse, rfc3339

MICROSECOND = timedelta(microseconds=1)


def moved(time: str, span: timedelta) -> str:
    """A time that much later."""
    return rfc3339(parse(time) + span // MICROSECOND * 1000)


async def refused(place: Place, *arguments: str | None, heartbeat: int = 1000) -> tuple[grpc.StatusCode, str]:
    """The status and text that a query is refused with."""
    with pytest.raises(GoogleAPICallError) as caught:
        async for _ in place.database.records("changes", *arguments, heartbeat=heartbeat):
            pass
    code = caught.value.grpc_status_code
    assert code is not None
    return code, str(caught.value.message)


def kinds(records: list[Record]) -> list[str]:
    return [kind for record in records for kind in record]


# --- Partitions


async def test_an_initial_query_names_the_partitions_of_its_time_and_ends(place: Place) -> None:
    records = [record["child_partitions_record"] for record in await place.database.query("changes", place.start)]
    assert records
    for record in records:
        assert record["start_timestamp"] == place.start
        [child] = record["child_partitions"]
        assert child["parent_partition_tokens"] == []
    again = await place.database.query("changes", place.start)
    assert [record["child_partitions_record"] for record in again] == records


async def test_a_query_of_a_partition_ends_with_the_partitions_that_go_on(churning_place: Place) -> None:
    token, ended = await churning_place.ended_partition()
    assert ended["child_partitions"]
    for child in ended["child_partitions"]:
        assert token in child["parent_partition_tokens"]
    end = ended["start_timestamp"]
    alive = await churning_place.database.query("changes", end)
    listed = {r["child_partitions_record"]["child_partitions"][0]["token"] for r in alive}
    assert {child["token"] for child in ended["child_partitions"]} <= listed
    assert token not in listed


async def test_the_boundaries_of_a_partition_that_ended(churning_place: Place) -> None:
    token, ended = await churning_place.ended_partition()
    end, child = ended["start_timestamp"], ended["child_partitions"][0]["token"]
    before, after = moved(end, -MICROSECOND), moved(end, MICROSECOND)
    query = churning_place.database.query
    again = {"child_partitions_record": ended}
    assert await query("changes", end, None, token) == [again]
    assert await query("changes", end, end, token) == [again]
    assert await query("changes", before, end, token) == [again]
    # One that asks for less hears nothing of the end, but that nothing happened.
    assert await query("changes", churning_place.start, before, token) == [{"heartbeat_record": {"timestamp": before}}]
    for partition, start in ((token, after), (child, before)):
        code, text = await refused(churning_place, start, None, partition)
        assert code == grpc.StatusCode.OUT_OF_RANGE
        assert text.startswith("Specified start_timestamp is invalid for the partition")
    _, text = await refused(churning_place, after, None, token)
    assert f" and {rfc3339(parse(end), zone='+00:00')}" in text


async def test_the_bounds_of_a_query_are_part_of_it(place: Place) -> None:
    token = await place.first_partition()
    time = await place.database.commit(mutation("insert", "things", {"id": "1", "text": "a"}))
    # The emulator writes all to one partition: of two, either may have it.
    records = []
    for first in await place.database.query("changes", place.start):
        token = first["child_partitions_record"]["child_partitions"][0]["token"]
        records += await place.database.query("changes", time, time, token)
        assert "data_change_record" not in kinds(
            await place.database.query("changes", place.start, moved(time, -MICROSECOND), token)
        )
    assert [r["data_change_record"]["commit_timestamp"] for r in records if "data_change_record" in r] == [time]


# --- Refusals


async def test_a_start_outside_retention_is_refused_by_its_first_words(place: Place) -> None:
    code, text = await refused(place, moved(place.start, timedelta(days=-8)))
    assert code == grpc.StatusCode.OUT_OF_RANGE
    assert text.startswith("Specified start_timestamp is too far in the past.")
    assert "within the earliest read timestamp: " in text
    code, text = await refused(place, moved(place.start, timedelta(minutes=11)))
    assert code == grpc.StatusCode.OUT_OF_RANGE
    assert text.startswith("Specified start_timestamp is too far in the future.")


async def test_arguments_that_no_query_can_have_are_refused(place: Place) -> None:
    code, text = await refused(place, place.start, moved(place.start, -MICROSECOND))
    assert (code, text[:29]) == (grpc.StatusCode.INVALID_ARGUMENT, "If end_timestamp is specified")
    code, text = await refused(place, None)
    assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT, "start_timestamp must not be null.")
    for heartbeat in (99, 300_001):
        code, text = await refused(place, place.start, heartbeat=heartbeat)
        assert code == grpc.StatusCode.OUT_OF_RANGE
        assert text.startswith("heartbeat_milliseconds must be within")
    code, text = await refused(place, place.start, None, "garbage")
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith("Specified partition_token is invalid, as it does not belong")


async def test_a_stream_that_was_made_again_does_not_know_the_tokens_of_before(place: Place) -> None:
    token = await place.first_partition()
    await place.drop_stream()
    code, text = await refused(place, place.start)
    if place.database.postgres:
        assert code == grpc.StatusCode.NOT_FOUND
        assert text.startswith("[ERROR] function spanner.read_json_changes(")
    else:
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert text.startswith("Table-valued function not found: READ_changes")
    await place.create_stream()
    code, text = await refused(place, place.start, None, token)
    assert code == grpc.StatusCode.OUT_OF_RANGE
    assert text.startswith("Specified start_timestamp is too far in the past")
    code, text = await refused(place, await place.database.now(), None, token)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith("Specified partition_token is invalid, as it does not belong")


async def test_a_query_that_runs_while_its_stream_is_dropped_ends_not_found(place: Place) -> None:
    token = await place.first_partition()
    running = place.database.records("changes", place.start, None, token, heartbeat=100)
    assert kinds([await anext(running)]) == ["heartbeat_record"]
    await place.drop_stream()
    with pytest.raises(NotFound, match="Change Stream not found: changes"):
        async for _ in running:
            pass


# --- Metadata


async def test_the_metadata_are_the_same(place: Place) -> None:
    schema = "public" if place.database.postgres else ""
    streams = await place.database.rows("SELECT * FROM information_schema.change_streams")
    every = "YES" if place.database.postgres else True
    name = [schema, "changes"]
    assert [list(row.values())[1:] for row in streams] == [[*name, every]]
    for view in ("change_stream_tables", "change_stream_columns", "change_stream_options"):
        assert await place.database.rows(f"SELECT * FROM information_schema.{view}") == []
    dialect = "SELECT option_value FROM information_schema.database_options WHERE option_name = 'database_dialect'"
    [row] = await place.database.rows(dialect)
    assert list(row.values()) == ["POSTGRESQL" if place.database.postgres else "GOOGLE_STANDARD_SQL"]


GOOGLE_SQL = """
SELECT 'table' AS kind, t.TABLE_NAME AS name, '' AS detail FROM INFORMATION_SCHEMA.TABLES AS t
WHERE t.TABLE_SCHEMA = @schema AND t.TABLE_NAME = @table
UNION ALL SELECT 'key', k.COLUMN_NAME, CAST(k.ORDINAL_POSITION AS STRING)
FROM INFORMATION_SCHEMA.INDEX_COLUMNS AS k WHERE k.TABLE_NAME = @table AND k.INDEX_TYPE = 'PRIMARY_KEY'
UNION ALL SELECT c.SPANNER_TYPE, c.COLUMN_NAME, CAST(c.ORDINAL_POSITION AS STRING)
FROM INFORMATION_SCHEMA.COLUMNS AS c WHERE c.TABLE_NAME = @table
UNION ALL SELECT 'stream', s.CHANGE_STREAM_NAME, CAST(s.`ALL` AS STRING) FROM INFORMATION_SCHEMA.CHANGE_STREAMS AS s
"""
POSTGRESQL = """
SELECT 'table' AS kind, t.table_name AS name, '' AS detail FROM information_schema.tables AS t
WHERE t.table_schema = $1 AND t.table_name = $2
UNION ALL SELECT 'key', k.column_name, k.ordinal_position::text
FROM information_schema.index_columns AS k WHERE k.table_name = $2 AND k.index_type = 'PRIMARY_KEY'
UNION ALL SELECT c.spanner_type, c.column_name, c.ordinal_position::text
FROM information_schema.columns AS c WHERE c.table_name = $2
UNION ALL SELECT 'stream', s.change_stream_name, s."all"::text FROM information_schema.change_streams AS s
"""


async def test_a_larger_statement_about_the_metadata_is_carried_out(place: Place) -> None:
    postgres = place.database.postgres
    names = ("p1", "p2") if postgres else ("schema", "table")
    parameters = dict(zip(names, ("public" if postgres else "", "things"), strict=True))
    rows = await place.database.rows(POSTGRESQL if postgres else GOOGLE_SQL, **parameters)
    number, text = ("bigint", "character varying") if postgres else ("INT64", "STRING(MAX)")
    assert sorted((row["kind"], row["name"], row["detail"]) for row in rows) == sorted(
        [
            ("table", "things", ""),
            ("key", "id", "1"),
            (number, "id", "1"),
            (text, "text", "2"),
            (number, "number", "3"),
            ("stream", "changes", "YES" if postgres else "true"),
        ]
    )


def test_times_are_moved_exactly() -> None:
    assert moved("2024-01-01T00:00:00Z", -MICROSECOND) == "2023-12-31T23:59:59.999999Z"
    assert datetime.fromisoformat(moved("2024-01-01T00:00:00.5Z", MICROSECOND)).microsecond == 500_001
