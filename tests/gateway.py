"""A whole gateway in this process: providers, router and server on a loopback port, and a channel to it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import grpc

from changefeed.v1 import change_feed_service_pb2_grpc
from changefeed_gateway.api.identity.door import Door
from changefeed_gateway.api.server import GatewayServer
from changefeed_gateway.api.wire.records import encode_changes
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.core.router import Router
from changefeed_gateway.core.token import TokenCodec, TokenKey

TOKEN_KEY = TokenKey(key_id="first", secret=b"a secret of the tests")

QUICK = Limits(
    max_wait=timedelta(seconds=10),
    min_heartbeat=timedelta(milliseconds=50),
    outage_patience=timedelta(seconds=2),
    peer_bad_tokens=100_000,
)
"""Limits that let a test see a heartbeat without waiting for half a second, and try as many tokens as it likes."""


class RunningGateway:
    """One gateway process, as far as its callers can tell; owns its providers."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        limits: Limits,
        keys: Sequence[TokenKey],
        door: Callable[[Router], Door] | None = None,
    ) -> None:
        self.router = Router(providers=providers, tokens=TokenCodec(keys), limits=limits, encoder=encode_changes)
        self.server = GatewayServer(self.router, door=None if door is None else door(self.router))
        self.target = ""
        self._channel: grpc.aio.Channel | None = None

    @classmethod
    async def start(
        cls,
        providers: Mapping[str, Provider],
        *,
        limits: Limits = QUICK,
        keys: Sequence[TokenKey] = (TOKEN_KEY,),
        door: Callable[[Router], Door] | None = None,
    ) -> "RunningGateway":
        """Listen on a free loopback port."""
        gateway = cls(providers, limits, keys, door)
        gateway.target = f"127.0.0.1:{await gateway.server.start('127.0.0.1:0')}"
        gateway._channel = grpc.aio.insecure_channel(gateway.target)
        return gateway

    @property
    def channel(self) -> grpc.aio.Channel:
        """A client's channel."""
        assert self._channel is not None
        return self._channel

    @property
    def stub(self) -> "change_feed_service_pb2_grpc.ChangeFeedServiceAsyncStub":
        """The generated client."""
        return change_feed_service_pb2_grpc.ChangeFeedServiceStub(self.channel)

    async def kill(self) -> None:
        """End without a word to anybody."""
        await self.server.drain(timedelta(0))
        await self.router.aclose()
        await self.channel.close()

    async def drain(self, grace: timedelta = timedelta(seconds=5)) -> None:
        """End in good order; the channel stays open."""
        await self.server.drain(grace)
