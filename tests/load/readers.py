"""Consumers that keep every event, save every token, and resume from the last one."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from google.protobuf.duration_pb2 import Duration

from changefeed.v1.change_event_pb2 import ChangeEvent, ChangeType
from changefeed.v1.change_feed_service_pb2_grpc import ChangeFeedServiceStub
from changefeed.v1.partition_pb2 import ChildPartition
from changefeed.v1.position_pb2 import Beginning, StartPosition
from changefeed.v1.read_changes_pb2 import ReadChangesRequest
from changefeed.v1.resource_pb2 import FeedScope, ResourceAddress
from changefeed.v1.subscribe_pb2 import SubscribeRequest
from tests.load.gateway_process import GatewayProcess

if TYPE_CHECKING:
    from changefeed.v1.change_feed_service_pb2_grpc import ChangeFeedServiceAsyncStub

_RESUMABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)
"""What a client sees of a gateway that is killed; UNKNOWN only when the stream is torn in the middle."""


@dataclass(slots=True)
class Kept:
    """What a reader remembers of an event."""

    event_id: str
    kind: str
    key: str
    image: str


@dataclass
class Reader:
    """One consumer. `page_size` 0 subscribes; otherwise it reads pages of that size."""

    name: str
    gateway: GatewayProcess
    address: ResourceAddress
    scope: FeedScope
    page_size: int = 0
    events: list[Kept] = field(default_factory=list)
    token: str = ""
    children: list[ChildPartition] | None = None
    """What replaced the partition that was read to its end."""
    resumes: int = 0
    repeated: int = 0
    """Events that came again after a resume."""
    grown: asyncio.Event = field(default_factory=asyncio.Event)
    _seen: set[str] = field(default_factory=set)
    _may_repeat: bool = False

    async def run(self) -> None:
        """Read for ever, or until the partition is retired, across every break."""
        while self.children is None:
            async with self.gateway.channel() as channel:
                stub: ChangeFeedServiceAsyncStub = ChangeFeedServiceStub(channel)
                try:
                    async for token, events in self._pages(stub) if self.page_size else self._stream(stub):
                        self._keep(token, events)
                except grpc.aio.AioRpcError as error:
                    if error.code() not in _RESUMABLE:
                        raise
                    self.resumes += 1
                    self._may_repeat = True
                    await asyncio.sleep(0.05)

    @property
    def _start(self) -> StartPosition:
        return StartPosition(continuation_token=self.token) if self.token else StartPosition(beginning=Beginning())

    async def _pages(self, stub: "ChangeFeedServiceAsyncStub") -> AsyncIterator[tuple[str, list[ChangeEvent]]]:
        while self.children is None:
            request = ReadChangesRequest(
                address=self.address,
                scope=self.scope,
                start_position=self._start,
                max_page_size=self.page_size,
                max_wait=Duration(seconds=2),
            )
            answer = await stub.ReadChanges(request, timeout=20)
            assert answer.continuation_token
            yield answer.continuation_token, list(answer.events)
            if answer.partition_retired:
                self.children = list(answer.child_partitions)

    async def _stream(self, stub: "ChangeFeedServiceAsyncStub") -> AsyncIterator[tuple[str, list[ChangeEvent]]]:
        request = SubscribeRequest(
            address=self.address, scope=self.scope, start_position=self._start, heartbeat_interval=Duration(seconds=1)
        )
        async for message in stub.Subscribe(request):
            match message.WhichOneof("content"):
                case "batch":
                    yield message.batch.continuation_token, list(message.batch.events)
                case "opened":
                    yield message.opened.continuation_token, []
                case "heartbeat":
                    yield message.heartbeat.continuation_token, []
                case "partition_retired":
                    self.children = list(message.partition_retired.child_partitions)
                case _:
                    pass

    def _keep(self, token: str, events: list[ChangeEvent]) -> None:
        for event in events:
            if event.event_id in self._seen:
                assert self._may_repeat, f"{self.name}: {event.event_id} came twice without a resume"
                self.repeated += 1
                continue
            self._seen.add(event.event_id)
            kind = ChangeType.Name(event.change_type)
            self.events.append(
                Kept(
                    event.event_id,
                    kind.removeprefix("CHANGE_TYPE_"),
                    event.key.components[0].value,
                    event.new_item_json,
                )
            )
        if events:
            self._may_repeat = False
        self.token = token
        self.grown.set()

    async def wait_for(self, event_count: int) -> None:
        """Return once so many different events have come."""
        while len(self.events) < event_count:
            self.grown.clear()
            await self.grown.wait()

    def by_key(self) -> dict[int, list[tuple[str, str]]]:
        """For each row, what was received of it, in order."""
        changes: dict[int, list[tuple[str, str]]] = {}
        for event in self.events:
            changes.setdefault(int(event.key), []).append((event.kind, event.image))
        return changes

    @property
    def order(self) -> list[str]:
        """Event ids in the order they came first."""
        return [event.event_id for event in self.events]
