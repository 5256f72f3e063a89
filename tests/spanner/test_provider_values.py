"""What a change says of its row: keys, images, times, kinds and who made it, exact to the last digit."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from changefeed.v1 import change_event_pb2
from changefeed_gateway.core.model import PortabilityWarning
from changefeed_gateway.providers.spanner import reading
from changefeed_gateway.providers.spanner.table import Stream, warnings
from tests.conformance.client import BEGINNING, INCLUDE, NOW, REQUIRE, Event, Start, after, unsupported
from tests.conformance.journal import ids
from tests.spanner.scene import CHANGES, MAIN, NEW_ROW, Scene, made, thing
from tests.spanner.server.behaviour import Behaviour
from tests.spanner.server.schema import table

TYPED = table(
    "typed",
    ["second", "first", "flag", "raw", "day"],
    first="STRING",
    second="INT64",
    flag="BOOL",
    raw="BYTES",
    day="DATE",
    whole="INT64",
    exact="NUMERIC",
    doc="JSON",
    moment="TIMESTAMP",
    ratio="FLOAT64",
    numbers="ARRAY<INT64>",
)
ROW: Mapping[str, Any] = {
    "first": '["a',
    "second": "9007199254740993",
    "flag": True,
    "raw": "AP8=",
    "day": "2026-02-28",
    "whole": "-9223372036854775808",
    "exact": "99999999999999999999999999999.999999999",
    "doc": '{"a": 1.10, "ü": [null]}',
    "moment": "2026-01-02T03:04:05.123456789Z",
    "ratio": "NaN",
    "numbers": ["1", None, "9223372036854775807"],
}


async def the_event(scene: Scene) -> Event:
    [event] = (await scene.client.read_all(BEGINNING)).events
    return event


@pytest.mark.req("CF-03")
@pytest.mark.parametrize("postgres", [False, True])
async def test_every_type_arrives_exactly(postgres: bool) -> None:
    async with made(watched=TYPED, postgres=postgres) as scene:
        scene.put(ROW)
        event = await the_event(scene)
    item = json.loads(event.new_item_json)
    for name in ("first", "second", "flag", "raw", "day", "whole", "exact"):
        assert item[name] == ROW[name], name
    # PostgreSQL's type ends at the microsecond.
    assert item["moment"] == ("2026-01-02T03:04:05.123456Z" if postgres else ROW["moment"])
    assert json.loads(item["doc"]) == json.loads(ROW["doc"])
    assert item["ratio"] in ("NaN", None)
    assert item["numbers"][::2] == ["1", "9223372036854775807"]
    assert set(item) == set(ROW)


@pytest.mark.req("CF-03")
async def test_protocol_buffers_and_their_enums_pass_as_they_come() -> None:
    # The emulator writes null in their place.
    watched = table("songs", "id", id="INT64", song="PROTO", genre="ENUM", songs="ARRAY<PROTO>")
    row = {"id": "1", "song": "CgNhYmM=", "genre": "1", "songs": ["CgNhYmM=", None]}
    async with made(watched=watched) as scene:
        scene.put(row)
        event = await the_event(scene)
    assert json.loads(event.new_item_json) == row


@pytest.mark.req("CF-03")
async def test_a_key_has_its_columns_in_the_keys_order_with_their_types() -> None:
    async with made(watched=TYPED) as scene:
        scene.put({name: ROW[name] for name in TYPED.key})
        key = (await the_event(scene)).key
    assert [(c.name, c.value, c.type) for c in key.components] == [
        ("second", "9007199254740993", change_event_pb2.KEY_TYPE_NUMBER),
        ("first", '["a', change_event_pb2.KEY_TYPE_STRING),
        ("flag", "true", change_event_pb2.KEY_TYPE_BOOLEAN),
        ("raw", "AP8=", change_event_pb2.KEY_TYPE_BINARY),
        ("day", "2026-02-28", change_event_pb2.KEY_TYPE_STRING),
    ]
    assert json.loads(key.partition_key) == ["9007199254740993", '["a', True, "AP8=", "2026-02-28"]


@pytest.mark.req("CF-03")
async def test_a_commit_time_keeps_its_nanoseconds() -> None:
    async with made(Behaviour(nanoseconds=True)) as scene:
        scene.put(thing(1), at=scene.server.now() // 1_000 * 1_000 + 1_000_789)
        event = await the_event(scene)
    assert event.commit_timestamp.nanos % 1_000 == 789


@pytest.mark.req("CF-11", "P5")
@pytest.mark.parametrize("capture", ["OLD_AND_NEW_VALUES", "NEW_VALUES", "NEW_ROW", "NEW_ROW_AND_OLD_VALUES", None])
async def test_an_image_is_included_only_where_the_row_is_whole(capture: str | None) -> None:
    options = {} if capture is None else {"value_capture_type": capture}
    whole = capture in ("NEW_ROW", "NEW_ROW_AND_OLD_VALUES")
    async with made(options=options) as scene:
        scene.put({**thing(1), "number": "7"})
        scene.put(thing(1, "b"))
        scene.delete("1")
        reading = await scene.client.read_all(BEGINNING, mode=INCLUDE)
        if not whole:
            await unsupported(scene.client.read(BEGINNING, mode=REQUIRE), "CHANGE_FEED_NEW_ITEM_STATE")
        supported = await scene.client.supported()
    states = [event.item_state for event in reading.events]
    included = change_event_pb2.ITEM_STATE_INCLUDED if whole else change_event_pb2.ITEM_STATE_UNAVAILABLE
    assert states == [included, included, change_event_pb2.ITEM_STATE_NOT_APPLICABLE]
    assert ("CHANGE_FEED_NEW_ITEM_STATE" in supported) == whole
    if whole:
        assert json.loads(reading.events[1].new_item_json) == {"id": "1", "text": "b", "number": "7"}


@pytest.mark.req("CF-11", "P5")
async def test_a_stream_that_watches_some_columns_has_no_items_and_says_so() -> None:
    async with made(watches={"things": ["text"]}) as scene:
        scene.put(thing(1))
        answer = await scene.client.capabilities()
        event = await the_event(scene)
    detail = {c.name: c.detail for c in answer.capabilities}
    assert event.item_state == change_event_pb2.ITEM_STATE_UNAVAILABLE
    assert "some of the table's columns" in detail["CHANGE_FEED_NEW_ITEM_STATE"]
    assert [warning.code for warning in answer.warnings] == ["CHANGES_LEFT_OUT"]


@pytest.mark.req("P5")
async def test_kinds_of_changes_that_are_left_out_are_told_in_the_capabilities() -> None:
    options = {**NEW_ROW, "exclude_delete": True, "exclude_insert": True, "allow_txn_exclusion": True}
    async with made(options=options) as scene:
        answer = await scene.client.capabilities()
        supported = await scene.client.supported()
    assert "CHANGE_FEED_DELETES" not in supported
    said = " ".join(warning.message for warning in answer.warnings)
    assert "inserts" in said
    assert "allow_txn_exclusion" in said


@pytest.mark.req("CF-03")
async def test_who_made_a_change_and_what_its_transaction_is_called() -> None:
    async with made() as scene:
        scene.put(thing(1), tag='app=shop,"quoted"')
        scene.server.expire(MAIN, "things", ["1"])
        first, second = (await scene.client.read_all(BEGINNING)).events
    assert first.origin == change_event_pb2.ORIGIN_APPLICATION
    assert json.loads(first.annotations_json) == {"transaction_tag": 'app=shop,"quoted"'}
    assert second.change_type == change_event_pb2.CHANGE_TYPE_DELETE
    assert second.origin == change_event_pb2.ORIGIN_EXPIRY


@pytest.mark.req("P3", "P4", "CF-07")
async def test_a_record_of_many_rows_is_an_event_for_each_and_can_be_cut_anywhere() -> None:
    async with made() as scene:
        scene.put(*(thing(number) for number in range(20)))
        whole = (await scene.client.read_all(BEGINNING)).events
        assert len(set(ids(whole))) == 20
        for size in (1, 3, 19):
            assert ids((await scene.client.read_all(BEGINNING, size=size)).events) == ids(whole)
        await scene.restart()
        assert ids((await scene.client.read_all(BEGINNING, size=7)).events) == ids(whole)


@pytest.mark.req("P1", "P3", "P4")
async def test_transactions_of_one_commit_timestamp_are_told_apart() -> None:
    async with made() as scene:
        at = scene.server.now() + 10**6
        for number in range(6):
            scene.put(thing(number), thing(number + 10), at=at)
        scene.put(thing(99))
        whole = (await scene.client.read_all(BEGINNING)).events
        assert len(set(ids(whole))) == 13
        for size in (1, 3, 5):
            assert ids((await scene.client.read_all(BEGINNING, size=size)).events) == ids(whole)
        await scene.restart()
        assert ids((await scene.client.read_all(BEGINNING, size=1)).events) == ids(whole)


@pytest.mark.req("CF-03")
async def test_changes_of_other_tables_in_the_stream_are_passed_over() -> None:
    async with made() as scene:
        scene.server.database(MAIN).create_table(table("others", "id", id="INT64"))
        for number in range(3):
            scene.server.write(MAIN, {"insert": {"table": "others", "columns": ["id"], "values": [[str(number)]]}})
        scene.put(thing(1))
        assert (await the_event(scene)).key.partition_key == "1"
        assert len((await scene.client_of("others").read_all(BEGINNING)).events) == 3


@pytest.mark.req("P1")
async def test_a_page_that_takes_long_over_other_tables_keeps_the_way_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever's deadline ends before the answer would begin again, and never come to the changes behind them."""
    monkeypatch.setattr(reading, "LATE", 0.0)
    async with made(Behaviour(records_per_message=1)) as scene:
        scene.server.database(MAIN).create_table(table("others", "id", id="INT64"))
        for number in range(5):
            scene.server.write(MAIN, {"insert": {"table": "others", "columns": ["id"], "values": [[str(number)]]}})
        scene.put(thing(1))
        told: list[tuple[int, bool]] = []
        start: Start = BEGINNING
        while not told or told[-1][1]:
            page = await scene.client.read(start)
            told.append((len(page.events), page.more_available))
            start = after(page.continuation_token)
        assert told[:5] == [(0, True)] * 5
        assert sum(events for events, _ in told) == 1
        assert scene.server.calls.counts()["Partition"] <= 4, "what was begun is gone on with"


@pytest.mark.req("P5")
async def test_of_several_streams_the_settings_choose_one() -> None:
    async with made(tables={"things": CHANGES}) as scene:
        answer = await scene.client.capabilities()
    assert CHANGES in next(c.detail for c in answer.capabilities if c.name == "CHANGE_FEED")


def test_a_stream_without_omissions_warns_of_nothing() -> None:
    stream = Stream("s", "t", (), "NEW_ROW", True, timedelta(days=7), (), False)
    assert warnings(stream) == ()
    assert warnings(stream._replace(excluded=("deletes",))) == (
        PortabilityWarning(code="CHANGES_LEFT_OUT", message="of the change stream s: it leaves out deletes"),
    )


# --- A change stream or a table that is altered under a reader

DELETE = change_event_pb2.CHANGE_TYPE_DELETE
INCLUDED = change_event_pb2.ITEM_STATE_INCLUDED
UNAVAILABLE = change_event_pb2.ITEM_STATE_UNAVAILABLE


def watch(scene: Scene, *columns: str) -> None:
    """Alter the change stream: it watches some columns beside the key, or all of them where none are named."""
    stream = scene.server.stream(MAIN, CHANGES)
    stream.definition = replace(stream.definition, watches={scene.table.name: columns or None})


@pytest.mark.req("P5")
@pytest.mark.parametrize("postgres", [False, True])
async def test_a_stream_that_is_open_while_fewer_columns_are_watched_is_given_no_part_for_a_row(postgres: bool) -> None:
    async with made(postgres=postgres) as scene, scene.client.subscribe(NOW) as stream:
        await stream.until_live()
        scene.put({"id": "1", "text": "a", "number": "1"})
        await stream.until_events(1)
        watch(scene, "text")
        scene.put({"id": "1", "text": "b", "number": "2"})
        await stream.until_events(2)
        scene.delete("1")
        await stream.until_events(3)
        asked = scene.server.calls.count("Metadata")
        scene.put({"id": "1", "text": "c", "number": "3"})
        await stream.until_events(4)
        assert scene.server.calls.count("Metadata") == asked
        watch(scene)
        scene.put({"id": "1", "text": "d", "number": "4"})
        await stream.until_events(5)
    states = [event.item_state for event in stream.events if event.change_type != DELETE]
    assert states == [INCLUDED, UNAVAILABLE, UNAVAILABLE, INCLUDED]
    assert not stream.events[1].new_item_json


@pytest.mark.req("P5")
async def test_a_row_is_whole_that_is_of_before_a_column_was_added_or_of_after_one_was_dropped() -> None:
    async with made() as scene, scene.client.subscribe(NOW) as stream:
        await stream.until_live()
        database = scene.server.database(MAIN)
        database.tables["things"] = table("things", "id", id="INT64", text="STRING")
        scene.put({"id": "1", "text": "a"})
        await stream.until_events(1)
        database.tables["things"] = table("things", "id", id="INT64", text="STRING", later="STRING", last="STRING")
        database.rows["things"] = {
            key: {**row, "later": None, "last": None} for key, row in database.rows["things"].items()
        }
        [event] = (await scene.client.read_all(BEGINNING)).events
    assert [each.item_state for each in (event, *stream.events)] == [INCLUDED, INCLUDED]
