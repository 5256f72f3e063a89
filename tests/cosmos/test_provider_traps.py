"""What the SDK does with a change feed, and that a reader of the gateway does not fall into it (test_sdk_traps.py)."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from changefeed_gateway.core.model import Address, After, Now, PageRead, PartitionId, PhysicalPartition
from changefeed_gateway.providers.cosmos import logical as logical_page
from changefeed_gateway.providers.cosmos import physical as physical_page
from changefeed_gateway.providers.cosmos.cursor import Mode
from tests.conformance.client import BEGINNING, NOW, Scope, after, at_time, logical, physical, refused
from tests.cosmos.gateway import make_provider
from tests.cosmos.scene import THINGS, Scene
from tests.cosmos.server.behaviour import Behaviour
from tests.cosmos.server.errors import gone, throttled
from tests.cosmos.server.wire import WireServer
from tests.faults import ALWAYS

pytestmark = pytest.mark.req("P1", "P4")


async def test_an_empty_page_has_a_token_all_the_same(either_scene: Scene) -> None:
    """Trap 1: the SDK ends its iteration upon 304, and keeps its etag to itself."""
    scene = either_scene
    page = await scene.client.read(NOW)
    for _ in range(2):
        page = await scene.client.read(after(page.continuation_token))
        assert not page.events
    scene.put("1")
    assert len((await scene.client.read(after(page.continuation_token))).events) == 1


async def test_now_is_fixed_for_every_range_before_the_answer(wide_scene: Scene) -> None:
    """Trap 2: a range of the SDK takes its now at its first poll."""
    scene = wide_scene
    token = (await scene.client.resolve(NOW)).continuation_token
    scene.put_many(20)
    await scene.restart()
    assert len((await scene.client.read_all(after(token), size=1)).events) == 20


async def test_now_is_not_fixed_while_the_listing_of_the_ranges_lacks_one(
    wide_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = wide_scene
    container = scene.server.container(THINGS)
    # The SDK knows the ranges from then on, and refuses a listing with a gap itself.
    await scene.client.read(NOW)
    whole, gaps = container.listing(0), [1, 2]
    monkeypatch.setattr(container, "listing", lambda after: whole[:-1] if gaps and gaps.pop() else whole)
    token = (await scene.client.resolve(NOW)).continuation_token
    scene.put_many(20)
    assert len((await scene.client.read_all(after(token))).events) == 20


async def test_a_token_saved_after_the_first_of_several_ranges_resumes(wide_scene: Scene) -> None:
    """Trap 2: the SDK's own has no place for the ranges that it has not read."""
    scene = wide_scene
    start = (await scene.client.resolve(NOW)).continuation_token
    scene.put_many(20)
    first = await scene.client.read(after(start), size=1)
    await scene.restart()
    rest = (await scene.client.read_all(after(first.continuation_token))).events
    assert len({event.event_id for event in [*first.events, *rest]}) == 20


async def test_a_start_at_a_time_resumes(latest_scene: Scene) -> None:
    """Trap 3: the SDK takes the milliseconds of its own continuation for seconds."""
    scene = latest_scene
    scene.server.pass_time(-timedelta(seconds=60))
    scene.put("old")
    scene.server.pass_time(timedelta(seconds=30))
    chosen = Timestamp()
    chosen.FromDatetime(datetime.now(UTC) - timedelta(seconds=45))
    scene.put("1", "2")
    page = await scene.client.read(at_time(chosen), size=1)
    rest = await scene.client.read_all(after(page.continuation_token))
    assert [event.key.sort_key for event in [*page.events, *rest.events]] == ["1", "2"]


async def test_who_begins_is_not_told_of_what_was_deleted_before(latest_scene: Scene) -> None:
    """Of latest versions, what another reader has left of an answer was true when it was given."""
    scene = latest_scene
    scene.server.transaction(THINGS, *[{"id": f"item {number}", "pk": "a"} for number in range(9)])
    await scene.client.read(BEGINNING, size=4)
    scene.server.delete(THINGS, "item 8", "a")
    events = (await scene.client.read_all(BEGINNING, size=4)).events
    assert sorted(event.key.sort_key for event in events) == [f"item {number}" for number in range(8)]


async def test_who_waits_is_not_told_that_nothing_is_there_behind_an_answer_without_documents(
    server: WireServer,
) -> None:
    server.create_container(THINGS, "/pk")
    provider = make_provider(server)
    try:
        feed = await provider.open_feed(Address(connection="subject", database="", collection=THINGS))
        [range_id] = server.ranges(THINGS)
        scope, size = PhysicalPartition(PartitionId(range_id)), 10**6
        now = PageRead(scope=scope, start=Now(), max_changes=0, max_bytes=size, max_item_bytes=size)
        start = After((await provider.read_page(feed, now)).cursor)
        server.upsert(THINGS, {"id": "1", "pk": "a"})
        server.empty_pages(THINGS, range_id, 1)
        # The answer takes longer than the wait.
        server.behaviour.thinking = timedelta(milliseconds=600)
        wait = replace(now, start=start, max_changes=10, max_wait=timedelta(milliseconds=200))
        page = await provider.read_page(feed, wait)
        assert not page.changes
        assert page.more_available
    finally:
        await provider.aclose()


async def test_a_range_that_is_gone_for_ever_is_asked_for_a_few_times(scene: Scene) -> None:
    """Trap 4: the SDK calls itself until there is no stack left."""
    token = (await scene.client.read(NOW)).continuation_token
    scene.server.fail("ReadChangeFeed", gone(), times=ALWAYS)
    scene.server.calls.clear()
    with pytest.raises(Exception, match="split or moved"):
        await scene.client.read(after(token))
    assert scene.server.calls.count("ReadChangeFeed") < 20


async def test_throttling_costs_a_call_for_each_attempt_and_not_a_hundred(scene: Scene) -> None:
    """Trap 5: two loops of the SDK, of nine each."""
    token = (await scene.client.read(NOW)).continuation_token
    scene.server.fail("ReadChangeFeed", throttled(1), times=ALWAYS)
    scene.server.calls.clear()
    with pytest.raises(Exception, match="throttles"):
        await scene.client.read(after(token))
    assert scene.server.calls.count("ReadChangeFeed") == 4


async def test_an_answer_larger_than_a_page_is_cut_and_resumed_within_a_transaction(either_scene: Scene) -> None:
    """Trap 8: a transaction is never cut, so that a page of the service may have more than was asked for."""
    scene = either_scene
    start = (await scene.client.resolve(NOW)).continuation_token
    batch = [{"id": f"{number}", "pk": "a", "text": "first"} for number in range(7)]
    scene.server.transaction(THINGS, *batch)
    reading = await scene.client.read_all(after(start), size=3)
    assert [len(page.events) for page in reading.pages[:3]] == [3, 3, 1]
    whole = [event.event_id for event in reading.events]
    assert len(set(whole)) == 7
    for number, page in enumerate(reading.pages):
        await scene.restart()
        rest = (await scene.client.read_all(after(page.continuation_token))).events
        read = sum(len(earlier.events) for earlier in reading.pages[: number + 1])
        assert [event.event_id for event in rest] == whole[read:]


@pytest.mark.req("P1")
@pytest.mark.parametrize("answer", ["stale", "empty"])
async def test_the_rest_of_a_transaction_that_was_cut_comes_behind_an_answer_that_does_not_tell_of_it(
    either_scene: Scene, answer: str
) -> None:
    """Trap 8, with a replica that lags, or an answer without documents, when another gateway goes on in its middle."""
    scene = either_scene
    scene.put("0")
    start = (await scene.client.resolve(NOW)).continuation_token
    scene.server.transaction(THINGS, *({"id": f"{number}", "pk": "a", "text": "first"} for number in range(1, 8)))
    whole = [event.event_id for event in (await scene.client.read_all(after(start))).events]
    page = await scene.client.read(after(start), size=3)
    assert [event.event_id for event in page.events] == whole[:3]
    await scene.restart()
    if answer == "stale":
        scene.server.stale(THINGS, 1, answers=1)
    else:
        scene.server.empty_pages(THINGS, scene.range_id, 1)
    token = page.continuation_token
    rest: list[str] = []
    async with asyncio.timeout(20):
        while len(rest) < len(whole) - 3:
            page = await scene.client.read(after(token), wait=1)
            token = page.continuation_token
            rest += [event.event_id for event in page.events]
    assert rest == whole[3:]


async def test_the_same_item_twice_in_a_transaction_is_two_changes(scene: Scene) -> None:
    start = (await scene.client.resolve(NOW)).continuation_token
    scene.server.transaction(THINGS, *({"id": "1", "pk": "a", "text": text} for text in ("one", "two", "three")))
    for size in (1, 2, 9):
        events = (await scene.client.read_all(after(start), size=size)).events
        assert [event.new_item_json.split('"text":"')[1].split('"')[0] for event in events] == ["one", "two", "three"]
        assert len({event.event_id for event in events}) == 3
        assert len({event.sequence for event in events}) == 1


async def test_an_answer_without_documents_is_not_the_end(either_scene: Scene) -> None:
    """Trap 8: only 304 says so."""
    scene = either_scene
    token = (await scene.client.read(NOW)).continuation_token
    scene.put("1")
    scene.server.empty_pages(THINGS, scene.range_id, 3)
    page = await scene.client.read(after(token))
    assert len(page.events) == 1


@pytest.mark.parametrize("scope", [None, logical("a")], ids=["everything", "one key"])
async def test_a_page_that_takes_long_over_answers_without_documents_keeps_the_way_it_came(
    either_scene: Scene, scope: Scope | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = either_scene
    for room in (logical_page, physical_page):
        monkeypatch.setattr(room, "LATE", 0.0)
    start = after((await scene.client.read(NOW, scope=scope)).continuation_token)
    scene.put("1")
    scene.server.empty_pages(THINGS, scene.range_id, 3)
    told = []
    for _ in range(4):
        page = await scene.client.read(start, scope=scope)
        told.append((len(page.events), page.more_available))
        start = after(page.continuation_token)
    assert told == [(0, True), (0, True), (0, True), (1, True)]


async def test_a_latest_version_that_is_replaced_within_a_page_takes_no_other_with_it(latest_scene: Scene) -> None:
    """What was read is not where it was when the rest of its transaction is asked for."""
    scene = latest_scene
    start = (await scene.client.resolve(NOW)).continuation_token
    scene.server.transaction(THINGS, *({"id": f"{number}", "pk": "a", "text": "first"} for number in range(5)))
    page = await scene.client.read(after(start), size=2)
    scene.put(*(event.key.sort_key for event in page.events))
    rest = (await scene.client.read_all(after(page.continuation_token))).events
    assert sorted(event.key.sort_key for event in rest) == sorted(f"{number}" for number in range(5))


async def test_a_now_behind_the_head_repeats_under_known_ids(scene: Scene) -> None:
    """Trap 9: a replica that lags."""
    start = (await scene.client.resolve(NOW)).continuation_token
    scene.put("1", "2", "3")
    known = [event.event_id for event in (await scene.client.read_all(after(start))).events]
    scene.server.lag(THINGS, 2)
    lagging = (await scene.client.resolve(NOW)).continuation_token
    found = [event.event_id for event in (await scene.client.read_all(after(lagging))).events]
    assert found
    assert found == known[-len(found) :]


@pytest.mark.req("P5")
@pytest.mark.parametrize("scope", [None, logical("a")], ids=["all", "a key"])
async def test_a_change_that_has_the_number_of_one_that_was_lost_is_a_gap_and_not_passed_over(
    scene: Scene, scope: Scope | None
) -> None:
    scene.put("1", "2", "3")
    token = (await scene.client.resolve(NOW, scope=scope)).continuation_token
    scene.server.fail_over(THINGS, 2)
    # A moment in which nothing has been written yet.
    token = (await scene.client.read(after(token))).continuation_token
    scene.server.pass_time(timedelta(minutes=2))
    scene.put("4")
    await refused(scene.client.read(after(token)), "PROVIDER_ERROR", "HISTORY_GAP", grpc.StatusCode.DATA_LOSS)


@pytest.mark.req("P5")
async def test_changes_that_count_from_lower_numbers_are_a_gap_once_no_replica_can_lag_so_far(scene: Scene) -> None:
    scene.put("1", "2", "3")
    token = (await scene.client.resolve(NOW)).continuation_token
    scene.server.pass_time(timedelta(hours=2))
    page = await scene.client.read(after(token))
    scene.server.fail_over(THINGS, 2)
    tokens = [page.continuation_token]
    for _ in range(2):
        scene.server.pass_time(timedelta(minutes=20))
        page = await scene.client.read(after(tokens[-1]))
        assert not page.events
        tokens.append(page.continuation_token)
    scene.server.pass_time(timedelta(minutes=40))
    for told in tokens:
        await refused(scene.client.read(after(told)), "PROVIDER_ERROR", "HISTORY_GAP", grpc.StatusCode.DATA_LOSS)


@pytest.mark.req("CF-10")
@pytest.mark.parametrize("known", [True, False], ids=["the SDK knows", "the SDK does not know"])
async def test_a_split_that_the_sdk_would_hide_is_told(server: WireServer, known: bool) -> None:
    """Section 3: it puts the children into the place of their parent, and reads them in turn."""
    server.create_container(THINGS, "/pk")
    scene = Scene(server)
    await scene.serve()
    try:
        parent = scene.range_id
        token = (await scene.client.read(NOW, scope=physical(parent))).continuation_token
        scene.put_many(20)
        children = server.split(THINGS, parent)
        if known:
            # Another reader has come to the children.
            await scene.client.resolve(NOW)
        page = await scene.client.read(after(token))
        assert page.partition_retired
        assert [child.partition_id for child in page.child_partitions] == children
        found = [await scene.client.read_all(after(child.continuation_token)) for child in page.child_partitions]
        assert sorted(len(reading.events) for reading in found) != [0, 20]
        assert len({event.event_id for reading in found for event in reading.events}) == 20
    finally:
        await scene.kill()


@pytest.mark.req("CF-10", "E4")
async def test_partitions_that_were_merged_are_read_on_each_by_itself(server: WireServer) -> None:
    """The latest versions: nobody loses a place, and a new reader sees one partition."""
    server.behaviour = server.account.behaviour = Behaviour(ranges=2)
    server.create_container(THINGS, "/pk", ranges=2)
    scene = Scene(server, mode=Mode.LATEST_VERSION)
    await scene.serve()
    try:
        halves = server.ranges(THINGS)
        whole = (await scene.client.resolve(NOW)).continuation_token
        tokens = [(await scene.client.resolve(NOW, scope=physical(half))).continuation_token for half in halves]
        scene.put_many(10)
        merged = server.merge(THINGS, halves)
        scene.put_many(10)
        readings = [await scene.client.read_all(after(token)) for token in tokens]
        assert not any(page.partition_retired for reading in readings for page in reading.pages)
        everything = await scene.client.read_all(after(whole))
        together = {event.event_id for reading in readings for event in reading.events}
        assert together == {event.event_id for event in everything.events}
        assert len(together) == 20
        active = [found.partition_id for found in await scene.client.partitions() if found.state == 1]
        assert active == [merged]
        assert len((await scene.client.read_all(BEGINNING)).events) == 20
    finally:
        await scene.kill()
