"""The server around the service: health, reflection, bounds, and the order in which it drains."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest
from google.protobuf import descriptor_pb2, json_format, message_factory
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from structlog.testing import capture_logs

from changefeed.v1 import position_pb2, read_changes_pb2, resource_pb2, subscribe_pb2
from changefeed_gateway.api.server import MAX_REQUEST_BYTES, GatewayServer
from changefeed_gateway.core.answer import StreamItem
from changefeed_gateway.core.errors import ProviderAuthorizationFailed, TransientFailure
from changefeed_gateway.core.token import MAX_TOKEN_CHARS
from tests.api.gateway import Gateway, error_info, serving
from tests.api.router_double import OPENED, Held, RouterDouble

ADDRESS = resource_pb2.ResourceAddress(connection="main", collection="documents")
BEGINNING = position_pb2.StartPosition(beginning=position_pb2.Beginning())
READ = read_changes_pb2.ReadChangesRequest(address=ADDRESS, start_position=BEGINNING)
SUBSCRIBE = subscribe_pb2.SubscribeRequest(address=ADDRESS, start_position=BEGINNING)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
GRACE = timedelta(seconds=10)


class Watch:
    """A health watch of one name."""

    def __init__(self, gateway: Gateway, name: str) -> None:
        watch: grpc.aio.UnaryStreamMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse] = (
            gateway.channel.unary_stream(
                "/grpc.health.v1.Health/Watch",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
        )
        self._call = watch(health_pb2.HealthCheckRequest(service=name))

    async def next(self) -> int | None:
        """The next status; None at the orderly end."""
        message = await self._call.read()
        return message.status if isinstance(message, health_pb2.HealthCheckResponse) else None

    async def until(self, status: int) -> None:
        """Wait for a status."""
        async with asyncio.timeout(30):
            while await self.next() != status:
                pass


async def health(gateway: Gateway, name: str) -> int:
    check: grpc.aio.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse] = (
        gateway.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
    )
    return (await check(health_pb2.HealthCheckRequest(service=name))).status


@pytest.mark.req("A4")
async def test_health_of_the_whole_and_of_a_connection(gateway: Gateway) -> None:
    assert [await health(gateway, name) for name in ("", "main")] == [SERVING, SERVING]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(gateway, "nobody")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert await Watch(gateway, "nobody").next() == SERVICE_UNKNOWN


async def test_health_of_everything_at_once(gateway: Gateway) -> None:
    everything: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = gateway.channel.unary_unary(
        "/grpc.health.v1.Health/List"
    )
    # The published types do not know this message yet.
    kind = message_factory.GetMessageClass(health_pb2.DESCRIPTOR.message_types_by_name["HealthListResponse"])  # type: ignore[arg-type]
    answer = json_format.MessageToDict(kind.FromString(await everything(b"")))
    assert answer == {"statuses": {"": {"status": "SERVING"}, "main": {"status": "SERVING"}}}


async def test_a_failing_connection_shows_in_its_own_health_only() -> None:
    trouble: list[Exception] = [TransientFailure("down")]

    async def check() -> None:
        if trouble:
            raise trouble[0]

    router = RouterDouble(connections=("main", "other"))
    async with serving(router, checks={"main": check}, check_interval=timedelta(milliseconds=5)) as gateway:
        watch = Watch(gateway, "main")
        await watch.until(NOT_SERVING)
        assert [await health(gateway, name) for name in ("", "other")] == [SERVING, SERVING]
        trouble.clear()
        await watch.until(SERVING)
        trouble.append(RuntimeError("a fault of the check"))
        await watch.until(NOT_SERVING)


async def test_a_check_that_hangs_counts_as_failure() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    router = RouterDouble()
    timeout = timedelta(milliseconds=5)
    async with serving(router, checks={"main": hang}, check_timeout=timeout) as gateway:
        await Watch(gateway, "main").until(NOT_SERVING)


async def test_a_check_that_is_cancelled_by_somebody_else_counts_as_failure_and_is_asked_again() -> None:
    checks = 0

    async def check() -> None:
        nonlocal checks
        checks += 1
        if checks < 5:
            raise asyncio.CancelledError

    router = RouterDouble()
    async with serving(router, checks={"main": check}, check_interval=timedelta(milliseconds=50)) as gateway:
        watch = Watch(gateway, "main")
        await watch.until(NOT_SERVING)
        await watch.until(SERVING)


async def test_a_check_that_does_not_end_is_not_asked_again_beside_itself() -> None:
    checks, seconds = 0, timedelta(milliseconds=5)
    asked_again = asyncio.Event()

    async def deaf() -> None:
        nonlocal checks
        checks += 1
        for _ in range(3):
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        asked_again.set()

    async with serving(RouterDouble(), checks={"main": deaf}, check_interval=seconds, check_timeout=seconds) as gateway:
        await Watch(gateway, "main").until(NOT_SERVING)
        async with asyncio.timeout(30):
            await asked_again.wait()
        assert checks == 1


async def test_what_a_check_raises_is_logged_without_its_text_unless_it_is_ours() -> None:
    errors = [RuntimeError("password=secret"), ProviderAuthorizationFailed("grant it changefeed_reader")]

    async def check() -> None:
        if errors:
            raise errors[0]

    with capture_logs() as logs:
        interval = timedelta(milliseconds=5)
        async with serving(RouterDouble(), checks={"main": check}, check_interval=interval) as gateway:
            watch = Watch(gateway, "main")
            for _ in range(2):
                await watch.until(NOT_SERVING)
                held = errors[1:]
                errors.clear()
                await watch.until(SERVING)
                errors.extend(held)
    problems = [entry["problem"] for entry in logs if entry["event"] == "connection not serving"]
    assert problems == ["RuntimeError", "PROVIDER_AUTHORIZATION_FAILED: grant it changefeed_reader"]


async def test_drain_tells_health_first_then_streams_and_then_stops(gateway: Gateway, router: RouterDouble) -> None:
    order: list[str] = []

    async def watch_health() -> None:
        watch = Watch(gateway, "")
        assert await watch.next() == SERVING
        watching.set()
        assert await watch.next() == NOT_SERVING
        order.append("drained" if router.draining.is_set() else "not serving")
        assert await watch.next() is None
        order.append("watch ended")

    async def follow() -> None:
        call = gateway.stub.Subscribe(SUBSCRIBE)
        contents = []
        async for message in call:
            contents.append(message.WhichOneof("content"))
            following.set()
        assert contents == ["opened", "closing"]
        assert await call.code() is grpc.StatusCode.OK
        order.append("stream closed")

    async def poll() -> None:
        page = await gateway.stub.ReadChanges(READ)
        assert page.continuation_token == "t"
        order.append("poll answered")

    watching, following, router.held = asyncio.Event(), asyncio.Event(), Held()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for work in (watch_health(), follow(), poll()):
            group.create_task(work)
        await watching.wait()
        await following.wait()
        await router.held.entered.acquire()
        started = time.monotonic()
        await gateway.server.drain(GRACE, notice=timedelta(milliseconds=100))
        took = time.monotonic() - started
    assert order[0] == "not serving"
    assert sorted(order[1:]) == ["poll answered", "stream closed", "watch ended"]
    assert 0.1 <= took < GRACE.total_seconds() / 2, "a watch of the health does not hold the stop up"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.stub.ReadChanges(READ)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_drain_cuts_what_outlives_the_grace(gateway: Gateway, router: RouterDouble) -> None:
    ended = asyncio.Event()

    async def deaf() -> AsyncGenerator[StreamItem]:
        try:
            yield OPENED
            await asyncio.Event().wait()
        finally:
            ended.set()

    router.stream = deaf
    call = gateway.stub.Subscribe(SUBSCRIBE)
    await call.read()
    async with asyncio.timeout(30):
        await gateway.server.drain(timedelta(milliseconds=50))
        await ended.wait()
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        await gateway.server.wait_for_termination()


async def test_a_connection_takes_no_new_calls_after_its_age_and_the_streams_on_it_go_on() -> None:
    router = RouterDouble()
    router.limits = replace(router.limits, max_connection_age=timedelta(milliseconds=500))
    async with serving(router) as gateway:
        watch = Watch(gateway, "")
        assert await watch.next() == SERVING
        async with asyncio.timeout(60):
            await gateway.channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        answer = await gateway.stub.ReadChanges(READ)
        assert answer.continuation_token, "by another connection"
        draining = asyncio.create_task(gateway.server.drain(timedelta(0)))
        assert await watch.next() == NOT_SERVING, "by the one that is too old"
        await draining


async def test_drain_of_a_server_that_never_started() -> None:
    router = RouterDouble()
    await GatewayServer(router).drain(GRACE)
    assert router.draining.is_set()


async def test_a_drain_during_the_start_ends_what_has_started() -> None:
    server = GatewayServer(RouterDouble())
    starting = asyncio.create_task(server.start("127.0.0.1:0"))
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await server.drain(timedelta(0))
        port = await starting
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_taken_port_is_an_error(gateway: Gateway) -> None:
    with pytest.raises(OSError, match=f"cannot listen on {gateway.address}"):
        await GatewayServer(RouterDouble()).start(gateway.address)


async def test_processes_may_share_a_port_when_told_to() -> None:
    async with serving(RouterDouble(), reuse_port=True) as gateway:
        second = GatewayServer(RouterDouble(), reuse_port=True)
        assert await second.start(gateway.address) == int(gateway.address.rpartition(":")[2])
        await second.drain(timedelta(0))


async def test_the_longest_token_fits_and_an_endless_request_does_not(gateway: Gateway) -> None:
    def read(token: str) -> read_changes_pb2.ReadChangesRequest:
        start = position_pb2.StartPosition(continuation_token=token)
        return read_changes_pb2.ReadChangesRequest(address=ADDRESS, start_position=start)

    await gateway.stub.ReadChanges(read("t" * MAX_TOKEN_CHARS))
    with pytest.raises(grpc.aio.AioRpcError) as longer:
        await gateway.stub.ReadChanges(read("t" * (MAX_TOKEN_CHARS + 1)))
    assert error_info(longer.value).reason == "TOKEN_MALFORMED"
    with pytest.raises(grpc.aio.AioRpcError) as endless:
        await gateway.stub.ReadChanges(read("t" * MAX_REQUEST_BYTES))
    assert endless.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def reflect(
    gateway: Gateway, version: str, *requests: reflection_pb2.ServerReflectionRequest
) -> list[reflection_pb2.ServerReflectionResponse]:
    async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        for request in requests:
            yield request

    call: grpc.aio.StreamStreamMultiCallable[
        reflection_pb2.ServerReflectionRequest, reflection_pb2.ServerReflectionResponse
    ] = gateway.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return [answer async for answer in call(ask())]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.req("A3")
async def test_reflection_lists_services_and_resolves_them(gateway: Gateway, version: str) -> None:
    [listing] = await reflect(gateway, version, reflection_pb2.ServerReflectionRequest(list_services=""))
    names = [service.name for service in listing.list_services_response.service]
    assert names == sorted(names)
    assert "changefeed.v1.ChangeFeedService" in names
    assert "grpc.health.v1.Health" in names
    details = ("google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo")
    for symbol in (*names, *details):
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
        [answer] = await reflect(gateway, version, request)
        assert symbol in set().union(*map(defined, answer.file_descriptor_response.file_descriptor_proto))


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_knows_methods_and_says_what_they_do(gateway: Gateway, version: str) -> None:
    for name in ("ReadChanges", "Subscribe", "GetCapabilities"):
        symbol = f"changefeed.v1.ChangeFeedService.{name}"
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
        [answer] = await reflect(gateway, version, request)
        [serialized, *_] = answer.file_descriptor_response.file_descriptor_proto
        file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
        index = [method.name for method in file.service[0].method].index(name)
        comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
        assert comments[6, 0, 2, index].strip()
    for unknown in ("changefeed.v1.ChangeFeedService.Nothing", "nobody.Nothing"):
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=unknown)
        [answer] = await reflect(gateway, version, request)
        assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    request = reflection_pb2.ServerReflectionRequest(file_by_filename="changefeed/v1/subscribe.proto")
    [answer] = await reflect(gateway, version, request)
    [serialized, *_] = answer.file_descriptor_response.file_descriptor_proto
    file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
    assert any(place.leading_comments for place in file.source_code_info.location)


def defined(serialized: bytes) -> set[str]:
    """Names of the messages and services of a file."""
    file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
    names = [message.name for message in file.message_type] + [service.name for service in file.service]
    return {f"{file.package}.{name}" for name in names}
