"""A caller of the gateway with few words: requests, pages, streams and refusals."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Self

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from changefeed.v1 import (
    capabilities_pb2,
    change_event_pb2,
    change_feed_service_pb2_grpc,
    partition_pb2,
    position_pb2,
    read_changes_pb2,
    resource_pb2,
    subscribe_pb2,
    token_pb2,
)
from changefeed_gateway.core.model import Address

Event = change_event_pb2.ChangeEvent
Start = position_pb2.StartPosition
Scope = resource_pb2.FeedScope
Mode = read_changes_pb2.NewItemStateMode
Page = read_changes_pb2.ReadChangesResponse

BEGINNING = Start(beginning=position_pb2.Beginning())
NOW = Start(now=position_pb2.Now())
SNAPSHOT = Start(snapshot=position_pb2.Snapshot())
ENTIRE = Scope(entire_collection=resource_pb2.EntireCollection())
INCLUDE = read_changes_pb2.NEW_ITEM_STATE_MODE_INCLUDE_IF_AVAILABLE
OMIT = read_changes_pb2.NEW_ITEM_STATE_MODE_OMIT
REQUIRE = read_changes_pb2.NEW_ITEM_STATE_MODE_REQUIRE

PATIENCE = 60
"""Seconds after which a test gives up on an answer."""


def after(token: str) -> Start:
    """Start behind a token."""
    return Start(continuation_token=token)


def at_time(time: Timestamp) -> Start:
    """Start at a time."""
    return Start(at_time=time)


def physical(partition_id: str) -> Scope:
    """One physical partition."""
    return Scope(physical_partition_id=partition_id)


def logical(partition_key: str) -> Scope:
    """One logical partition."""
    return Scope(logical_partition=partition_key)


def wire_address(address: Address) -> resource_pb2.ResourceAddress:
    """An address as requests carry it."""
    return resource_pb2.ResourceAddress(
        connection=address.connection, database=address.database, collection=address.collection
    )


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a caller can know of an error."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    fields: list[str]
    retry_delay: timedelta | None

    @property
    def category(self) -> str:
        """The portable kind of failure."""
        return self.metadata["category"]

    @classmethod
    def of_error(cls, error: grpc.aio.AioRpcError) -> "Refusal":
        """Read the details of a failed call."""
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # reads what both kinds of call have
        assert status is not None, f"an error without details: {error}"
        assert status.ByteSize() < 4096
        return cls.of_status(status)

    @classmethod
    def of_status(cls, status: status_pb2.Status) -> "Refusal":
        """Read the details of a status."""
        info, retry, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
        for detail in status.details:
            assert detail.Unpack(info) or detail.Unpack(retry) or detail.Unpack(bad)
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        delay = retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None
        fields = [violation.field for violation in bad.field_violations]
        assert info.metadata["request_id"]
        return cls(code, status.message, info.reason, dict(info.metadata), fields, delay)


async def refusal(answer: Awaitable[object]) -> Refusal:
    """Expect a call to fail; answers how."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer
    return Refusal.of_error(caught.value)


async def refused(answer: Awaitable[object], category: str, reason: str, code: grpc.StatusCode) -> Refusal:
    """Expect a call to fail in exactly this way."""
    found = await refusal(answer)
    assert (found.category, found.reason, found.code) == (category, reason, code), found
    return found


async def unsupported(answer: Awaitable[object], capability: str) -> None:
    """Expect a call to be refused because the collection lacks a capability."""
    await refused(answer, "UNSUPPORTED_CAPABILITY", capability, grpc.StatusCode.UNIMPLEMENTED)


async def invalid(answer: Awaitable[object], reason: str) -> Refusal:
    """Expect a call to be refused as one that can never succeed."""
    return await refused(answer, "INVALID_REQUEST", reason, grpc.StatusCode.INVALID_ARGUMENT)


@dataclass
class Reading:
    """What a run of pages brought."""

    events: list[Event] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)

    @property
    def token(self) -> str:
        """Where to go on."""
        return self.pages[-1].continuation_token


class Client:
    """Calls about one collection."""

    def __init__(
        self, stub: "change_feed_service_pb2_grpc.ChangeFeedServiceAsyncStub", address: resource_pb2.ResourceAddress
    ) -> None:
        self.stub = stub
        self.address = address

    def of(self, address: Address) -> "Client":
        """The same caller on another collection."""
        return Client(self.stub, wire_address(address))

    async def read(
        self,
        start: Start,
        *,
        scope: Scope | None = None,
        size: int = 0,
        wait: float = 0,
        mode: Mode = INCLUDE,
        deadline: float = PATIENCE,
    ) -> Page:
        """Read one page."""
        page = await self.stub.ReadChanges(
            read_changes_pb2.ReadChangesRequest(
                address=self.address,
                scope=scope,
                start_position=start,
                new_item_state_mode=mode,
                max_page_size=size,
                max_wait=_duration(wait),
            ),
            timeout=deadline,
        )
        assert page.continuation_token
        assert page.ByteSize() < 4 * 1024 * 1024
        return page

    async def read_all(
        self, start: Start, *, scope: Scope | None = None, size: int = 0, mode: Mode = INCLUDE
    ) -> Reading:
        """Read pages until there are no more."""
        reading = Reading()
        while True:
            page = await self.read(start, scope=scope, size=size, mode=mode)
            reading.pages.append(page)
            reading.events += page.events
            start = after(page.continuation_token)
            if not page.more_available:
                return reading

    async def read_until(self, start: Start, count: int, *, scope: Scope | None = None, size: int = 0) -> Reading:
        """Read pages, waiting for changes, until a number of them came."""
        reading = Reading()
        async with asyncio.timeout(PATIENCE):
            while len(reading.events) < count:
                page = await self.read(start, scope=scope, size=size, wait=5)
                reading.pages.append(page)
                reading.events += page.events
                start = after(page.continuation_token)
        return reading

    async def partitions(self, *, page_size: int = 0) -> list[partition_pb2.PhysicalPartition]:
        """List every physical partition."""
        found: list[partition_pb2.PhysicalPartition] = []
        page_token = ""
        while True:
            answer = await self.stub.ListPhysicalPartitions(
                partition_pb2.ListPhysicalPartitionsRequest(
                    address=self.address, page_size=page_size, page_token=page_token
                ),
                timeout=PATIENCE,
            )
            assert not page_size or len(answer.partitions) <= page_size
            found += answer.partitions
            page_token = answer.next_page_token
            if not page_token:
                return found

    async def capabilities(self) -> capabilities_pb2.GetCapabilitiesResponse:
        """Ask what the collection can do."""
        return await self.stub.GetCapabilities(
            capabilities_pb2.GetCapabilitiesRequest(address=self.address), timeout=PATIENCE
        )

    async def supported(self) -> set[str]:
        """The names of the capabilities that the collection has."""
        return {capability.name for capability in (await self.capabilities()).capabilities if capability.supported}

    async def resolve(self, start: Start, *, scope: Scope | None = None) -> token_pb2.ResolveStartPositionResponse:
        """Turn a start into a token."""
        return await self.stub.ResolveStartPosition(
            token_pb2.ResolveStartPositionRequest(address=self.address, scope=scope, start_position=start),
            timeout=PATIENCE,
        )

    async def inspect(self, token: str) -> token_pb2.InspectContinuationTokenResponse:
        """Ask what a token is."""
        return await self.stub.InspectContinuationToken(
            token_pb2.InspectContinuationTokenRequest(address=self.address, continuation_token=token),
            timeout=PATIENCE,
        )

    def subscribe(
        self,
        start: Start,
        *,
        scope: Scope | None = None,
        size: int = 0,
        mode: Mode = INCLUDE,
        heartbeat: float | None = None,
        max_events: int = 0,
    ) -> "Stream":
        """Open a stream; leave its context to hang up."""
        return Stream(
            self.stub.Subscribe(
                subscribe_pb2.SubscribeRequest(
                    address=self.address,
                    scope=scope,
                    start_position=start,
                    new_item_state_mode=mode,
                    max_batch_size=size,
                    heartbeat_interval=None if heartbeat is None else _duration(heartbeat),
                    max_events=max_events,
                )
            )
        )


class Stream:
    """A subscription under way: its messages as they come, and what they add up to."""

    def __init__(
        self, call: grpc.aio.UnaryStreamCall[subscribe_pb2.SubscribeRequest, subscribe_pb2.SubscribeResponse]
    ) -> None:
        self.events: list[Event] = []
        self.token = ""
        """The last token that came."""
        self.kinds: list[str] = []
        """What came, without heartbeats."""
        self._call = call
        self._count = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._call.cancel()

    async def next(self) -> subscribe_pb2.SubscribeResponse | None:
        """The next message; None after an orderly end."""
        async with asyncio.timeout(PATIENCE):
            message = await self._call.read()
        if not isinstance(message, subscribe_pb2.SubscribeResponse):
            assert await self._call.code() is grpc.StatusCode.OK, await self._call.details()
            return None
        self._take(message)
        return message

    async def messages(self) -> AsyncIterator[subscribe_pb2.SubscribeResponse]:
        """Every message to the orderly end."""
        while (message := await self.next()) is not None:
            yield message

    async def until(self, kind: str) -> subscribe_pb2.SubscribeResponse:
        """Read on until a kind of message comes."""
        async for message in self.messages():
            if message.WhichOneof("content") == kind:
                return message
        raise AssertionError(f"the stream ended without {kind}: {self.kinds}")

    async def until_live(self) -> None:
        """Read on until everything that was there has been delivered."""
        while (await self.until("state_changed")).state_changed.state != subscribe_pb2.SUBSCRIPTION_STATE_LIVE:
            pass

    async def until_events(self, count: int) -> Sequence[Event]:
        """Read on until so many changes came since the stream opened."""
        while len(self.events) < count:
            await self.until("batch")
        return self.events

    async def to_the_end(self) -> subscribe_pb2.Closing:
        """Read on until the stream ends by itself; answers its last message."""
        last = None
        async for message in self.messages():
            last = message
        assert last is not None
        assert last.WhichOneof("content") == "closing", last
        return last.closing

    def _take(self, message: subscribe_pb2.SubscribeResponse) -> None:
        self._count += 1
        assert message.delivery_sequence == self._count
        assert message.ByteSize() < 4 * 1024 * 1024
        kind = message.WhichOneof("content")
        assert kind is not None
        assert (kind == "opened") == (self._count == 1)
        assert self.kinds[-1:] != ["closing"], "nothing follows closing"
        if kind != "heartbeat":
            self.kinds.append(kind)
        if kind == "batch":
            assert message.batch.events
            self.events += message.batch.events
        if kind != "state_changed":
            self.token = getattr(message, kind).continuation_token
            assert self.token


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration
