"""What a table holds and what its stream is like, as a caller of the gateway sees it."""

import json
from datetime import timedelta
from decimal import Decimal

import pytest
from types_boto3_dynamodb.literals import StreamViewTypeType

from changefeed.v1 import change_event_pb2
from changefeed_gateway.core.pace import Pace
from tests.conformance.client import BEGINNING, NOW, REQUIRE, after, at_time, unsupported
from tests.conformance.journal import ids
from tests.dynamodb.scene import Scene
from tests.dynamodb.server.wire import WireServer
from tests.dynamodb.shop import TABLE, key

DIGITS = "-1234567890123456789012345678901234567.8"
"""A number with all the digits that the service keeps."""

SPLITS = 60

HURRY = Pace(shortest_pause=timedelta(milliseconds=5), longest_pause=timedelta(milliseconds=50))


@pytest.mark.req("CF-03")
async def test_every_type_of_value_arrives_with_all_its_digits(scene: Scene) -> None:
    await scene.write(
        scene.shop.put,
        "a",
        DIGITS,
        text={"S": 'ünï"\\\n'},
        binary={"B": b"\x00\xff"},
        yes={"BOOL": True},
        nothing={"NULL": True},
        texts={"SS": ["b"]},
        numbers={"NS": [DIGITS]},
        binaries={"BS": [b"\x01"]},
        nested={"M": {"$list": {"L": [{"N": "9007199254740993"}, {"S": "x"}]}}},
    )
    [event] = (await scene.client.read_all(BEGINNING)).events
    assert json.loads(event.new_item_json, parse_float=Decimal, parse_int=Decimal) == {
        "pk": "a",
        "sk": Decimal(DIGITS),
        "text": 'ünï"\\\n',
        "binary": {"$binary": "AP8="},
        "yes": True,
        "nothing": None,
        "texts": {"$stringSet": ["b"]},
        "numbers": {"$numberSet": [Decimal(DIGITS)]},
        "binaries": {"$binarySet": ["AQ=="]},
        "nested": {"$$list": [Decimal("9007199254740993"), "x"]},
    }
    partition, sort = event.key.components
    assert (event.key.partition_key, partition.value) == ("a", "a")
    assert (event.key.sort_key, sort.value) == (DIGITS, DIGITS)


@pytest.mark.req("CF-03")
async def test_what_time_to_live_deletes_says_so(scene: Scene) -> None:
    await scene.write(scene.shop.put, "a", 1)
    await scene.write(scene.shop.put, "a", 2)
    scene.server.expire_item(TABLE, key("a", 1))
    await scene.write(scene.shop.delete, "a", 2)
    _, _, expired, deleted = (await scene.client.read_all(BEGINNING)).events
    assert expired.change_type == deleted.change_type == change_event_pb2.CHANGE_TYPE_DELETE
    assert expired.origin == change_event_pb2.ORIGIN_EXPIRY
    assert deleted.origin == change_event_pb2.ORIGIN_APPLICATION


@pytest.mark.req("CF-09", "CF-11", "P5")
@pytest.mark.parametrize("view_type", ["KEYS_ONLY", "OLD_IMAGE", "NEW_IMAGE", "NEW_AND_OLD_IMAGES"])
async def test_the_view_type_decides_about_items(server: WireServer, view_type: StreamViewTypeType) -> None:
    scene = Scene(server)
    await scene.write(scene.shop.create, view_type)
    await scene.serve()
    try:
        await scene.write(scene.shop.put, "a", 1, text={"S": "x"})
        [event] = (await scene.client.read_all(BEGINNING)).events
        if view_type.startswith("NEW"):
            assert json.loads(event.new_item_json)["text"] == "x"
            assert len((await scene.client.read_all(BEGINNING, mode=REQUIRE)).events) == 1
        else:
            assert event.item_state == change_event_pb2.ITEM_STATE_UNAVAILABLE
            assert not event.new_item_json
            assert event.key.sort_key == "1"
            await unsupported(scene.client.read(BEGINNING, mode=REQUIRE), "CHANGE_FEED_NEW_ITEM_STATE")
            await unsupported(scene.client.read(NOW, mode=REQUIRE), "CHANGE_FEED_NEW_ITEM_STATE")
    finally:
        await scene.kill()


@pytest.mark.req("E4", "CF-10", "P1")
@pytest.mark.parametrize("shard_filter", [True, False])
async def test_a_listing_of_many_pages_is_read_to_its_end(scene: Scene, shard_filter: bool) -> None:
    """Whether or not the endpoint can list the children of one shard alone."""
    scene.server.behaviour.shard_filter = shard_filter
    for number in range(SPLITS):
        oldest, *_ = scene.server.open_shards(TABLE)
        scene.server.split(oldest)
        await scene.write(scene.shop.put, f"p{number}", number)
    assert len(scene.shop.shards()) > 100
    reading = await scene.client.read_all(BEGINNING, size=7)
    assert sorted(int(event.key.sort_key) for event in reading.events) == list(range(SPLITS))
    assert len(await scene.client.partitions()) == 2 * SPLITS + 1
    token = (await scene.client.read(NOW)).continuation_token
    await scene.write(scene.shop.put, "new", 1000)
    [event] = (await scene.client.read_until(after(token), 1)).events
    assert event.key.sort_key == "1000"


@pytest.mark.req("E1", "P1")
@pytest.mark.parametrize("pages", [1, 15, 40])
async def test_changes_behind_empty_pages_are_found(server: WireServer, pages: int) -> None:
    scene = Scene(server, pace=HURRY)
    await scene.write(scene.shop.create)
    await scene.serve()
    try:
        await scene.write(scene.shop.put, "a", 1)
        server.empty_pages(scene.shard, pages)
        assert len((await scene.client.read_until(BEGINNING, 1)).events) == 1
    finally:
        await scene.kill()


@pytest.mark.req("CF-04")
@pytest.mark.parametrize("exact", [True, False])
async def test_a_time_is_never_later_than_asked(timed_scene: Scene, exact: bool) -> None:
    scene = timed_scene
    scene.server.behaviour.exact_times = exact
    scene.server.pass_time(timedelta(seconds=-60))
    for number in range(6):
        await scene.write(scene.shop.put, "a", number)
        # Some in the middle of a second, some at its end.
        scene.server.pass_time(timedelta(seconds=0.5 - scene.server.account.clock.now() % 0.5))
    events = (await scene.client.read_all(BEGINNING)).events
    for number, event in enumerate(events):
        reading = await scene.client.read_all(at_time(event.commit_timestamp))
        assert set(ids(events[number:])) <= set(ids(reading.events))
