"""A wire-level server with a container, a gateway in front of it that can be killed, and a caller."""

import itertools
from typing import Any

from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import Address
from tests.conformance.client import Client, wire_address
from tests.cosmos.gateway import make_provider
from tests.cosmos.server.wire import WireServer
from tests.gateway import QUICK, RunningGateway

CONNECTION = "subject"
THINGS = "things"


class Scene:
    """Its container is empty, with the partition key `/pk`, unless the test makes another."""

    def __init__(self, server: WireServer, **provider: Any) -> None:
        self.server = server
        self._options = provider
        self._gateway: RunningGateway | None = None
        self._numbers = itertools.count()

    async def serve(self, *, limits: Limits = QUICK) -> None:
        """Start a gateway."""
        provider = make_provider(self.server, **self._options)
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
        """A caller that asks for the container."""
        return self.client_of(THINGS)

    def client_of(self, container: str) -> Client:
        """A caller that asks for a container."""
        assert self._gateway is not None
        address = Address(connection=CONNECTION, database="", collection=container)
        return Client(self._gateway.stub, wire_address(address))

    def put(self, *names: str, pk: str = "a") -> None:
        """Write items of one logical partition, each by itself; the content of each differs from all others."""
        for name in names:
            self.server.upsert(THINGS, {"id": name, "pk": pk, "text": f"text {next(self._numbers)}"})

    def put_many(self, count: int) -> None:
        """Write new items of many logical partitions."""
        for number in itertools.islice(self._numbers, count):
            self.server.upsert(THINGS, {"id": f"item {number}", "pk": f"key {number}", "text": "x" * 50})

    @property
    def range_id(self) -> str:
        """The only range."""
        [found] = self.server.ranges(THINGS)
        return found
