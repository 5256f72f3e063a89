"""How often the service is asked, and what that costs: shared reads, pauses that grow, charges that are told."""

import asyncio
from functools import partial
from typing import Any

import pytest
import structlog.testing

from changefeed.v1.change_event_pb2 import ChangeEvent
from changefeed_gateway.core.pace import Pace
from changefeed_gateway.providers.cosmos import consumption
from changefeed_gateway.providers.cosmos import provider as provider_module
from changefeed_gateway.providers.cosmos.cursor import WHOLE_RUN, Interval, Position
from changefeed_gateway.providers.cosmos.reading import Fetched, KeptAnswers
from changefeed_gateway.providers.cosmos.sdk import FREE, Cost, FeedAnswer, Sdk
from tests.conformance.client import NOW, after, physical
from tests.conformance.journal import ids
from tests.cosmos.conftest import serving
from tests.cosmos.gateway import make_provider
from tests.cosmos.scene import THINGS, Scene
from tests.cosmos.server.wire import WireServer


@pytest.mark.req("P7")
@pytest.mark.parametrize("scoped", [False, True])
async def test_many_live_streams_share_one_reader_a_range(scene: Scene, scoped: bool) -> None:
    scope = physical(scene.range_id) if scoped else None
    streams = [scene.client.subscribe(NOW, scope=scope) for _ in range(20)]
    try:
        await asyncio.gather(*(stream.until_live() for stream in streams))
        scene.server.calls.clear()
        for written in (10, 20, 30):
            scene.put_many(10)
            await asyncio.gather(*(stream.until_events(written) for stream in streams))
        assert len({tuple(ids(stream.events)) for stream in streams}) == 1
    finally:
        for stream in streams:
            await stream.__aexit__(None, None, None)
    assert scene.server.calls.most_under_way()[scene.range_id] <= 2


@pytest.mark.req("P7")
async def test_many_long_polls_share_their_calls(scene: Scene) -> None:
    token = (await scene.client.read(NOW)).continuation_token
    polls = [asyncio.create_task(scene.client.read_until(after(token), 1)) for _ in range(30)]
    await asyncio.to_thread(scene.server.calls.wait_for, "ReadChangeFeed", 5)
    scene.put("1")
    readings = await asyncio.gather(*polls)
    assert len({reading.events[0].event_id for reading in readings}) == 1
    assert scene.server.calls.most_under_way()[scene.range_id] <= 4


@pytest.mark.req("P1")
async def test_who_goes_on_in_small_pages_is_given_many_documents_by_one_call(scene: Scene) -> None:
    start = after((await scene.client.read(NOW)).continuation_token)
    scene.put_many(1_200)
    scene.server.calls.clear()
    events: list[ChangeEvent] = []
    page = await scene.client.read(start, size=50)
    while page.events:
        assert len(page.events) <= 50
        events += page.events
        page = await scene.client.read(after(page.continuation_token), size=50)
    # Page by page it would be 25.
    assert scene.server.calls.count("ReadChangeFeed") <= 6
    whole = await scene.client.read(start, size=5_000)
    assert ids(events) == ids([*whole.events, *(await scene.client.read(after(whole.continuation_token))).events])
    assert len(events) == 1_200


@pytest.mark.req("P7")
async def test_more_ranges_than_answers_are_kept_of_are_not_asked_for_what_is_lost_again(
    server: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_module, "KeptAnswers", partial(KeptAnswers, most=100_000))
    told: list[int] = []
    read_feed = Sdk.read_feed

    async def counted(sdk: Sdk, *call: Any, **options: Any) -> FeedAnswer:
        answer = await read_feed(sdk, *call, **options)
        told.append(len(answer.documents))
        return answer

    monkeypatch.setattr(Sdk, "read_feed", counted)
    async with serving(server, ranges=16) as scene:
        start = after((await scene.client.resolve(NOW)).continuation_token)
        scene.put_many(2_000)
        assert len((await scene.client.read_all(start, size=160)).events) == 2_000
    assert sum(told) < 1.5 * 2_000


@pytest.mark.req("P7")
async def test_answers_are_kept_within_a_bound_and_given_to_who_stands_within_them() -> None:
    kept = KeptAnswers(most=1_000)
    documents = [{"metadata": {"lsn": number}} for number in range(1, 4)]
    fetched = Fetched(documents, '"3"', at_tip=False, as_of=0, cost=Cost(1, 2.0), size=400)
    places = [Position(Interval(f"{number:02}", f"{number + 1:02}"), '"0"', 0) for number in range(5)]
    for place in places:
        kept.keep("c", place, fetched)
    assert [kept.find("c", place) is not None for place in places] == [False, False, False, True, True]
    last = places[-1]
    found = kept.find("c", last.behind(2, WHOLE_RUN, 0, 2))
    assert found is not None
    assert (found.documents, found.cost) == (documents, FREE)
    assert kept.find("c", last.behind(3, WHOLE_RUN, 0, 3)) is None
    assert kept.find("c", last.at('"3"', 3, 0)) is None
    kept.keep("c", last, fetched._replace(size=1_001))
    assert not any(kept.find("c", place) for place in places)
    assert kept.find("d", last) is None


async def test_who_has_read_an_answer_to_its_end_leaves_alone_what_others_read_of_the_same_range() -> None:
    kept = KeptAnswers()
    place = Position(Interval("00", "01"), '"0"', 0)
    kept.keep("c", place, Fetched([{}], '"3"', at_tip=False, as_of=0, cost=FREE))
    kept.forget("c", place.at('"3"', 3, 0))
    kept.forget("c", place._replace(interval=Interval("01", "02")))
    kept.forget("d", place)
    assert kept.find("c", place) is not None
    kept.forget("c", place)
    assert kept.find("c", place) is None


@pytest.mark.req("E1")
async def test_pauses_grow_where_nothing_happens_and_are_short_again_after_a_change(slow_scene: Scene) -> None:
    scene = slow_scene
    async with scene.client.subscribe(NOW, heartbeat=0.5) as stream:
        await stream.until_live()
        for _ in range(2):
            await stream.until("heartbeat")
        scene.server.calls.clear()
        await stream.until("heartbeat")
        await stream.until("heartbeat")
        # A second at 400 ms; without growing pauses it would be twenty.
        assert scene.server.calls.count("ReadChangeFeed") <= 5
        scene.put("1")
        await stream.until_events(1)


def test_pauses_are_bounded() -> None:
    pace = Pace()
    assert pace.pause(1) == pace.shortest_pause.total_seconds()
    assert pace.pause(10**6) == pace.longest_pause.total_seconds()


@pytest.mark.req("CF-11")
async def test_a_page_tells_its_calls_and_what_they_cost(wide_scene: Scene) -> None:
    scene = wide_scene
    scene.server.behaviour.request_charge = 2.5
    token = (await scene.client.read(NOW)).continuation_token
    scene.server.calls.clear()
    page = await scene.client.read(after(token))
    assert page.diagnostics.provider_calls == scene.server.calls.count("ReadChangeFeed") == 4
    assert page.diagnostics.request_charge == 10


async def test_request_units_are_summed_in_one_log_line_a_minute(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumption, "_WINDOW_SECONDS", 0.05)
    provider = make_provider(scene.server)
    with structlog.testing.capture_logs() as lines:
        try:
            await provider.start()
            scene.server.calls.clear()
            async with asyncio.timeout(10):
                while not (told := [line for line in lines if "request units" in line["event"]]):  # noqa: ASYNC110 - a timer writes it
                    await asyncio.sleep(0.01)
        finally:
            await provider.aclose()
    assert told[0]["calls"] >= 1
    assert told[0]["request_units"] == told[0]["calls"] * scene.server.behaviour.request_charge
    assert scene.server.key not in str(lines)


async def test_a_token_is_small_also_of_many_ranges(scene: Scene) -> None:
    scene.server.create_container("wide", "/pk", ranges=64)
    token = (await scene.client_of("wide").resolve(NOW)).continuation_token
    # The SDK's own would be 180 characters a range.
    assert len(token) < 64 * 90


async def test_a_reader_in_the_middle_of_a_page_is_not_given_the_page_for_each_change(scene: Scene) -> None:
    start = (await scene.client.resolve(NOW)).continuation_token
    scene.server.transaction(THINGS, *({"id": f"{number}", "pk": "a"} for number in range(40)))
    scene.put_many(40)
    page = await scene.client.read(after(start), size=20)
    scene.server.calls.clear()
    rest = await scene.client.read_all(after(page.continuation_token), size=1)
    assert len(rest.events) == 60
    assert scene.server.calls.count("ReadChangeFeed") <= 62
