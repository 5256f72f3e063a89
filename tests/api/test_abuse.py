"""What a caller who keeps no rules can take from others: nothing, and for no longer than the limits say."""

import asyncio
import gc
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import psutil
import pytest
import structlog
from google.rpc import error_details_pb2

from bench.workers.http2 import LoadConnection
from changefeed.v1 import (
    capabilities_pb2,
    change_feed_service_pb2_grpc,
    position_pb2,
    read_changes_pb2,
    resource_pb2,
    subscribe_pb2,
)
from changefeed_gateway.api import interceptors
from changefeed_gateway.core.answer import ReadAnswer, StreamItem
from changefeed_gateway.core.errors import Reason
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.token import MAX_TOKEN_CHARS
from tests.api.gateway import Gateway, details_of, error_info, serving
from tests.api.router_double import FEED, OPENED, Held, RouterDouble
from tests.soak import soak_seconds

ADDRESS = resource_pb2.ResourceAddress(connection="main", collection="documents")
START = position_pb2.StartPosition(beginning=position_pb2.Beginning())
READ = read_changes_pb2.ReadChangesRequest(address=ADDRESS, start_position=START)
SUBSCRIBE = subscribe_pb2.SubscribeRequest(address=ADDRESS, start_position=START)
SUBSCRIBE_PATH = "/changefeed.v1.ChangeFeedService/Subscribe"
READ_PATH = "/changefeed.v1.ChangeFeedService/ReadChanges"
RECORD = b"\x0a\x80\x80\x04" + bytes(65_536)
"""One event of 64 KiB, more than a client's first window."""
SHORT = timedelta(milliseconds=100)

LogLine = MutableMapping[str, Any]


@pytest.fixture
def log() -> Iterator[list[LogLine]]:
    with structlog.testing.capture_logs((structlog.contextvars.merge_contextvars,)) as lines:
        yield lines


@asynccontextmanager
async def reader_without_windows(gateway: Gateway, host: str = "127.0.0.1") -> AsyncIterator[LoadConnection]:
    """A connection from an address of this machine that never makes room for more than its first 64 KiB."""
    name, _, port = gateway.address.partition(":")
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: LoadConnection(lambda _: None, gives_windows=False), name, int(port), local_addr=(host, 0)
    )
    try:
        yield connection
    finally:
        connection.close()


def flooding(router: RouterDouble) -> None:
    router.stream = lambda: router.batches([RECORD] * 50)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - a peer of another kind rings no bell
            await asyncio.sleep(0.01)


async def until_served(gateway: Gateway) -> None:
    """Subscribe again and again until a stream opens."""
    async with asyncio.timeout(30):
        while True:
            call = gateway.stub.Subscribe(SUBSCRIBE)
            try:
                await call.read()
                return
            except grpc.aio.AioRpcError as error:
                if error_info(error).reason != "TOO_MANY_STREAMS":
                    raise
                await asyncio.sleep(0.01)
            finally:
                call.cancel()


@pytest.mark.req("P7")
async def test_streams_that_are_not_read_give_their_places_back(caplog: pytest.LogCaptureFixture) -> None:
    router = RouterDouble(Limits(max_streams=3, peer_stream_share=1, write_timeout=SHORT))
    flooding(router)
    async with serving(router, last_words=SHORT) as gateway, reader_without_windows(gateway) as stalled:
        for _ in range(3):
            stalled.call(SUBSCRIBE_PATH, SUBSCRIBE.SerializeToString())
        await until_served(gateway)
        await until(lambda: stalled.closed_streams == 3)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.req("P7")
async def test_what_was_sent_to_readers_that_do_not_read_is_not_kept() -> None:
    router = RouterDouble(Limits(max_streams=10, peer_stream_share=1, write_timeout=SHORT))
    flooding(router)
    process = psutil.Process()
    async with serving(router, last_words=SHORT) as gateway, reader_without_windows(gateway) as stalled:
        sizes = []
        for opened in range(10, 160, 10):
            for _ in range(10):
                stalled.call(SUBSCRIBE_PATH, SUBSCRIBE.SerializeToString())
            await until(lambda wanted=opened: stalled.closed_streams == wanted)  # type: ignore[misc]
            sizes.append(process.memory_info().rss)
    assert sizes[-1] - sizes[4] < 50_000_000, "100 streams of 3.3 MB each have come and gone"


@pytest.mark.req("P7")
async def test_pages_that_are_not_read_are_not_kept_and_hold_no_place() -> None:
    router = RouterDouble(Limits(max_calls=2, peer_call_share=1, write_timeout=SHORT))
    router.answer = ReadAnswer(feed=FEED, records=[RECORD] * 50, token="t", more_available=False)
    async with serving(router, last_words=SHORT) as gateway, reader_without_windows(gateway) as stalled:
        for _ in range(2):
            stalled.call(READ_PATH, READ.SerializeToString())
        await until(lambda: stalled.closed_streams == 2)
        await gateway.stub.GetCapabilities(capabilities_pb2.GetCapabilitiesRequest(address=ADDRESS))


@pytest.mark.req("P7")
async def test_only_the_stream_that_is_not_read_is_reset_others_of_the_connection_go_on(log: list[LogLine]) -> None:
    router = RouterDouble(Limits(max_streams=2, peer_stream_share=1, write_timeout=SHORT))
    follow = asyncio.Event()

    async def quiet() -> AsyncGenerator[StreamItem]:
        yield OPENED
        await follow.wait()
        yield OPENED

    async with serving(router, last_words=SHORT) as gateway:
        router.stream = quiet
        healthy = gateway.stub.Subscribe(SUBSCRIBE)
        await healthy.read()
        flooding(router)
        stalled = gateway.stub.Subscribe(SUBSCRIBE)
        await stalled.read()
        async with asyncio.timeout(30):
            await until_served(gateway)
            assert "CONSUMER_TOO_SLOW" in {line.get("reason") for line in log}
            follow.set()
            assert isinstance(await healthy.read(), subscribe_pb2.SubscribeResponse)
            stalled.cancel()


@pytest.mark.req("P7")
async def test_one_host_holds_its_share_of_the_streams_only() -> None:
    router = RouterDouble(Limits(max_streams=4, peer_stream_share=0.5))
    async with serving(router) as gateway, reader_without_windows(gateway, "127.0.0.2") as greedy:
        for _ in range(4):
            greedy.call(SUBSCRIBE_PATH, SUBSCRIBE.SerializeToString())
        await until(lambda: greedy.closed_streams == 2)
        assert len(router.asked) == 2
        calls = [gateway.stub.Subscribe(SUBSCRIBE) for _ in range(2)]
        for call in calls:
            await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.stub.Subscribe(SUBSCRIBE).read()
        assert error_info(caught.value).reason == "TOO_MANY_STREAMS"


async def test_thousands_of_calls_at_once_all_hear_from_us(log: list[LogLine]) -> None:
    router = RouterDouble(Limits(max_calls=10, peer_call_share=1))
    router.held = Held()
    heard: list[str] = []
    all_but_the_held = asyncio.Event()

    async def ask(stub: "change_feed_service_pb2_grpc.ChangeFeedServiceAsyncStub") -> None:
        try:
            await stub.ReadChanges(READ)
        except grpc.aio.AioRpcError as error:
            told = any(isinstance(detail, error_details_pb2.RetryInfo) for detail in details_of(error))
            heard.append(error_info(error).reason if told else "no RetryInfo")
        else:
            heard.append("answered")
        if len(heard) == 3_990:
            all_but_the_held.set()

    async with serving(router) as gateway, asyncio.timeout(60), asyncio.TaskGroup() as asking:
        stub = gateway.stub
        for _ in range(4_000):
            asking.create_task(ask(stub))
        await all_but_the_held.wait()
        router.held.released.set()
    assert Counter(heard) == {"answered": 10, "TOO_MANY_CALLS": 3_990}
    lines = [line for line in log if line.get("reason") == "TOO_MANY_CALLS"]
    told = [line for line in lines if line["event"] == "call finished"]
    assert len(told) + sum(line["count"] for line in lines if line["event"] != "call finished") <= 3_990
    assert len(told) < 600, "at most ten a second"


@pytest.mark.soak
async def test_calls_that_wait_for_a_loop_that_is_busy_are_answered(gateway: Gateway) -> None:
    await gateway.stub.ReadChanges(READ)
    calls = [gateway.stub.ReadChanges(READ) for _ in range(10)]
    await asyncio.sleep(0)
    # gRPC's own limit is half a minute, which a soak is longer than.
    time.sleep(min(soak_seconds(0.1), 40))  # noqa: ASYNC251 - the loop is to be busy
    await asyncio.gather(*calls)


async def no_message(gateway: Gateway, method: str) -> grpc.aio.StreamStreamCall[bytes, bytes]:
    call: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = gateway.channel.stream_stream(method)
    return call()


@pytest.mark.parametrize("path", [SUBSCRIBE_PATH, READ_PATH, "/grpc.health.v1.Health/Check"])
async def test_a_call_that_ends_without_a_message_is_answered(gateway: Gateway, path: str) -> None:
    call = await no_message(gateway, path)
    async with asyncio.timeout(30):
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        await gateway.server.drain(timedelta(seconds=25))


async def test_a_call_without_a_message_does_not_hold_the_end_up(gateway: Gateway) -> None:
    call = await no_message(gateway, SUBSCRIBE_PATH)
    reflection = await no_message(gateway, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    await gateway.stub.ReadChanges(READ)
    async with asyncio.timeout(10):
        await gateway.server.drain(timedelta(minutes=10))
    assert await call.code() is grpc.StatusCode.UNAVAILABLE
    assert await reflection.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_request_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, gateway: Gateway
) -> None:
    monkeypatch.setattr(interceptors, "_REQUEST_TIME", SHORT)
    call = await no_message(gateway, READ_PATH)
    async with asyncio.timeout(30):
        assert await call.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "path",
    [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.health.v1.Health/List",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_garbage_to_health_and_reflection_is_our_answer(
    gateway: Gateway, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = gateway.channel.unary_stream(path)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"\xff\xff").read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(caught.value).reason == "FIELD_INVALID"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_watchers_of_health_that_do_not_read_give_their_places_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "MAX_BYSTANDERS", 1)
    async with serving(RouterDouble()) as gateway:
        watch: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = gateway.channel.unary_stream(
            "/grpc.health.v1.Health/Watch"
        )
        first = watch(b"")
        await first.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch(b"").read()
        assert error_info(caught.value).reason == "TOO_MANY_CALLS"
        first.cancel()
        async with asyncio.timeout(30):
            while True:
                try:
                    assert isinstance(await watch(b"").read(), bytes)
                    return
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.01)


async def test_a_cancellation_that_nobody_asked_for_is_answered(
    gateway: Gateway, router: RouterDouble, log: list[LogLine]
) -> None:
    router.failure = asyncio.CancelledError()  # type: ignore[assignment]

    async def stream() -> AsyncGenerator[StreamItem]:
        yield OPENED
        raise asyncio.CancelledError

    router.stream = stream
    async with asyncio.timeout(30):
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await gateway.stub.ReadChanges(READ)
        call = gateway.stub.Subscribe(SUBSCRIBE)
        await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as streamed:
            await call.read()
    for caught in (unary.value, streamed.value):
        assert caught.code() is grpc.StatusCode.INTERNAL
        assert error_info(caught).reason == "INTERNAL"
    assert [line["code"] for line in log] == ["INTERNAL", "INTERNAL"]


async def test_a_refused_call_leaves_nothing_for_the_garbage_collector(gateway: Gateway) -> None:
    token = position_pb2.StartPosition(continuation_token="t" * (MAX_TOKEN_CHARS + 1))
    request = read_changes_pb2.ReadChangesRequest(address=ADDRESS, start_position=token).SerializeToString()
    found: list[object] = []

    async def refuse() -> None:
        with pytest.raises(grpc.aio.AioRpcError):
            await gateway.call_raw("ReadChanges", request)

    await refuse()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            await refuse()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = [each for each in gc.garbage if isinstance(each, BaseException) or "frame" in type(each).__name__]
        ours = [each for each in found if "changefeed_gateway" in repr(each)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert ours == []


async def test_refusals_are_logged_at_a_bounded_rate_and_counted(gateway: Gateway, log: list[LogLine]) -> None:
    for _ in range(200):
        with pytest.raises(grpc.aio.AioRpcError):
            await gateway.stub.ReadChanges(read_changes_pb2.ReadChangesRequest())

    await until(lambda: refused(log) == 200)
    counted = [line for line in log if line["event"] == "calls left out of the log"]
    assert counted
    assert not any("request_id" in line or "peer" in line for line in counted)


async def test_what_was_left_out_of_the_log_is_counted_before_the_server_has_stopped(
    gateway: Gateway, log: list[LogLine]
) -> None:
    for _ in range(50):
        with pytest.raises(grpc.aio.AioRpcError):
            await gateway.stub.ReadChanges(read_changes_pb2.ReadChangesRequest())
    await gateway.server.drain(timedelta(seconds=5))
    assert refused(log) == 50


def refused(log: list[LogLine]) -> int:
    """How many refusals of a field the log tells of."""
    return sum(line.get("count", 1) for line in log if line.get("reason") == Reason.FIELD_INVALID.value)


async def test_what_is_too_large_is_no_fault_of_ours(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    async def ask() -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.call_raw("ReadChanges", b"\xff" * (2 * MAX_TOKEN_CHARS))
        return caught.value.code()

    # At once, because gRPC takes its time to refuse one.
    assert set(await asyncio.gather(*(ask() for _ in range(20)))) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
