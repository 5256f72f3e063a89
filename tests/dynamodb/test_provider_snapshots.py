"""Snapshots of a table: every item as it is when it is read, in segments, and the changes since before the first."""

import json
from datetime import timedelta
from typing import Any

import grpc
import pytest

from changefeed.v1 import change_event_pb2
from changefeed_gateway.core.errors import InvalidRequest
from changefeed_gateway.core.model import Address, Cursor, EntireCollection, PageRead, Scan
from changefeed_gateway.providers.dynamodb.mapping import ItemMaker, KeySchema
from changefeed_gateway.providers.dynamodb.scanning import ScanPlace
from tests.conformance.client import BEGINNING, SNAPSHOT, after, invalid, refused
from tests.conformance.test_snapshots import to_the_end
from tests.dynamodb.gateway import make_provider
from tests.dynamodb.scene import Scene
from tests.dynamodb.server.errors import internal, throttled
from tests.dynamodb.server.wire import WireServer
from tests.dynamodb.shop import TABLE, key
from tests.faults import ALWAYS

pytestmark = pytest.mark.req("CF-12")

READ = PageRead(scope=EntireCollection(), start=Scan(None), max_changes=0, max_bytes=1, max_item_bytes=1_000)
VALUES: dict[str, Any] = {
    "text": {"S": "a\u00fc"},
    "digits": {"N": "12345678901234567890.123"},
    "raw": {"B": b"\x00\xff"},
    "flag": {"BOOL": True},
    "nothing": {"NULL": True},
    "list": {"L": [{"S": "a"}, {"M": {"b": {"N": "1"}}}]},
    "texts": {"SS": ["b", "a"]},
    "numbers": {"NS": ["2", "1"]},
    "raws": {"BS": [b"b", b"a"]},
}


async def test_an_item_of_every_type_is_what_its_change_says(scene: Scene) -> None:
    await scene.write(scene.shop.put, "[a", "1.50", **VALUES)
    [event] = (await scene.client.read_all(BEGINNING)).events
    [item] = (await to_the_end(scene.client)).events
    assert item.key == event.key
    assert json.loads(item.new_item_json) == json.loads(event.new_item_json)
    assert not item.HasField("commit_timestamp")


def test_the_id_of_an_item_is_another_one_when_it_changed_and_the_same_in_any_order_of_its_sets() -> None:
    maker = ItemMaker(KeySchema("pk", None), "arn", whole=True)

    def id_of(**changed: Any) -> str:
        return maker.make({"pk": {"S": "a"}, **VALUES, **changed}, READ).event_id

    same = {"texts": {"SS": ["a", "b"]}, "numbers": {"NS": ["1", "2"]}, "raws": {"BS": [b"a", b"b"]}}
    assert id_of() == id_of(**same)
    others: list[dict[str, Any]] = [
        {"text": {"S": "b"}},
        {"flag": {"BOOL": False}},
        {"more": {"N": "1"}},
        {"list": {"L": []}},
    ]
    assert len({id_of(), *(id_of(**other) for other in others)}) == 5


async def test_segments_take_turns_and_bring_every_item_once(server: WireServer) -> None:
    scene = Scene(server, segment_bytes=400)
    await scene.write(scene.shop.create)
    await scene.serve()
    for number in range(30):
        server.put(TABLE, {**key(f"p{number % 4}", number), "text": {"S": "x" * 40}})
    provider = make_provider(server.url, segment_bytes=400)
    feed = await provider.open_feed(Address(connection="c", database="", collection=TABLE))
    assert len(ScanPlace.decode((await provider.read_page(feed, READ)).cursor).segments) > 4
    await provider.aclose()
    page = await scene.client.read(SNAPSHOT, size=4)
    assert 1 <= len(page.events) <= 4
    await scene.restart()
    rest = await to_the_end(scene.client, after(page.continuation_token), size=4)
    events = [*page.events, *rest.events]
    assert len({event.event_id for event in events}) == len(events) == 30
    assert page.snapshot.estimated_items == 30
    await scene.kill()


async def test_a_place_within_a_page_goes_on_in_its_segment(scene: Scene) -> None:
    for number in range(9):
        scene.server.put(TABLE, {**key("a", number), "text": {"S": "x" * 1_000}})
    async with scene.client.subscribe(SNAPSHOT, size=2) as stream:
        batch = (await stream.until("batch")).batch
    rest = await to_the_end(scene.client, after(batch.continuation_token), size=3)
    numbers = [event.key.sort_key for event in [*batch.events, *rest.events]]
    assert sorted(numbers) == [str(number) for number in range(9)]


async def test_every_page_says_that_a_snapshot_converges(scene: Scene) -> None:
    await scene.write(scene.shop.put, "a", 1)
    reading = await to_the_end(scene.client)
    assert "SNAPSHOT_CONVERGES" in [warning.code for warning in reading.pages[0].warnings]
    details = {each.name: each.detail for each in (await scene.client.capabilities()).capabilities}
    assert details["CHANGE_FEED_SNAPSHOT"].startswith("converges")


async def test_a_delete_during_a_snapshot_arrives_after_it(scene: Scene) -> None:
    for number in range(4):
        await scene.write(scene.shop.put, "a", number)
    page = await scene.client.read(SNAPSHOT, size=1)
    for number in range(4):
        await scene.write(scene.shop.delete, "a", number)
    rest = await to_the_end(scene.client, after(page.continuation_token))
    assert not rest.events
    changes = (await scene.client.read_until(after(rest.pages[-1].continuation_token), 4)).events
    assert {event.change_type for event in changes} == {change_event_pb2.CHANGE_TYPE_DELETE}
    assert sorted(event.key.sort_key for event in changes) == ["0", "1", "2", "3"]


@pytest.mark.req("P5")
async def test_where_changes_carry_no_items_those_of_a_snapshot_carry_none(server: WireServer) -> None:
    scene = Scene(server)
    await scene.write(scene.shop.create, "KEYS_ONLY")
    await scene.serve()
    await scene.write(scene.shop.put, "a", 1, text={"S": "secret"})
    [item] = (await to_the_end(scene.client)).events
    assert item.item_state == change_event_pb2.ITEM_STATE_UNAVAILABLE
    assert not item.new_item_json
    await scene.kill()


@pytest.mark.req("P6")
async def test_a_table_that_is_another_one_by_now_ends_a_stream_in_its_snapshot(scene: Scene) -> None:
    for number in range(300):
        scene.server.put(TABLE, key("a", number))
    async with scene.client.subscribe(SNAPSHOT, size=5) as stream:
        await stream.until("batch")
        scene.server.recreate_stream(TABLE, "NEW_AND_OLD_IMAGES")
        token = stream.token
    await invalid(scene.client.read(after(token)), "TOKEN_RESOURCE_RECREATED")


@pytest.mark.req("P6")
async def test_a_snapshot_that_took_a_day_is_expired(scene: Scene) -> None:
    for number in range(4):
        await scene.write(scene.shop.put, "a", number)
    page = await scene.client.read(SNAPSHOT, size=1)
    assert page.HasField("token_expire_time")
    await scene.write(scene.shop.put, "a", 9)
    scene.server.pass_time(timedelta(hours=25))
    found = await refused(
        scene.client.resolve(after(page.continuation_token)),
        "CHECKPOINT_EXPIRED",
        "CHECKPOINT_EXPIRED",
        grpc.StatusCode.OUT_OF_RANGE,
    )
    assert "snapshot" in found.message


@pytest.mark.req("E3")
async def test_refusals_of_a_scan_have_their_reasons(scene: Scene) -> None:
    await scene.write(scene.shop.put, "a", 1)
    scene.server.fail("Scan", internal(), times=2)
    assert len((await to_the_end(scene.client)).events) == 1
    scene.server.fail("Scan", throttled(), times=ALWAYS)
    await refused(scene.client.read(SNAPSHOT), "THROTTLED", "PROVIDER_THROTTLED", grpc.StatusCode.RESOURCE_EXHAUSTED)
    scene.server.clear_faults()
    scene.server.deny("Scan")
    found = await refused(
        scene.client.read(SNAPSHOT),
        "PROVIDER_ERROR",
        "PROVIDER_AUTHORIZATION_FAILED",
        grpc.StatusCode.UNAVAILABLE,
    )
    assert "dynamodb:Scan" in found.message


@pytest.mark.req("P6")
@pytest.mark.parametrize("cursor", [b"", b"[]", b"{}", b"[[],0]", b"[[[null,false]],1]", b"\xff", b"null"])
async def test_what_no_scan_wrote_is_refused(cursor: bytes) -> None:
    with pytest.raises(InvalidRequest):
        ScanPlace.decode(Cursor(cursor))
