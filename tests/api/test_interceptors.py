"""What surrounds every call: identity, admission, errors, one log line."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, MutableMapping
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from typing import Any

import grpc
import pytest
import structlog
from google.rpc import error_details_pb2

from changefeed.v1 import position_pb2, read_changes_pb2, resource_pb2, subscribe_pb2
from changefeed_gateway.core.answer import Closing, ClosingReason, StreamItem
from changefeed_gateway.core.errors import (
    ChangeFeedError,
    FieldViolation,
    HistoryGap,
    InvalidRequest,
    NotFound,
    ProviderFailure,
    TransientFailure,
)
from changefeed_gateway.core.limits import Limits
from tests.api.gateway import Gateway, details_of, error_info, metadata_of, serving, status_of
from tests.api.router_double import OPENED, Held, RouterDouble

ADDRESS = resource_pb2.ResourceAddress(connection="main", collection="documents")
BEGINNING = position_pb2.StartPosition(continuation_token="SECRET-TOKEN")
READ = read_changes_pb2.ReadChangesRequest(address=ADDRESS, start_position=BEGINNING)
SUBSCRIBE = subscribe_pb2.SubscribeRequest(address=ADDRESS, start_position=BEGINNING)

LogLine = MutableMapping[str, Any]


@pytest.fixture
def log() -> Iterator[list[LogLine]]:
    with structlog.testing.capture_logs((structlog.contextvars.merge_contextvars,)) as lines:
        yield lines


async def refused(gateway: Gateway, request: read_changes_pb2.ReadChangesRequest = READ) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.stub.ReadChanges(request)
    return caught.value


@pytest.mark.parametrize("chosen", ["a", "order-7.retry:2_b", "x" * 64])
async def test_a_clean_request_id_is_kept(gateway: Gateway, chosen: str) -> None:
    call = gateway.stub.ReadChanges(READ, metadata=(("x-request-id", chosen),))
    assert (await call).diagnostics.request_id == chosen
    assert dict(await call.trailing_metadata())["x-request-id"] == chosen


@pytest.mark.parametrize("chosen", [None, "", "x" * 65, "two words", "-a", 'a"b', "a;b"])
async def test_any_other_request_id_is_replaced(gateway: Gateway, chosen: str | None) -> None:
    call = gateway.stub.ReadChanges(READ, metadata=() if chosen is None else (("x-request-id", chosen),))
    given = (await call).diagnostics.request_id
    assert given != chosen
    assert len(given) == 32
    assert dict(await call.trailing_metadata())["x-request-id"] == given


async def test_an_error_carries_the_request_id_everywhere(gateway: Gateway, router: RouterDouble) -> None:
    router.failure = NotFound("no such collection")
    error = await refused(gateway)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "no such collection"
    assert error_info(error).metadata["request_id"] == metadata_of(error)["x-request-id"]


async def test_text_of_an_unmapped_exception_stays_inside(
    gateway: Gateway, router: RouterDouble, log: list[LogLine]
) -> None:
    router.failure = ValueError("SECRET-TEXT")
    error = await refused(gateway)
    assert error.code() is grpc.StatusCode.INTERNAL
    request_id = metadata_of(error)["x-request-id"]
    assert error.details() == f"INTERNAL: quote request id {request_id!s}"
    for told in (error.details() or "", repr(error.trailing_metadata())):
        assert "SECRET" not in told
        assert "ValueError" not in told
    [line] = log
    assert (line["log_level"], line["code"], line["request_id"]) == ("error", "INTERNAL", request_id)
    assert line["exc_info"].__cause__ is router.failure


async def test_an_unmapped_exception_in_a_stream_stays_inside_too(gateway: Gateway, router: RouterDouble) -> None:
    async def stream() -> AsyncGenerator[StreamItem]:
        yield OPENED
        raise KeyError("SECRET-TEXT")

    router.stream = stream
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in gateway.stub.Subscribe(SUBSCRIBE):
            pass
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "SECRET" not in repr(caught.value)


async def test_an_unmapped_driver_error_shows_its_cause_only_in_the_log(
    gateway: Gateway, router: RouterDouble, log: list[LogLine]
) -> None:
    router.failure = ProviderFailure("relation SECRET does not exist", metadata={"provider": "memory"})
    error = await refused(gateway)
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert "SECRET" not in repr(error)
    assert error_info(error).metadata["provider"] == "memory"
    assert (log[0]["log_level"], log[0]["exc_info"]) == ("error", router.failure)


@pytest.mark.parametrize("garbage", [b"\xff", b"\x0a\xff", b"\x0a\x04\x0a\x02\xff\xfe"])
async def test_an_unreadable_request_is_our_answer(gateway: Gateway, garbage: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as unary:
        await gateway.call_raw("ReadChanges", garbage)
    with pytest.raises(grpc.aio.AioRpcError) as stream:
        await gateway.subscribe_raw(garbage).read()
    for caught in (unary.value, stream.value):
        assert caught.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error_info(caught).reason == "FIELD_INVALID"


async def test_field_errors_arrive(gateway: Gateway) -> None:
    error = await refused(gateway, read_changes_pb2.ReadChangesRequest(start_position=BEGINNING))
    [bad_request] = [each for each in details_of(error) if isinstance(each, error_details_pb2.BadRequest)]
    [violation] = bad_request.field_violations
    assert (violation.field, violation.description, violation.reason) == (
        "address.connection",
        "required",
        "FIELD_INVALID",
    )


async def test_the_largest_error_arrives_whole(gateway: Gateway, router: RouterDouble) -> None:
    router.failure = InvalidRequest(
        "ü" * 9_000,
        metadata={f"key-{n}": "ü" * 100 for n in range(100)},
        fields=tuple(FieldViolation(field=f"f{n}", description="ü" * 100) for n in range(100)),
    )
    call = gateway.stub.ReadChanges(READ, metadata=(("x-request-id", "r" * 64),))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert status_of(caught.value).ByteSize() > 3_500
    assert error_info(caught.value).metadata["truncated"] == "true"


async def test_one_line_a_call(gateway: Gateway, log: list[LogLine]) -> None:
    await gateway.stub.ReadChanges(READ, metadata=(("x-request-id", "r-1"),))
    [line] = log
    assert line.pop("duration_ms") > 0
    assert line.pop("peer").startswith("ipv4:127.0.0.1:")
    assert line == {
        "event": "call finished",
        "log_level": "info",
        "request_id": "r-1",
        "method": "ReadChanges",
        "connection": "main",
        "collection": "documents",
        "code": "OK",
        "events": 0,
    }


async def test_a_stream_logs_how_it_closed(gateway: Gateway, router: RouterDouble, log: list[LogLine]) -> None:
    async def stream() -> AsyncGenerator[StreamItem]:
        yield OPENED
        yield Closing(reason=ClosingReason.MAX_AGE, token="SECRET", reconnect_after=timedelta(0))

    router.stream = stream
    assert len([message async for message in gateway.stub.Subscribe(SUBSCRIBE)]) == 2
    [line] = log
    assert (line["method"], line["code"], line["messages"], line["closing"]) == ("Subscribe", "OK", 2, "max_age")


@pytest.mark.parametrize(
    ("failure", "level"),
    [
        (NotFound("gone"), "info"),
        (TransientFailure("busy"), "warning"),
        (HistoryGap("a day is missing"), "error"),
    ],
)
async def test_failures_are_logged_by_whose_fault_they_are(
    gateway: Gateway, router: RouterDouble, log: list[LogLine], failure: ChangeFeedError, level: str
) -> None:
    router.failure = failure
    error = await refused(gateway)
    [line] = log
    assert (line["log_level"], line["code"], line["reason"]) == (level, error.code().name, failure.reason)


async def test_no_token_and_no_odd_name_is_logged(gateway: Gateway, log: list[LogLine]) -> None:
    odd = resource_pb2.ResourceAddress(connection="a\nb", collection="c" * 300)
    await refused(gateway, read_changes_pb2.ReadChangesRequest(address=odd, start_position=BEGINNING))
    await gateway.stub.ReadChanges(READ)
    assert "SECRET" not in repr(log)
    assert (log[0]["connection"], log[0]["collection"]) == ("(not a name)", "(not a name)")


async def test_context_of_one_call_does_not_reach_another(gateway: Gateway, log: list[LogLine]) -> None:
    await gateway.stub.ReadChanges(READ)
    with pytest.raises(grpc.aio.AioRpcError):
        await gateway.call_raw("ReadChanges", b"\xff")
    assert "connection" in log[0]
    assert "connection" not in log[1]
    assert log[0]["request_id"] != log[1]["request_id"]


async def test_a_cancelled_call_is_cancelled_inside(gateway: Gateway, router: RouterDouble, log: list[LogLine]) -> None:
    router.held = Held()
    call = gateway.stub.ReadChanges(READ)
    async with asyncio.timeout(30):
        await router.held.entered.acquire()
        call.cancel()
        await router.held.left.wait()
    assert [line["code"] for line in log] == ["CANCELLED"]


async def test_a_caller_who_leaves_amid_a_flood_is_no_fault(
    gateway: Gateway, router: RouterDouble, log: list[LogLine], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        closed = asyncio.Event()
        router.stream = partial(_flood, router, closed)
        call = gateway.stub.Subscribe(SUBSCRIBE)
        for _ in range(5):
            await call.read()
        call.cancel()
        async with asyncio.timeout(30):
            await closed.wait()
    assert {line["code"] for line in log} == {"CANCELLED"}
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def _flood(router: RouterDouble, closed: asyncio.Event) -> AsyncGenerator[StreamItem]:
    async with aclosing(router.batches([])) as items:
        try:
            async for item in items:
                yield item
        finally:
            closed.set()


@pytest.mark.parametrize("deadline", [0.1, 0.6])
async def test_who_is_kept_waiting_hears_why_before_the_deadline(
    gateway: Gateway, router: RouterDouble, deadline: float
) -> None:
    router.held = Held()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.stub.ReadChanges(READ, timeout=deadline)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert error_info(caught.value).reason == "PROVIDER_TIMEOUT"
    assert any(isinstance(detail, error_details_pb2.RetryInfo) for detail in details_of(caught.value))
    async with asyncio.timeout(30):
        await router.held.left.wait()


async def test_calls_above_the_limit_are_told_to_come_back(log: list[LogLine]) -> None:
    router = RouterDouble(Limits(max_calls=2, peer_call_share=1, max_streams=1))
    router.held = Held()
    async with serving(router) as gateway:
        under_way = [asyncio.create_task(_read(gateway)) for _ in range(2)]
        async with asyncio.timeout(30):
            for _ in under_way:
                await router.held.entered.acquire()
            error = await refused(gateway)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert error_info(error).reason == "TOO_MANY_CALLS"
            [retry] = [each for each in details_of(error) if isinstance(each, error_details_pb2.RetryInfo)]
            assert retry.retry_delay.ToTimedelta() == timedelta(seconds=1)
            # Streams have places of their own, and a place is free again once its call has ended.
            stream = gateway.stub.Subscribe(SUBSCRIBE)
            await stream.read()
            router.held.released.set()
            await asyncio.gather(*under_way)
        await gateway.stub.ReadChanges(READ)
    assert "TOO_MANY_CALLS" in [line.get("reason") for line in log]


async def _read(gateway: Gateway) -> read_changes_pb2.ReadChangesResponse:
    return await gateway.stub.ReadChanges(READ)


async def test_streams_above_the_limit_are_told_to_come_back() -> None:
    router = RouterDouble(Limits(max_streams=1))
    ended = asyncio.Event()

    async def stream() -> AsyncGenerator[StreamItem]:
        try:
            yield OPENED
            await asyncio.Event().wait()
        finally:
            ended.set()

    router.stream = stream
    async with serving(router) as gateway, asyncio.timeout(30):
        first = gateway.stub.Subscribe(SUBSCRIBE)
        await first.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.stub.Subscribe(SUBSCRIBE).read()
        assert error_info(caught.value).reason == "TOO_MANY_STREAMS"
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        first.cancel()
        await ended.wait()
        assert isinstance(await gateway.stub.Subscribe(SUBSCRIBE).read(), subscribe_pb2.SubscribeResponse)
