"""Whatever bytes a call brings, it is answered, and the gateway is as before."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.message import Message

from changefeed.v1 import (
    capabilities_pb2,
    operator_service_pb2,
    partition_pb2,
    position_pb2,
    read_changes_pb2,
    token_pb2,
)
from tests.abuse.mutation import mutated
from tests.abuse.witness import ADDRESS, SUBSCRIBE, abused_gateway, witnessed
from tests.load.gateway_process import GatewayProcess
from tests.soak import soak_dice

pytestmark = [pytest.mark.xdist_group("abuse"), pytest.mark.soak, pytest.mark.req("P7")]

SERVICE = "/changefeed.v1.ChangeFeedService/"
START = SUBSCRIBE.start_position
REQUESTS: dict[str, Message] = {
    f"{SERVICE}ReadChanges": read_changes_pb2.ReadChangesRequest(address=ADDRESS, start_position=START),
    f"{SERVICE}Subscribe": SUBSCRIBE,
    f"{SERVICE}GetCapabilities": capabilities_pb2.GetCapabilitiesRequest(address=ADDRESS),
    f"{SERVICE}ListPhysicalPartitions": partition_pb2.ListPhysicalPartitionsRequest(address=ADDRESS, page_size=3),
    f"{SERVICE}ResolveStartPosition": token_pb2.ResolveStartPositionRequest(
        address=ADDRESS, start_position=position_pb2.StartPosition(now=position_pb2.Now())
    ),
    f"{SERVICE}InspectContinuationToken": token_pb2.InspectContinuationTokenRequest(
        address=ADDRESS, continuation_token="eyJzY2hlbWFWZXJzaW9uIjoxfQ"
    ),
    "/changefeed.v1.OperatorService/ListStreams": operator_service_pb2.ListStreamsRequest(connection="main"),
    "/grpc.health.v1.Health/Check": capabilities_pb2.GetCapabilitiesRequest(),
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": capabilities_pb2.GetCapabilitiesRequest(),
}
AT_ONCE = 20
FAULTS = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayProcess]:
    # Nobody is turned away, so that every message is looked at.
    async with abused_gateway(tmp_path_factory.mktemp("messages"), peer_bad_tokens=100_000) as gateway:
        yield gateway


async def answer(channel: grpc.aio.Channel, path: str, message: bytes) -> grpc.StatusCode:
    """The end of a call that brings a message; a stream is taken back after its first answer."""
    method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
    call = method(iter([message]), timeout=30)
    try:
        if isinstance(await call.read(), bytes):
            call.cancel()
            return grpc.StatusCode.OK
    except grpc.aio.AioRpcError as error:
        return error.code()
    return await call.code()


@pytest.mark.parametrize("path", REQUESTS)
async def test_any_bytes_are_answered_and_harm_nobody(gateway: GatewayProcess, path: str) -> None:
    dice = soak_dice()
    good = REQUESTS[path].SerializeToString()
    ended: set[grpc.StatusCode] = set()

    async with witnessed(gateway) as witness, gateway.channel() as channel:

        async def attack() -> None:
            messages = [mutated(good, dice) for _ in range(AT_ONCE)]
            ended.update(await asyncio.gather(*(answer(channel, path, message) for message in messages)))

        await witness.during(attack, seconds=0.3)
    assert not ended.intersection(FAULTS)
    assert grpc.StatusCode.DEADLINE_EXCEEDED not in ended


async def test_giant_metadata_is_refused_and_harms_nobody(gateway: GatewayProcess) -> None:
    async with witnessed(gateway) as witness, gateway.channel() as channel:
        read: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"{SERVICE}GetCapabilities")
        for size in (40_000, 1_000_000):

            async def attack(size: int = size) -> None:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await read(b"", metadata=(("x-giant", "v" * size),), timeout=30)
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

            await witness.during(attack, seconds=0.1)
