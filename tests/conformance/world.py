"""One test's surroundings: a backend, a gateway in front of it, a caller, and the journal of what was committed."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import Address, Feed
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.core.token import TokenKey
from changefeed_gateway.providers.memory.provider import MemoryProvider
from changefeed_gateway.providers.memory.store import MemoryStore
from tests.conformance.backend import Backend, Item
from tests.conformance.client import BEGINNING, NOW, Client, Event, Scope, Start, after, wire_address
from tests.conformance.journal import Commit, Journal, tells_every_change
from tests.gateway import QUICK, TOKEN_KEY, RunningGateway

CONNECTION = "subject"
TWIN = "twin"
"""Another connection to the same database."""
FOREIGN = "foreign"
"""A connection to another provider, with a collection of the same name."""


class ForeignProvider(MemoryProvider):
    """Another provider, whatever the backend is."""

    @property
    def provider_id(self) -> str:
        return "foreign"

    async def open_feed(self, address: Address) -> Feed:
        return replace(await super().open_feed(address), provider_id=self.provider_id)


class World:
    """Made by the fixture `world`, empty."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.journal = Journal(backend)
        self._gateways: list[RunningGateway] = []
        self._dice = random.Random(20261121)
        self._written = 0

    # --- The gateway

    async def serve(self, *, limits: Limits = QUICK, keys: Sequence[TokenKey] = (TOKEN_KEY,)) -> RunningGateway:
        """Start a gateway and speak to it from now on; those before it stay."""
        gateway = await RunningGateway.start(await self._providers(), limits=limits, keys=keys)
        self._gateways.append(gateway)
        return gateway

    async def restart(self, *, limits: Limits = QUICK) -> None:
        """Kill the gateway and start another."""
        await self._gateways.pop().kill()
        await self.serve(limits=limits)

    async def stop(self) -> None:
        """End every gateway."""
        while self._gateways:
            await self._gateways.pop().kill()

    async def _providers(self) -> Mapping[str, Provider]:
        foreign = MemoryStore()
        foreign.create(self.backend.address(FOREIGN).collection)
        return {
            CONNECTION: await self.backend.connect(),
            TWIN: await self.backend.connect(),
            FOREIGN: ForeignProvider(foreign),
        }

    @property
    def gateway(self) -> RunningGateway:
        """The newest gateway."""
        return self._gateways[-1]

    @property
    def client(self) -> Client:
        """A caller that asks for the backend's collection."""
        return Client(self.gateway.stub, wire_address(self.backend.address(CONNECTION)))

    # --- Starts

    async def origin(self, scope: Scope | None = None) -> Start:
        """A start before everything that the test is going to write: the beginning, or else now."""
        if await self.can("CHANGE_FEED_BEGINNING"):
            return BEGINNING
        return after((await self.client.resolve(NOW, scope=scope)).continuation_token)

    async def can(self, capability: str) -> bool:
        """Ask, as portable code does, whether the collection has a capability."""
        return capability in await self.client.supported()

    @property
    def can_delete(self) -> bool:
        """Whether a delete is told."""
        return tells_every_change(self.backend)

    async def learn(self, item: Item) -> Event:
        """Write an item once; answers the event, which names its partitions."""
        token = (await self.client.resolve(NOW)).continuation_token
        await self.put(item)
        [event] = (await self.client.read_all(after(token))).events
        return event

    # --- Writers

    async def put(self, item: Item, content: str | None = None) -> None:
        """Write an item."""
        self._written += 1
        text = f"content {self._written}" if content is None else content
        await self.backend.put(item, text)
        self.journal.commits.append(Commit(item, text, created=item not in self.journal.items))
        self.journal.items[item] = text

    async def delete(self, item: Item) -> None:
        """Delete an item."""
        await self.backend.delete(item)
        del self.journal.items[item]
        self.journal.commits.append(Commit(item, None, created=False))

    async def write(self, count: int, *, partitions: int = 8) -> None:
        """Write so many changes of any kind to a few items; new items where a feed tells only the last version."""
        if not tells_every_change(self.backend):
            return await self.create(count, partitions=partitions)
        for _ in range(count):
            item = Item(f"partition {self._dice.randrange(partitions)}", f"item {self._dice.randrange(3)}")
            if item in self.journal.items and self._dice.random() < 0.25:
                await self.delete(item)
            else:
                await self.put(item)

    async def create(self, count: int, *, partitions: int = 8) -> None:
        """Write so many new items."""
        for _ in range(count):
            await self.put(Item(f"partition {self._written % partitions}", f"new {self._written}"))
