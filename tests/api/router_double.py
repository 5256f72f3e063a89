"""A router that answers as a test tells it: for what the API does by itself, without a core behind it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import timedelta

from changefeed_gateway.core.answer import (
    Batch,
    Closing,
    ClosingReason,
    Opened,
    ReadAnswer,
    ReadRequest,
    ResolvedStart,
    StreamItem,
    SubscribeRequest,
    TokenReport,
)
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import (
    Address,
    Capability,
    CapabilityName,
    Feed,
    ItemState,
    Partition,
    RequestedStart,
    Scope,
)
from changefeed_gateway.core.observation import Observation
from changefeed_gateway.core.router import Router
from changefeed_gateway.core.streams import Progress, Streams

FEED = Feed(
    address=Address(connection="main", database="app", collection="documents"),
    provider_id="memory",
    incarnation="1",
    capabilities=tuple(Capability(name=name, supported=True) for name in CapabilityName),
    item_state=ItemState.INCLUDED,
    single_order=True,
)
OPENED = Opened(feed=FEED, token="t0", heartbeat=timedelta(seconds=10), expire_time=None)


class Held:
    """Something that a test waits for, and something that waits for the test."""

    def __init__(self) -> None:
        self.entered = asyncio.Semaphore(0)
        """Acquired once for each call that is held."""
        self.released = asyncio.Event()
        self.left = asyncio.Event()

    async def hold(self) -> None:
        """Say that we are here, and stay until released or cancelled."""
        self.entered.release()
        try:
            await self.released.wait()
        finally:
            self.left.set()


class RouterDouble(Router):
    """Answers with what its attributes hold; an exception there is raised."""

    def __init__(self, limits: Limits | None = None, connections: Sequence[str] = ("main",)) -> None:
        self.limits = limits or Limits()
        self.observation = Observation()
        self.streams = Streams(self.observation)
        self.names = connections
        self.draining = asyncio.Event()
        self.held: Held | None = None
        """Holds every unary call."""
        self.failure: Exception | None = None
        self.answer = ReadAnswer(feed=FEED, records=(), token="t", more_available=False)
        self.partitions: Sequence[Partition] = ()
        self.report = TokenReport(problem=None)
        self.stream: Callable[[], AsyncGenerator[StreamItem]] = self.until_drained
        self.asked: list[object] = []

    @property
    def connections(self) -> Sequence[str]:
        return self.names

    async def _ask(self, request: object) -> None:
        self.asked.append(request)
        if self.held is not None:
            await self.held.hold()
        if self.failure is not None:
            raise self.failure

    async def read_changes(self, request: ReadRequest) -> ReadAnswer:
        await self._ask(request)
        return self.answer

    async def list_partitions(self, address: Address) -> Sequence[Partition]:
        await self._ask(address)
        return self.partitions

    async def describe_feed(self, address: Address) -> Feed:
        await self._ask(address)
        return FEED

    async def resolve_start(self, address: Address, scope: Scope | None, start: RequestedStart) -> ResolvedStart:
        await self._ask((address, scope, start))
        return ResolvedStart(token="resolved", expire_time=None)

    async def inspect_token(self, address: Address, token: str) -> TokenReport:
        await self._ask((address, token))
        return self.report

    async def subscribe(
        self, request: SubscribeRequest, *, end_write: Callable[[], None], progress: Progress | None = None
    ) -> AsyncGenerator[StreamItem]:
        self.asked.append(request)
        self.end_write = end_write
        async with aclosing(self.stream()) as items:
            async for item in items:
                yield item

    async def until_drained(self) -> AsyncGenerator[StreamItem]:
        """A stream that opens and closes with the drain."""
        yield OPENED
        await self.draining.wait()
        yield Closing(reason=ClosingReason.DRAINING, token="t9", reconnect_after=timedelta(seconds=1))

    async def batches(self, records: Sequence[bytes]) -> AsyncGenerator[StreamItem]:
        """A stream that never ends and sends the same batch again and again."""
        yield OPENED
        while True:
            yield Batch(records=records, token="t1", expire_time=None, watermark=None)

    def begin_drain(self) -> None:
        self.draining.set()
        if self.held is not None:
            self.held.released.set()

    async def aclose(self) -> None:
        pass
