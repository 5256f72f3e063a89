"""A wire-level server with a table, a gateway in front of it that can be killed, and a caller."""

import asyncio
from collections.abc import Callable
from typing import Any

from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import Address
from tests.conformance.client import Client, wire_address
from tests.dynamodb.gateway import make_provider
from tests.dynamodb.server.wire import WireServer
from tests.dynamodb.shop import TABLE, Shop
from tests.gateway import QUICK, RunningGateway

CONNECTION = "subject"


class Scene:
    """Its table is empty and its stream on, unless the test makes another."""

    def __init__(self, server: WireServer, **provider: Any) -> None:
        self.server = server
        self.shop = Shop(server.url)
        self._options = provider
        self._gateway: RunningGateway | None = None

    async def serve(self, *, limits: Limits = QUICK) -> None:
        """Start a gateway."""
        provider = make_provider(self.server.url, **self._options)
        self._gateway = await RunningGateway.start({CONNECTION: provider}, limits=limits)

    async def kill(self) -> None:
        """End the gateway without a word to anybody."""
        if self._gateway is not None:
            await self._gateway.kill()
        self._gateway = None

    async def restart(self) -> None:
        """Kill the gateway and start another."""
        await self.kill()
        await self.serve()

    @property
    def client(self) -> Client:
        """A caller that asks for the table."""
        assert self._gateway is not None
        return Client(self._gateway.stub, wire_address(Address(connection=CONNECTION, database="", collection=TABLE)))

    async def write(self, step: Callable[..., object], *arguments: Any, **options: Any) -> None:
        """Let the shop do something without holding up the gateway."""
        await asyncio.to_thread(step, *arguments, **options)

    @property
    def shard(self) -> str:
        """The only open shard."""
        [shard] = self.server.open_shards(TABLE)
        return shard
