"""Metrics and health over HTTP, of a gateway over collections in memory."""

import asyncio
import functools
import socket
import time
from typing import Final
from wsgiref.simple_server import demo_app

import grpc
import pytest

from changefeed.v1.change_feed_service_pb2_grpc import ChangeFeedServiceStub
from changefeed.v1.subscribe_pb2 import SubscribeRequest
from changefeed_client import BEGINNING, ChangeFeedRpcError, collection
from changefeed_gateway.api.server import CHECK_INTERVAL, CHECK_TIMEOUT
from changefeed_gateway.app.monitoring import http
from changefeed_gateway.core import observed_provider
from changefeed_gateway.core.errors import TransientFailure
from changefeed_gateway.providers.memory import provider as memory
from changefeed_gateway.providers.memory.provider import MemoryProvider
from changefeed_gateway.providers.postgres.ticks.ticker import STALLED_AFTER, Cadence
from changefeed_gateway.settings import MemoryConnection
from tests.monitored import ANY_PORT, Monitored, monitored, until

DOCUMENTS = collection("main/documents")
CONNECTIONS = {"main": MemoryConnection(provider="memory"), "other": MemoryConnection(provider="memory")}
LABELS: Final = {
    *("connection", "collection", "method", "code", "reason", "state", "operation", "le"),
    *("implementation", "major", "minor", "patchlevel", "version", "generation"),
}
"""Each has few values: none names a key, a principal, a token or a document."""


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> list[MemoryProvider]:
    """Those that the gateway makes, in the order of its connections."""
    made: list[MemoryProvider] = []

    class Kept(MemoryProvider):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(memory, "MemoryProvider", Kept)
    return made


async def shown(gateway: Monitored, state: str, streams: int | None) -> bool:
    """Whether so many streams of the documents are shown in a state."""
    feed = {"connection": "main", "collection": "documents"}
    return await gateway.value("changefeed_streams", **feed, state=state) == streams


async def test_every_number_is_counted_as_it_was_delivered(providers: list[MemoryProvider]) -> None:
    async with monitored(CONNECTIONS) as gateway:
        documents = providers[0].store.find("documents")
        assert documents is not None
        for number in range(3):
            documents.put("hunter3", str(number), {"secret": "hunter2"})
        page = await gateway.client.read_page(DOCUMENTS, BEGINNING)
        with pytest.raises(ChangeFeedRpcError):
            await gateway.client.read_page(collection("main/nothing"), BEGINNING)
        with pytest.raises(ChangeFeedRpcError):
            await gateway.client.read_page(collection("nowhere/documents"), BEGINNING)
        async with grpc.aio.insecure_channel(gateway.gateway.target) as channel:
            request = SubscribeRequest(address=DOCUMENTS, start_position=BEGINNING, max_events=3)
            messages = [message async for message in ChangeFeedServiceStub(channel).Subscribe(request)]
        delivered = [event for message in messages for event in message.batch.events]
        assert len(page.events) == len(delivered) == 3
        feed = {"connection": "main", "collection": "documents"}
        for method in ("ReadChanges", "Subscribe"):
            assert await gateway.value("changefeed_delivered_events_total", **feed, method=method) == 3
        assert await gateway.value("changefeed_streams_ended_total", **feed, reason="max_events") == 1
        assert await gateway.value("changefeed_call_errors_total", reason="COLLECTION_NOT_FOUND") == 1
        assert await gateway.value("changefeed_call_errors_total", reason="CONNECTION_NOT_FOUND") == 1
        assert await gateway.value("changefeed_calls_total", method="ReadChanges", code="NOT_FOUND") == 2
        assert await gateway.value("changefeed_calls_total", method="Subscribe", code="OK") == 1
        assert (
            await gateway.value(
                "changefeed_provider_errors_total", operation="open_feed", reason="COLLECTION_NOT_FOUND"
            )
            == 1
        )
        samples = await gateway.samples()
        assert {label for sample in samples for label in sample.labels} <= LABELS
        assert {sample.labels.get("collection") for sample in samples} <= {None, "documents"}, "only what exists"
        _, text = await gateway.get("/metrics")
        assert "hunter" not in text
        assert page.continuation_token not in text


@pytest.mark.req("BX-9")
async def test_what_a_stream_holds_is_shown_while_it_is_open(providers: list[MemoryProvider]) -> None:
    async with monitored(CONNECTIONS) as gateway:
        documents = providers[0].store.find("documents")
        assert documents is not None
        documents.put("a", "a", {})
        feed = {"connection": "main", "collection": "documents"}
        async with gateway.client.tail(DOCUMENTS, BEGINNING) as tail:
            async for delivery in tail:
                if delivery.events:
                    break
            await until(lambda: shown(gateway, "live", 1))
            assert await gateway.value("changefeed_stream_changes_behind", **feed) == 0
            lag = await gateway.value("changefeed_stream_lag_seconds", **feed)
            assert lag is not None
            assert 0 <= lag < 60
            assert (await gateway.value("changefeed_tail_followers", **feed) or 0) >= 1
            [page] = [page async for page in gateway.client.streams()]
            [stream] = page.streams
            assert page.gateway
            assert (stream.address, stream.events, stream.changes_behind) == (
                type(stream.address)(connection="main", database="main", collection="documents"),
                1,
                0,
            )
            assert stream.host == "127.0.0.1"
            assert not [s async for p in gateway.client.streams(connection="other") for s in p.streams]
        await until(lambda: shown(gateway, "live", None))


async def test_readiness_is_a_connections_own_and_liveness_is_nobodys(providers: list[MemoryProvider]) -> None:
    async with monitored(CONNECTIONS) as gateway:
        providers[0].faults.fail_open(TransientFailure("away"))
        assert await gateway.until_ready(False) < 5
        assert not await gateway.ready("/readyz?connection=main")
        assert not await gateway.ready("/readyz?connection=other&connection=main")
        assert await gateway.ready("/readyz?connection=other")
        assert await gateway.value("changefeed_connection_serving", connection="main") == 0
        assert (await gateway.get("/livez"))[0] == 200
        providers[0].faults.fail_open(None)
        await gateway.until_ready(True)
        assert (await gateway.get("/readyz?connection=nowhere"))[0] == 404
        assert (await gateway.get("/elsewhere"))[0] == 404


def test_whatever_makes_a_connection_unready_does_so_within_five_seconds() -> None:
    interval, longest_check = CHECK_INTERVAL.total_seconds(), CHECK_TIMEOUT.total_seconds()
    not_asked = observed_provider.ANSWERED_JUST_NOW + interval
    assert not_asked + longest_check < 5, "a database that is gone"
    assert observed_provider.KEEPS_FAILING + interval < 5, "reads that keep failing"
    assert STALLED_AFTER * Cadence().quiet_poll.total_seconds() + interval < 5, "ticks without an answer"


async def test_a_drain_is_not_ready_and_lives(providers: list[MemoryProvider]) -> None:
    async with monitored(CONNECTIONS) as gateway:
        gateway.gateway.server._health.begin_drain()
        assert not await gateway.ready()
        assert (await gateway.get("/livez"))[0] == 200


async def test_it_ends_at_once_and_not_at_the_next_look_whether_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    seldom = functools.partialmethod(http._Server.serve_forever, poll_interval=60.0)
    monkeypatch.setattr(http._Server, "serve_forever", seldom)

    async def serving() -> dict[str, bool]:
        return {}

    server = http.MonitoringServer(ANY_PORT, serving=serving, metrics=lambda on_loop: demo_app)
    async with asyncio.timeout(6):
        await server.aclose()
        await server.aclose()
    with pytest.raises(OSError, match="failed"):
        await asyncio.open_connection("127.0.0.1", server.port)


async def test_an_event_loop_that_stands_still_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.2)
    async with monitored(CONNECTIONS) as gateway:
        asked = asyncio.create_task(gateway.get("/livez"))
        await asyncio.sleep(0)
        time.sleep(1.0)  # noqa: ASYNC251 - it stands still
        status, text = await asked
        assert status == 503
        assert "event loop" in text
        assert (await gateway.get("/livez"))[0] == 200
        stalls = {s.labels["le"]: s.value for s in await gateway.samples() if s.name.endswith("stall_seconds_bucket")}
        assert stalls["+Inf"] > stalls["0.5"], "the stall is counted"


async def test_those_who_ask_and_say_nothing_take_no_thread_of_others_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with monitored(CONNECTIONS) as gateway:
        host, _, port = str(gateway.gateway.monitoring).rpartition(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(http.MOST_REQUESTS)]
        try:
            with pytest.raises(OSError, match=r"reset|closed|without response"):
                await gateway.get("/livez")
        finally:
            for one in silent:
                one.close()
        await until(lambda: answers(gateway))


async def answers(gateway: Monitored) -> bool:
    try:
        return (await gateway.get("/livez"))[0] == 200
    except OSError:
        return False
