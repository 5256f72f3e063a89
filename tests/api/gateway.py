"""A gateway on loopback and a client's channel to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from changefeed.v1 import change_feed_service_pb2_grpc
from changefeed_gateway.api.server import GatewayServer
from changefeed_gateway.api.service import SERVICE_NAME
from tests.api.router_double import RouterDouble


@dataclass(frozen=True, slots=True)
class Gateway:
    server: GatewayServer
    router: RouterDouble
    address: str
    channel: grpc.aio.Channel

    @property
    def stub(self) -> "change_feed_service_pb2_grpc.ChangeFeedServiceAsyncStub":
        return change_feed_service_pb2_grpc.ChangeFeedServiceStub(self.channel)

    async def call_raw(self, method: str, request: bytes) -> bytes:
        """The answer of a unary method as it came off the wire."""
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(f"/{SERVICE_NAME}/{method}")
        return await call(request)

    def subscribe_raw(self, request: bytes) -> grpc.aio.UnaryStreamCall[bytes, bytes]:
        """The messages of Subscribe as they come off the wire."""
        call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self.channel.unary_stream(f"/{SERVICE_NAME}/Subscribe")
        return call(request)


@asynccontextmanager
async def serving(router: RouterDouble, **settings: Any) -> AsyncIterator[Gateway]:
    server = GatewayServer(router, **settings)
    address = f"127.0.0.1:{await server.start('127.0.0.1:0')}"
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield Gateway(server, router, address, channel)
    finally:
        await server.drain(timedelta(0))


def metadata_of(error: grpc.aio.AioRpcError) -> dict[str, str | bytes]:
    return dict(error.trailing_metadata() or ())


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    details = metadata_of(error)["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    status = status_pb2.Status.FromString(details)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    return status


def error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    [info] = [each for each in details_of(error) if isinstance(each, error_details_pb2.ErrorInfo)]
    return info


def details_of(error: grpc.aio.AioRpcError) -> list[object]:
    found: list[object] = []
    for packed in status_of(error).details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo, error_details_pb2.BadRequest):
            message = kind()
            if packed.Unpack(message):
                found.append(message)
    return found
