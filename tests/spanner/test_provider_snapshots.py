"""Snapshots: the rows as they were at the moment with which the changes begin, to the nanosecond, in both dialects."""

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc
import pytest

from changefeed.v1 import change_event_pb2
from changefeed_gateway.core.errors import InvalidRequest
from changefeed_gateway.core.model import (
    Address,
    AtTime,
    Cursor,
    EntireCollection,
    Feed,
    PageRead,
    PhysicalPartition,
    Scan,
)
from changefeed_gateway.providers.spanner import instants
from changefeed_gateway.providers.spanner.provider import SpannerProvider
from changefeed_gateway.providers.spanner.scanning import ScanPlace
from tests.conformance.client import (
    BEGINNING,
    NOW,
    OMIT,
    SNAPSHOT,
    Client,
    Event,
    after,
    invalid,
    refused,
    wire_address,
)
from tests.conformance.test_snapshots import to_the_end
from tests.faults import ALWAYS
from tests.gateway import RunningGateway
from tests.spanner.emulator import GOOGLE_SQL, POSTGRESQL, Emulator
from tests.spanner.gateway import IMPATIENT, make_provider
from tests.spanner.scene import CHANGES, MAIN, NEW_ROW, Scene, made, thing
from tests.spanner.sdk import BareDatabase, bare_database, mutation
from tests.spanner.server.behaviour import Behaviour
from tests.spanner.server.errors import aborted, access_denied, throttled, unavailable
from tests.spanner.test_provider_values import ROW, TYPED

pytestmark = pytest.mark.req("CF-12")

READ = PageRead(
    scope=EntireCollection(), start=Scan(None), max_changes=100, max_bytes=1_000_000, max_item_bytes=1_000_000
)
SNAPSHOT_TYPE = change_event_pb2.CHANGE_TYPE_SNAPSHOT


def items_of(events: list[Event]) -> list[Any]:
    return [json.loads(event.new_item_json) for event in events if event.change_type == SNAPSHOT_TYPE]


@asynccontextmanager
async def provider_of(scene: Scene, **options: Any) -> AsyncIterator[tuple[SpannerProvider, Feed]]:
    provider = make_provider(scene.server.path(MAIN), scene.server.host, **options)
    try:
        yield provider, await provider.open_feed(Address(connection="c", database="", collection=scene.table.name))
    finally:
        await provider.aclose()


@pytest.mark.req("P1")
async def test_rows_end_and_changes_begin_between_two_nanoseconds() -> None:
    async with made(Behaviour(nanoseconds=True, partitions=2)) as scene, provider_of(scene) as (provider, feed):
        scene.put(thing(1))
        begun = await provider.read_page(feed, replace(READ, max_changes=0))
        assert begun.watermark is not None
        moment = instants.of_datetime(begun.watermark)
        assert moment % 1_000, "the time ends with a nanosecond"
        scene.put(thing(2), at=moment - 1)
        scene.put(thing(3), at=moment)
        rows = await provider.read_page(feed, replace(READ, start=Scan(begun.cursor)))
        changes = [
            change
            for partition in await provider.list_partitions(feed, AtTime(begun.watermark))
            for change in (
                await provider.read_page(
                    feed,
                    replace(READ, scope=PhysicalPartition(partition.partition_id), start=AtTime(begun.watermark)),
                )
            ).changes
        ]
    assert [change.key.partition_key for change in rows.changes] == ["1", "2"]
    assert [change.key.partition_key for change in changes] == ["3"]


@pytest.mark.req("P1", "P2")
async def test_each_page_reads_the_rows_of_the_start_whatever_is_committed_meanwhile(postgres: bool) -> None:
    async with made(Behaviour(partitions=2), postgres=postgres) as scene:
        scene.put(*[thing(number) for number in range(10)])
        page = await scene.client.read(SNAPSHOT, size=4)
        found = list(page.events)
        scene.put(*[thing(number, "b") for number in range(3, 8)], thing(11, "b"))
        scene.delete("9")
        scene.server.split(MAIN, CHANGES, scene.server.alive(MAIN, CHANGES)[0])
        await scene.restart()
        rest = await to_the_end(scene.client, after(page.continuation_token), size=4)
        changes = await scene.client.read_all(after(rest.pages[-1].continuation_token))
    found += rest.events
    assert [item["id"] for item in items_of(found)] == [str(number) for number in range(10)]
    assert {item["text"] for item in items_of(found)} == {"a"}
    told = sorted((event.key.partition_key, event.change_type) for event in changes.events)
    updated, created, deleted = (
        change_event_pb2.CHANGE_TYPE_UPDATE,
        change_event_pb2.CHANGE_TYPE_CREATE,
        change_event_pb2.CHANGE_TYPE_DELETE,
    )
    assert told == [("11", created), *((str(n), updated) for n in range(3, 8)), ("9", deleted)]


@pytest.mark.req("CF-03")
async def test_a_row_of_every_type_is_what_its_change_says(postgres: bool) -> None:
    async with made(watched=TYPED, postgres=postgres) as scene:
        scene.put(ROW, {**dict.fromkeys(ROW), "second": "-1", "first": "b", "flag": False})
        told = (await scene.client.read_all(BEGINNING)).events
        rows = (await to_the_end(scene.client, size=1)).events
    assert len(rows) == 2
    assert {row.key.partition_key: row.key for row in rows} == {event.key.partition_key: event.key for event in told}
    for row in rows:
        [event] = [event for event in told if event.key == row.key]
        assert json.loads(row.new_item_json) == json.loads(event.new_item_json)


@pytest.mark.req("CF-03")
async def test_pages_go_on_behind_keys_of_every_type_and_behind_null() -> None:
    values: dict[str, list[Any]] = {
        "ratio": [None, "NaN", -1.5, 0.0, 1.0, 1e300],
        "whole": [None, "-5", "0", "10", "9"],
        "exact": [None, "-1", "1.5", "20", "3"],
        "raw": [None, "", "AP8=", "/w=="],
        "moment": [None, "2026-01-02T03:04:05.123456789Z", "2026-01-02T03:04:05Z"],
        "flag": [None, False, True],
        "first": [None, "", "[", "a", "\U0001f600"],
    }
    async with made(watches=None) as scene:
        for key, keys in values.items():
            watched = replace(TYPED, name=f"by_{key}", key=(key,))
            scene.server.database(MAIN).create_table(watched)
            rows = [[value] for value in keys]
            scene.server.write(MAIN, {"insert": {"table": watched.name, "columns": [key], "values": rows}})
            client = scene.client_of(watched.name)
            rows_read = (await to_the_end(client, size=1)).events
            read = [row.key for row in rows_read]
            assert len({row.event_id for row in rows_read}) == len(keys), "who deduplicates would lose a row"
            told = [event.key for event in (await client.read_all(BEGINNING)).events]
            assert len(read) == len(keys)
            assert sorted(map(str, read)) == sorted(map(str, told)), key


@pytest.mark.req("CF-11", "P5")
async def test_rows_are_read_as_far_as_changes_carry_them() -> None:
    async with made(watches={"things": ["text"]}) as scene:
        scene.put(thing(1))
        [row] = (await to_the_end(scene.client)).events
        assert row.item_state == change_event_pb2.ITEM_STATE_UNAVAILABLE
        assert row.key.partition_key == "1"
        assert not row.new_item_json
        [row] = (await scene.client.read(SNAPSHOT, mode=OMIT)).events
        assert row.item_state == change_event_pb2.ITEM_STATE_OMITTED


@pytest.mark.req("P7")
async def test_a_page_of_rows_is_bounded_by_bytes_and_an_item_too_large_is_left_out() -> None:
    async with made() as scene, provider_of(scene) as (provider, feed):
        scene.put(*[thing(number, "x" * 1_000) for number in range(6)], thing(6, "y" * 5_000))
        start, sizes, states = Scan(None), [], []
        while True:
            page = await provider.read_page(feed, replace(READ, start=start, max_bytes=2_500, max_item_bytes=4_000))
            sizes.append(len(page.changes))
            states += [change.item_state.name for change in page.changes]
            start = Scan(page.cursor)
            assert page.snapshot is not None
            if page.snapshot.finished:
                break
    assert sizes == [2, 2, 3]
    assert states == ["INCLUDED"] * 6 + ["TOO_LARGE"]


@pytest.mark.req("P6")
async def test_rows_that_are_no_longer_kept_expire_the_token_as_it_foretold() -> None:
    async with made() as scene:
        scene.put(*[thing(number) for number in range(4)])
        page = await scene.client.read(SNAPSHOT, size=2)
        kept = page.token_expire_time.seconds - scene.server.now() / 1e9
        assert 3_500 < kept < 3_601
        scene.server.pass_time(timedelta(minutes=61))
        for answer in (
            scene.client.read(after(page.continuation_token)),
            scene.client.resolve(after(page.continuation_token)),
        ):
            found = await refused(answer, "CHECKPOINT_EXPIRED", "CHECKPOINT_EXPIRED", grpc.StatusCode.OUT_OF_RANGE)
            assert "version_retention_period" in found.message
            assert "snapshot" in found.message
        assert not (await scene.client.inspect(page.continuation_token)).usable


@pytest.mark.req("P6")
async def test_the_database_says_how_long_rows_are_kept_and_the_stream_takes_over_when_they_have_come(
    postgres: bool,
) -> None:
    async with made(Behaviour(version_retention=timedelta(days=3)), postgres=postgres) as scene:
        scene.put(thing(1), thing(2))
        now = scene.server.now() / 1e9
        first = await scene.client.read(SNAPSHOT, size=1)
        scene.server.pass_time(timedelta(hours=2))
        second = await scene.client.read(after(first.continuation_token))
        end = await scene.client.read(after(second.continuation_token))
    assert first.token_expire_time.seconds - now == pytest.approx(3 * 86_400, abs=30)
    assert end.snapshot.finished
    assert end.token_expire_time.seconds - now == pytest.approx(7 * 86_400, abs=30)


@pytest.mark.req("P6")
async def test_a_table_that_was_made_anew_under_a_stream_of_all_tables_is_told() -> None:
    async with made(watches=None, options=NEW_ROW) as scene:
        scene.put(*[thing(number) for number in range(4)])
        page = await scene.client.read(SNAPSHOT, size=2)
        scene.server.database(MAIN).drop_table("things")
        scene.server.database(MAIN).create_table(scene.table)
        scene.put(thing(7))
        await invalid(scene.client.read(after(page.continuation_token)), "TOKEN_RESOURCE_RECREATED")


@pytest.mark.req("E3")
async def test_a_read_of_rows_that_breaks_is_made_again(postgres: bool) -> None:
    async with made(Behaviour(records_per_message=2, chunk_every=1), postgres=postgres) as scene:
        scene.put(*[thing(number, f"text {number}") for number in range(9)])
        for number, error in enumerate((unavailable(), aborted(), throttled())):
            scene.server.fail("StreamingRead", error, after_messages=2 * number)
            rows = (await to_the_end(scene.client, size=5)).events
            assert [item["text"] for item in items_of(rows)] == [f"text {number}" for number in range(9)]
        scene.server.end_early("StreamingRead", after_messages=1)
        rows = (await to_the_end(scene.client, size=5)).events
        assert len(rows) == 9, "an answer that ends within a value is none"


@pytest.mark.req("E3")
async def test_refusals_of_a_read_of_rows_have_their_reasons() -> None:
    async with made(retries=IMPATIENT) as scene:
        scene.put(thing(1))
        scene.server.fail("StreamingRead", throttled(), times=ALWAYS)
        await refused(
            scene.client.read(SNAPSHOT), "THROTTLED", "PROVIDER_THROTTLED", grpc.StatusCode.RESOURCE_EXHAUSTED
        )
        scene.server.clear_faults()
        scene.server.deny(MAIN, "StreamingRead")
        found = await refused(
            scene.client.read(SNAPSHOT),
            "PROVIDER_ERROR",
            "PROVIDER_AUTHORIZATION_FAILED",
            grpc.StatusCode.UNAVAILABLE,
        )
        assert "spanner.databases.read" in found.message
        assert access_denied("x").message[:30] not in found.message


@pytest.mark.req("P6")
@pytest.mark.parametrize("cursor", [b"", b"[]", b"{}", b"[1,2,3]", b"\xff", b"null"])
async def test_what_no_scan_wrote_is_refused(cursor: bytes) -> None:
    with pytest.raises(InvalidRequest):
        ScanPlace.decode(Cursor(cursor))


# --- On the emulator

GOOGLE = (
    """CREATE TABLE things (id FLOAT64, part STRING(MAX), whole INT64, exact NUMERIC, doc JSON, raw BYTES(MAX),
    flag BOOL, day DATE, numbers ARRAY<INT64>, twice INT64 AS (whole * 2) STORED) PRIMARY KEY (id, part DESC)""",
    "CREATE CHANGE STREAM changes FOR things OPTIONS (value_capture_type = 'NEW_ROW')",
)
POSTGRES = (
    """CREATE TABLE things (id float8, part varchar, whole bigint, exact numeric, doc jsonb, raw bytea, flag boolean,
    day date, numbers bigint[], twice bigint GENERATED ALWAYS AS (whole * 2) STORED, PRIMARY KEY (id, part))""",
    "CREATE CHANGE STREAM changes FOR things WITH (value_capture_type = 'NEW_ROW')",
)
_NUMBERS = itertools.count(1)


@asynccontextmanager
async def emulated(emulator: Emulator, *, postgres: bool) -> AsyncIterator[tuple[Client, BareDatabase, str]]:
    """A database on the emulator, a gateway in front of it with a caller, and a writer."""
    name = f"snapshots-{next(_NUMBERS)}"
    dialect = POSTGRESQL if postgres else GOOGLE_SQL
    path = await emulator.create_database(name, POSTGRES if postgres else GOOGLE, dialect=dialect)
    gateway = await RunningGateway.start({"c": make_provider(path, emulator.host)})
    try:
        async with bare_database(emulator.host, path, postgres=postgres) as database:
            address = Address(connection="c", database="", collection="things")
            yield Client(gateway.stub, wire_address(address)), database, name
    finally:
        await gateway.kill()
        await emulator.drop_database(name)


def full(number: int) -> dict[str, Any]:
    return {
        "id": float(number),
        "part": "a",
        "whole": str(number),
        "exact": "1.5",
        "doc": '{"a":1}',
        "raw": "AP8=",
        "flag": True,
        "day": "2026-02-28",
        "numbers": ["1", "2"],
    }


@pytest.mark.req("CF-03", "P1")
async def test_the_emulator_s_rows_are_what_its_changes_say_and_outlive_altered_columns(
    spanner_emulator: Emulator, postgres: bool
) -> None:
    async with emulated(spanner_emulator, postgres=postgres) as (client, database, name):
        await database.commit(mutation("insert", "things", *[full(number) for number in range(4)]))
        told = {event.key.partition_key: event for event in (await client.read_all(BEGINNING)).events}
        page = await client.read(SNAPSHOT, size=2)
        await database.commit(mutation("update", "things", {"id": 3.0, "part": "a", "whole": "99"}))
        kind = "varchar" if postgres else "STRING(MAX)"
        await spanner_emulator.change_schema(
            name, f"ALTER TABLE things ADD COLUMN later {kind}", "ALTER TABLE things DROP COLUMN day"
        )
        rest = await to_the_end(client, after(page.continuation_token), size=1)
        rows = [*page.events, *rest.events]
        [changed] = (await client.read_all(after(rest.pages[-1].continuation_token))).events
    assert [row.key.partition_key for row in rows] == [f'[{number}.0,"a"]' for number in range(4)]
    for row in rows:
        event = told[row.key.partition_key]
        assert row.key == event.key
        assert json.loads(row.new_item_json) == json.loads(event.new_item_json)
    assert "twice" not in json.loads(rows[0].new_item_json), "no change carries it"
    assert json.loads(changed.new_item_json)["whole"] == "99"


@pytest.mark.req("P5")
async def test_on_the_emulator_too_an_open_stream_is_given_no_part_for_a_row(
    spanner_emulator: Emulator, postgres: bool
) -> None:
    async with (
        emulated(spanner_emulator, postgres=postgres) as (client, database, name),
        client.subscribe(NOW) as stream,
    ):
        await stream.until_live()
        await database.commit(mutation("insert", "things", full(1)))
        await stream.until_events(1)
        await spanner_emulator.change_schema(name, "ALTER CHANGE STREAM changes SET FOR things(whole, flag)")
        await database.commit(mutation("update", "things", {"id": 1.0, "part": "a", "whole": "2"}))
        await stream.until_events(2)
    states = [change_event_pb2.ItemState.Name(event.item_state) for event in stream.events]
    assert states == ["ITEM_STATE_INCLUDED", "ITEM_STATE_UNAVAILABLE"]
