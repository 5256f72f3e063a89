"""What a container holds and what its feed is like, as a caller of the gateway sees it."""

import json
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from changefeed.v1 import change_event_pb2
from changefeed_gateway.providers.cosmos.cursor import Mode
from tests.conformance.client import BEGINNING, NOW, after, at_time, invalid, logical, refused, unsupported
from tests.conformance.journal import ids
from tests.cosmos.scene import THINGS, Scene
from tests.cosmos.server.wire import WireServer

TREE = "tree"


@pytest.fixture
async def tree(server: WireServer) -> AsyncIterator[Scene]:
    """A container whose partition key has three values."""
    server.create_container(TREE, "/tenant", "/place/city", "/user", ranges=4)
    scene = Scene(server)
    await scene.serve()
    yield scene
    await scene.kill()


def leaf(number: int, tenant: str, city: str, user: str) -> dict[str, object]:
    return {"id": f"{number}", "tenant": tenant, "place": {"city": city}, "user": user}


@pytest.mark.req("CF-03")
async def test_an_item_arrives_as_it_is_without_what_says_where_it_is_kept(either_scene: Scene) -> None:
    scene = either_scene
    start = (await scene.client.resolve(NOW)).continuation_token
    item = {
        "id": "1",
        "pk": "a",
        "text": 'ünï"\\\n',
        "number": 1.5,
        "whole": 9007199254740991,
        "null": None,
        "list": [{}],
    }
    scene.server.upsert(THINGS, item)
    [event] = (await scene.client.read_all(after(start))).events
    told = json.loads(event.new_item_json)
    assert {name: told[name] for name in item} == item
    assert set(told) == {*item, "_etag", "_ts"}
    assert told["_ts"] == event.commit_timestamp.seconds
    assert not event.commit_timestamp.nanos
    partition, item_id = event.key.components
    assert (event.key.partition_key, partition.name, partition.value) == ("a", "pk", "a")
    assert (event.key.sort_key, item_id.name, item_id.value) == ("1", "id", "1")


@pytest.mark.parametrize(
    "value",
    ['"\\ud800"', str(2**64), "1e22", "[" * 300 + "]" * 300],
    ids=["half a pair of surrogates", "beyond 64 bits", "a large fraction", "many levels"],
)
async def test_a_value_that_few_writers_of_json_take_does_not_stop_the_feed(scene: Scene, value: str) -> None:
    start = (await scene.client.resolve(NOW)).continuation_token
    scene.put("1")
    scene.server.container(THINGS).history[-1]._text = f'{{"id":"1","pk":"a","_ts":1,"_etag":"e","value":{value}}}'
    [event] = (await scene.client.read_all(after(start))).events
    assert json.loads(event.new_item_json)["value"] == json.loads(value)


@pytest.mark.req("CF-03")
@pytest.mark.parametrize("deleted_current", [False, True])
@pytest.mark.parametrize("previous_image", [False, True])
async def test_creates_replaces_deletes_and_expiry_are_told_apart(
    scene: Scene, deleted_current: bool, previous_image: bool
) -> None:
    scene.server.behaviour.deleted_current = deleted_current
    scene.server.behaviour.previous_image = previous_image
    start = (await scene.client.resolve(NOW)).continuation_token
    scene.put("1", "1", "2")
    scene.server.delete(THINGS, "1", "a")
    scene.server.expire_item(THINGS, "2", "a")
    scene.put("1")
    events = (await scene.client.read_all(after(start))).events
    assert [(event.change_type, event.key.sort_key) for event in events] == [
        (change_event_pb2.CHANGE_TYPE_CREATE, "1"),
        (change_event_pb2.CHANGE_TYPE_UPDATE, "1"),
        (change_event_pb2.CHANGE_TYPE_CREATE, "2"),
        (change_event_pb2.CHANGE_TYPE_DELETE, "1"),
        (change_event_pb2.CHANGE_TYPE_DELETE, "2"),
        (change_event_pb2.CHANGE_TYPE_CREATE, "1"),
    ]
    assert [event.origin == change_event_pb2.ORIGIN_EXPIRY for event in events] == [False] * 4 + [True, False]
    assert {event.key.partition_key for event in events} == {"a"}
    assert len(set(ids(events))) == 6
    assert "text 0" not in events[1].new_item_json, "the previous image is left out"


@pytest.mark.req("US1.1", "CF-09", "P5")
async def test_latest_versions_say_what_they_are_with_every_page(latest_scene: Scene) -> None:
    scene = latest_scene
    capabilities = await scene.client.capabilities()
    supported = {each.name for each in capabilities.capabilities if each.supported}
    assert "CHANGE_FEED_DELETES" not in supported
    assert {"CHANGE_FEED_BEGINNING", "CHANGE_FEED_POINT_IN_TIME"} <= supported
    codes = {"CREATES_ARE_UPDATES", "VERSIONS_ARE_CONFLATED", "NO_DELETES"}
    assert {warning.code for warning in capabilities.warnings} == codes
    scene.put("1", "1", "2")
    scene.server.delete(THINGS, "2", "a")
    for page in (await scene.client.read_all(BEGINNING)).pages:
        assert {warning.code for warning in page.warnings} == codes
        assert {event.change_type for event in page.events} <= {change_event_pb2.CHANGE_TYPE_UPDATE}
    assert [event.key.sort_key for event in (await scene.client.read_all(BEGINNING)).events] == ["1"]


@pytest.mark.req("CF-04", "CF-09", "P5")
async def test_all_versions_refuse_a_beginning_and_a_time_as_the_service_does(scene: Scene) -> None:
    time = Timestamp(seconds=int(scene.server.account.clock.now()) - 60)
    for start, name in ((BEGINNING, "CHANGE_FEED_BEGINNING"), (at_time(time), "CHANGE_FEED_POINT_IN_TIME")):
        await unsupported(scene.client.read(start), name)
    assert not (await scene.client.read(NOW)).warnings


@pytest.mark.req("CF-08")
async def test_a_token_of_the_other_mode_is_refused_with_the_way_out(server: WireServer, scene: Scene) -> None:
    token = (await scene.client.resolve(NOW)).continuation_token
    other = Scene(server, mode=Mode.LATEST_VERSION)
    await other.serve()
    try:
        answer = other.client.read(after(token))
        code = grpc.StatusCode.INVALID_ARGUMENT
        found = await refused(answer, "INVALID_REQUEST", "TOKEN_WRONG_RESOURCE", code)
        assert "mode" in found.message
    finally:
        await other.kill()


# --- Keys


@pytest.mark.req("US3.2", "CF-05")
@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), ("[a", '["[a"]'), (5, "[5]"), (5.5, "[5.5]"), (True, "[true]"), (None, "[null]"), (..., "[{}]")],
)
async def test_every_kind_of_key_names_its_logical_partition(scene: Scene, value: object, text: str) -> None:
    item = {"id": "1"} if value is ... else {"id": "1", "pk": value}
    start = (await scene.client.resolve(NOW)).continuation_token
    scene.put("other", pk="zzz")
    scene.server.upsert(THINGS, item)
    scene.server.delete(THINGS, "1", {} if value is ... else value)  # type: ignore[arg-type]
    events = [event for event in (await scene.client.read_all(after(start))).events if event.key.sort_key == "1"]
    assert [event.key.partition_key for event in events] == [text, text]
    token = (await scene.client.resolve(NOW, scope=logical(text))).continuation_token
    scene.server.upsert(THINGS, item)
    scene.put("other", pk="zzz")
    [event] = (await scene.client.read_all(after(token))).events
    assert event.key.sort_key == "1"


@pytest.mark.req("US3.2", "CF-05")
async def test_hierarchical_keys_and_their_prefixes_are_logical_partitions(tree: Scene) -> None:
    client = tree.client_of(TREE)
    texts = {
        '["t1"]': 12,
        '["t1","Ulm"]': 6,
        '["t1","Ulm","u1"]': 3,
        '["t2"]': 4,
    }
    tokens = {text: (await client.resolve(NOW, scope=logical(text))).continuation_token for text in texts}
    number = 0
    for tenant, city, user, count in (
        ("t1", "Ulm", "u1", 3),
        ("t1", "Ulm", "u2", 3),
        ("t1", "Bonn", "u1", 6),
        ("t2", "Ulm", "u1", 4),
    ):
        for _ in range(count):
            number += 1
            tree.server.upsert(TREE, leaf(number, tenant, city, user))
    for text, token in tokens.items():
        for size in (1, 4, 0):
            events = (await client.read_all(after(token), size=size)).events
            assert len(events) == texts[text]
            assert len(set(ids(events))) == texts[text]
    event = events[0]
    assert event.key.partition_key == '["t2","Ulm","u1"]'
    assert [each.name for each in event.key.components] == ["tenant", "place/city", "user", "id"]


@pytest.mark.req("US3.2", "CF-10", "P1")
async def test_a_prefix_that_lies_in_several_ranges_is_read_through_splits(tree: Scene) -> None:
    client, server = tree.client_of(TREE), tree.server
    home = server.range_of(TREE, "t1")
    token = (await client.resolve(NOW, scope=logical('["t1"]'))).continuation_token
    for number in range(8):
        server.upsert(TREE, leaf(number, "t1", f"city {number}", "u"))
    first = await client.read(after(token), size=3)
    # Within the prefix: between two of its keys.
    keys = sorted({change.epk for change in server.container(TREE).history})
    server.split(TREE, home, keys[4])
    for number in range(8, 16):
        server.upsert(TREE, leaf(number, "t1", f"city {number}", "u"))
    await tree.restart()
    rest = await tree.client_of(TREE).read_all(after(first.continuation_token), size=3)
    events = [*first.events, *rest.events]
    assert sorted(int(event.key.sort_key) for event in events) == list(range(16))
    fresh = (await tree.client_of(TREE).resolve(NOW, scope=logical('["t1"]'))).continuation_token
    for number in range(8):
        server.upsert(TREE, leaf(number, "t1", f"city {number}", "u"))
    assert len((await tree.client_of(TREE).read_all(after(fresh), size=2)).events) == 8


@pytest.mark.req("CF-05")
@pytest.mark.parametrize("text", ["[", "[]", '["a","b"]', '[["a"]]', '[{"a":1}]'])
async def test_what_is_no_key_of_the_container_is_refused(scene: Scene, text: str) -> None:
    found = await invalid(scene.client.read(NOW, scope=logical(text)), "FIELD_INVALID")
    assert found.fields == ["scope.logical_partition"]


async def test_a_deletion_without_its_key_is_loud(scene: Scene) -> None:
    start = (await scene.client.resolve(NOW)).continuation_token
    scene.put("1")
    scene.server.delete(THINGS, "1", "a")
    scene.server.container(THINGS).history[-1].key = None  # type: ignore[assignment]
    answer = scene.client.read_all(after(start))
    await refused(answer, "PROVIDER_ERROR", "PROVIDER_ERROR", grpc.StatusCode.UNKNOWN)
