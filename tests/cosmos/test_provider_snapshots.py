"""Snapshots of a container, in both modes: its latest versions, range by range, and the changes since."""

import json
from datetime import timedelta

import grpc
import pytest

from changefeed.v1 import change_event_pb2
from changefeed_gateway.core.errors import InvalidRequest
from changefeed_gateway.core.model import Cursor
from changefeed_gateway.providers.cosmos.scanning import decode_parts
from tests.conformance.client import NOW, SNAPSHOT, after, invalid, logical, physical, refused
from tests.conformance.test_snapshots import to_the_end
from tests.cosmos.conftest import serving
from tests.cosmos.scene import THINGS, Scene
from tests.cosmos.server.errors import internal, throttled
from tests.cosmos.server.wire import WireServer
from tests.faults import ALWAYS

pytestmark = pytest.mark.req("CF-12")

UPDATE = change_event_pb2.CHANGE_TYPE_UPDATE


async def test_an_item_is_what_its_last_change_says_and_when_that_was(either_scene: Scene) -> None:
    token = (await either_scene.client.resolve(NOW)).continuation_token
    either_scene.put("a", "b", "a")
    changes = {event.key.sort_key: event for event in (await either_scene.client.read_until(after(token), 2)).events}
    items = (await to_the_end(either_scene.client, size=1)).events
    assert [item.key.sort_key for item in items] == ["b", "a"], "in the order of their last changes"
    for item in items:
        event = changes[item.key.sort_key]
        assert item.key == event.key
        assert item.partition_id == event.partition_id
        assert item.event_id != event.event_id
        assert json.loads(item.new_item_json)["text"].startswith("text")
        assert item.HasField("commit_timestamp")


async def test_a_scan_of_a_container_that_is_written_to_ends_where_the_feed_was_when_it_began(
    either_scene: Scene,
) -> None:
    scene = either_scene
    scene.put(*[f"item {number}" for number in range(6)])
    page = await scene.client.read(SNAPSHOT, size=2)
    pages = 1
    while not page.snapshot.finished:
        scene.put(*[f"item {number}" for number in range(6)])
        page = await scene.client.read(after(page.continuation_token), size=2)
        pages += 1
        assert pages < 10, "it runs after its writer"
    latest = {}
    for event in (await scene.client.read_all(after(page.continuation_token))).events:
        latest[event.key.sort_key] = json.loads(event.new_item_json)["text"]
    assert latest.keys() == {f"item {number}" for number in range(6)}


async def test_a_range_that_splits_while_its_items_are_read_loses_none_and_repeats_none(either_scene: Scene) -> None:
    scene = either_scene
    scene.put_many(40)
    home = scene.range_id
    whole, part = (
        await scene.client.read(SNAPSHOT, size=7),
        await scene.client.read(SNAPSHOT, scope=physical(home), size=7),
    )
    for child in scene.server.split(THINGS, home):
        scene.server.split(THINGS, child)
    await scene.restart()
    for first in (whole, part):
        rest = await to_the_end(scene.client, after(first.continuation_token), size=7)
        keys = [event.key.partition_key for event in [*first.events, *rest.events]]
        assert len(keys) == len(set(keys)) == 40
    rest = await to_the_end(scene.client, after(part.continuation_token))
    retired = await scene.client.read(after(rest.pages[-1].continuation_token))
    assert retired.partition_retired
    assert len(retired.child_partitions) == 4


async def test_items_of_a_logical_partition_and_of_a_range_are_those_alone(wide_scene: Scene) -> None:
    scene = wide_scene
    scene.put_many(60)
    scene.put("x", "y", pk="mine")
    items = (await to_the_end(scene.client, scope=logical("mine"), size=1)).events
    assert [item.key.sort_key for item in items] == ["x", "y"]
    found = []
    for range_id in scene.server.ranges(THINGS):
        items = (await to_the_end(scene.client, scope=physical(range_id))).events
        assert {item.partition_id for item in items} == {range_id}
        found += [item.key.sort_key for item in items]
    assert len(found) == len(set(found)) == 62


@pytest.mark.req("P1")
async def test_a_replica_that_lags_as_the_scan_begins_hides_no_item(either_scene: Scene) -> None:
    scene = either_scene
    names = [f"item {number:02}" for number in range(20)]
    scene.put(*names)
    # The position of the changes, and what the gateway has seen of the range.
    await scene.client.resolve(NOW)
    scene.server.lag(THINGS, 19)
    items = (await to_the_end(scene.client, size=1)).events
    assert [item.key.sort_key for item in items] == names


@pytest.mark.req("P1")
@pytest.mark.parametrize("size", [1, 10])
async def test_a_replica_that_lags_shows_no_item_that_was_deleted_before_the_changes_begin(
    either_scene: Scene, size: int
) -> None:
    scene = either_scene
    scene.put("a", "b", "c")
    scene.server.delete(THINGS, "b", "a")
    token = (await scene.client.resolve(SNAPSHOT)).continuation_token
    scene.server.stale(THINGS, 1, answers=2)
    items = (await to_the_end(scene.client, after(token), size=size)).events
    assert [item.key.sort_key for item in items] == ["a", "c"]


@pytest.mark.req("P5")
async def test_a_snapshot_across_a_fail_over_that_lost_writes_ends_loudly_and_another_one_can_be_taken(
    either_scene: Scene,
) -> None:
    scene = either_scene
    scene.put("a", "b", "c")
    token = (await scene.client.resolve(SNAPSHOT)).continuation_token
    scene.server.fail_over(THINGS, 1)
    code = grpc.StatusCode.UNAVAILABLE
    await refused(scene.client.read(after(token)), "TRANSIENT_FAILURE", "PROVIDER_UNAVAILABLE", code)
    scene.server.pass_time(timedelta(hours=2))
    await refused(scene.client.read(after(token)), "PROVIDER_ERROR", "HISTORY_GAP", grpc.StatusCode.DATA_LOSS)
    items = (await to_the_end(scene.client)).events
    assert [item.key.sort_key for item in items] == ["a", "b"]


async def test_a_delete_during_a_snapshot_arrives_after_it(scene: Scene) -> None:
    scene.put("a", "b", "c")
    page = await scene.client.read(SNAPSHOT, size=1)
    for name in ("a", "b", "c"):
        scene.server.delete(THINGS, name, "a")
    rest = await to_the_end(scene.client, after(page.continuation_token))
    assert not rest.events
    changes = (await scene.client.read_until(after(rest.pages[-1].continuation_token), 3)).events
    assert {event.change_type for event in changes} == {change_event_pb2.CHANGE_TYPE_DELETE}


async def test_what_was_deleted_before_a_snapshot_began_is_not_among_its_items(either_scene: Scene) -> None:
    """What another snapshot has left of an answer was true when it was given."""
    scene = either_scene
    scene.server.transaction(THINGS, *[{"id": f"item {number}", "pk": "a"} for number in range(9)])
    # The service does not cut the transaction, and the page does.
    await scene.client.read(SNAPSHOT, size=4)
    scene.server.delete(THINGS, "item 8", "a")
    items = (await to_the_end(scene.client, size=4)).events
    assert sorted(item.key.sort_key for item in items) == [f"item {number}" for number in range(8)]


async def test_a_snapshot_that_goes_on_at_another_gateway_is_not_given_what_an_earlier_one_has_left_there(
    scene: Scene,
) -> None:
    elsewhere = Scene(scene.server)
    await elsewhere.serve()
    try:
        scene.server.transaction(THINGS, *[{"id": f"item {number}", "pk": "a"} for number in range(9)])
        await elsewhere.client.read(SNAPSHOT, size=4)
        scene.server.delete(THINGS, "item 8", "a")
        page = await scene.client.read(SNAPSHOT, size=4)
        rest = await to_the_end(elsewhere.client, after(page.continuation_token), size=4)
        names = [item.key.sort_key for item in [*page.events, *rest.events]]
        assert sorted(names) == [f"item {number}" for number in range(8)]
    finally:
        await elsewhere.kill()


async def test_what_a_page_of_a_snapshot_has_no_room_for_is_not_asked_for_again(scene: Scene) -> None:
    scene.server.transaction(THINGS, *[{"id": f"item {number}", "pk": "a"} for number in range(9)])
    token = (await scene.client.resolve(SNAPSHOT)).continuation_token
    # What is kept is used from the next second on.
    scene.server.pass_time(timedelta(seconds=1))
    scene.server.calls.clear()
    assert len((await to_the_end(scene.client, after(token), size=1)).events) == 9
    assert scene.server.calls.count("ReadChangeFeed") <= 3


async def test_any_number_of_empty_ranges_may_split_while_a_snapshot_is_read(server: WireServer) -> None:
    async with serving(server, ranges=12) as scene:
        token = (await scene.client.resolve(SNAPSHOT)).continuation_token
        for range_id in server.ranges(THINGS):
            server.split(THINGS, range_id)
        assert not (await to_the_end(scene.client, after(token))).events


async def test_the_start_says_about_how_many_items_there_are_what_it_cost_and_that_it_converges(
    either_scene: Scene,
) -> None:
    either_scene.put_many(5)
    page = await either_scene.client.read(SNAPSHOT, size=2)
    assert page.snapshot.estimated_items == 5
    assert page.diagnostics.request_charge > 0
    assert "SNAPSHOT_CONVERGES" in [warning.code for warning in page.warnings]


async def test_answers_without_documents_and_a_whole_transaction_in_one_answer_lose_nothing(scene: Scene) -> None:
    scene.server.transaction(THINGS, *[{"id": f"item {number}", "pk": "a", "text": "x"} for number in range(9)])
    scene.server.empty_pages(THINGS, scene.range_id, 3)
    items = (await to_the_end(scene.client, size=4)).events
    assert sorted(item.key.sort_key for item in items) == [f"item {number}" for number in range(9)]


@pytest.mark.req("P6")
async def test_a_snapshot_that_outlived_the_backup_window_is_expired(scene: Scene) -> None:
    scene.put("a", "b")
    page = await scene.client.read(SNAPSHOT, size=1)
    assert page.token_expire_time.seconds
    scene.put("c")
    scene.server.trim(THINGS)
    found = await refused(
        scene.client.resolve(after(page.continuation_token)),
        "CHECKPOINT_EXPIRED",
        "CHECKPOINT_EXPIRED",
        grpc.StatusCode.OUT_OF_RANGE,
    )
    assert "snapshot" in found.message


@pytest.mark.req("P6")
async def test_a_container_that_was_made_anew_ends_a_stream_in_its_snapshot(scene: Scene) -> None:
    scene.put_many(60)
    async with scene.client.subscribe(SNAPSHOT, size=1) as stream:
        await stream.until("batch")
        token = stream.token
        scene.server.recreate_container(THINGS)
    await invalid(scene.client.read(after(token)), "TOKEN_RESOURCE_RECREATED")


@pytest.mark.req("E3")
async def test_refusals_during_a_scan_have_their_reasons(scene: Scene) -> None:
    scene.put("a", "b")
    page = await scene.client.read(SNAPSHOT, size=1)
    scene.server.fail("ReadChangeFeed", internal(), times=1)
    assert [item.key.sort_key for item in (await to_the_end(scene.client, after(page.continuation_token))).events]
    scene.server.fail("ReadChangeFeed", throttled(60_000), times=ALWAYS)
    found = await refused(
        scene.client.read(after(page.continuation_token)),
        "THROTTLED",
        "PROVIDER_THROTTLED",
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )
    assert found.retry_delay


@pytest.mark.req("P6")
@pytest.mark.parametrize("cursor", [b"", b"\0", b"\0\0\0\1", b"\xff\xff\xff\xff", b"\0\0\0\1" + b"\0" * 9])
async def test_what_no_scan_wrote_is_refused(cursor: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_parts(Cursor(cursor))
