"""The calls of the gateway, with the retries that are safe."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import suppress
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from weakref import WeakSet

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from changefeed.v1.capabilities_pb2 import GetCapabilitiesRequest, GetCapabilitiesResponse
from changefeed.v1.change_feed_service_pb2_grpc import ChangeFeedServiceStub
from changefeed.v1.operator_service_pb2 import ListStreamsRequest, ListStreamsResponse
from changefeed.v1.operator_service_pb2_grpc import OperatorServiceStub
from changefeed.v1.partition_pb2 import ListPhysicalPartitionsRequest, PhysicalPartition
from changefeed.v1.position_pb2 import StartPosition
from changefeed.v1.read_changes_pb2 import (
    NewItemStateMode,
    ReadChangesRequest,
    ReadChangesResponse,
)
from changefeed.v1.resource_pb2 import FeedScope, ResourceAddress
from changefeed.v1.subscribe_pb2 import SubscribeRequest
from changefeed.v1.token_pb2 import (
    InspectContinuationTokenRequest,
    InspectContinuationTokenResponse,
    ResolveStartPositionRequest,
    ResolveStartPositionResponse,
)
from changefeed_client.channel import File, dialer
from changefeed_client.checkpoint import Checkpoint
from changefeed_client.errors import ChangeFeedRpcError, ClientClosed, StreamInterrupted
from changefeed_client.partitions import Handle, PartitionReader
from changefeed_client.positions import after, physical_partition
from changefeed_client.retrying import announce, retry
from changefeed_client.tail import Tail

if TYPE_CHECKING:
    from changefeed.v1.change_feed_service_pb2_grpc import ChangeFeedServiceAsyncStub
    from changefeed.v1.operator_service_pb2_grpc import OperatorServiceAsyncStub

T = TypeVar("T")

_SERVICE: Final = "changefeed.v1.ChangeFeedService"
_UNARY: Final = (
    "ReadChanges",
    "ListPhysicalPartitions",
    "GetCapabilities",
    "ResolveStartPosition",
    "InspectContinuationToken",
)
SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": _SERVICE, "method": method} for method in _UNARY],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
"""Retries of unary calls inside gRPC. A stream is not retried there: resuming needs its last token (see `Tail`)."""

OPTIONS: Final = (
    ("grpc.service_config", SERVICE_CONFIG),
    # Data of an idle stream are its heartbeats; a ping finds a dead peer while none is open.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # gRPC's own pause before it connects again grows to two minutes, longer than any restart.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A new channel is a new connection, so that a tail can leave a dead one.
    ("grpc.use_local_subchannel_pool", 1),
)
"""Channel options that the client counts on."""
_DEADLINE: Final = timedelta(seconds=30)
_LONG_POLL: Final = timedelta(seconds=20)
_NO_WAIT: Final = timedelta(0)
_LONGEST_WAIT: Final = timedelta(days=1)
"""Of a deadline; gRPC knows none that is beyond any calendar."""
_CLOSED: Final = "the client was closed"


class ChangeFeedClient:
    """One gateway. Every call raises ChangeFeedRpcError; close it with `aclose` or `async with`.

    It owns its tails and their connections: closing it closes them. What runs meanwhile ends with ClientClosed.

    `dial` makes a channel, each time with a connection of its own (see OPTIONS); `connect` is the short way.
    """

    def __init__(self, dial: Callable[[], grpc.aio.Channel]) -> None:
        self._dial = dial
        self._channel = dial()
        self._stub: ChangeFeedServiceAsyncStub = ChangeFeedServiceStub(self._channel)
        self._operator: OperatorServiceAsyncStub = OperatorServiceStub(self._channel)
        # A tail that is dropped takes its stream with it, so it need not be kept for the end.
        self._tails: WeakSet[Tail] = WeakSet()
        self._closed = False
        self._closing = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every tail, the channel and every call on it; idempotent."""
        self._closed = True
        self._closing.set()
        try:
            await asyncio.gather(*(tail.aclose(_CLOSED) for tail in self._tails))
        finally:
            await self._channel.close()

    def tail(
        self,
        address: ResourceAddress,
        start: StartPosition,
        *,
        scope: FeedScope | None = None,
        items: NewItemStateMode = NewItemStateMode.NEW_ITEM_STATE_MODE_UNSPECIFIED,
        max_batch_size: int = 0,
        heartbeat_interval: timedelta | None = None,
        max_events: int = 0,
        patience: timedelta | None = None,
        checkpoint: Checkpoint | None = None,
        deduplicate: int = 0,
    ) -> Tail:
        """Follow a collection live. It reconnects until an outage outlasts `patience` (None: for ever)."""
        if self._closed:
            raise ClientClosed(_CLOSED)
        request = SubscribeRequest(
            address=address,
            scope=scope,
            start_position=start,
            new_item_state_mode=items,
            max_batch_size=max_batch_size,
            heartbeat_interval=_duration(heartbeat_interval),
            max_events=max_events,
        )
        tail = Tail(
            self._channel,
            request,
            dial=self._dial,
            patience=patience,
            checkpoint=checkpoint,
            deduplicate=deduplicate,
        )
        self._tails.add(tail)
        return tail

    async def read_partitions(
        self,
        address: ResourceAddress,
        start: StartPosition,
        handle: Handle,
        *,
        checkpoint: Checkpoint,
        only: Collection[str] = (),
        items: NewItemStateMode = NewItemStateMode.NEW_ITEM_STATE_MODE_UNSPECIFIED,
        max_batch_size: int = 0,
        heartbeat_interval: timedelta | None = None,
        patience: timedelta | None = None,
        deduplicate: int = 0,
    ) -> None:
        """Follow the physical partitions of a collection in parallel, a tail each, then the children of retired ones.

        A child begins once all its parents are read to their end, so that every key keeps its order. `handle` is called
        for one delivery of a partition after the other, and for those of several partitions at the same time; a token
        is saved when it returned. The checkpoint's positions go before `start`. With `only`, it begins with these
        partitions: other processes may read the others, each with a checkpoint of its own, and a child whose parents
        two of them read waits for its own reader's only; one that the collection does not have is NOT_FOUND. An outage
        is waited for up to `patience` (None: for ever), also where partitions are listed and positions fixed. Raises
        what `handle`, the checkpoint, a call or a tail raised first; returns when every partition is retired without
        children.
        """

        def tail(partition_id: str, here: StartPosition) -> Tail:
            return self.tail(
                address,
                here,
                scope=physical_partition(partition_id),
                items=items,
                max_batch_size=max_batch_size,
                heartbeat_interval=heartbeat_interval,
                patience=patience,
                deduplicate=deduplicate,
            )

        patiently = partial(retry, patience=patience, before_pause=announce, sleep=self._pause)
        await PartitionReader(self, address, checkpoint, handle, tail, patiently).run(start, only)

    async def read_page(
        self,
        address: ResourceAddress,
        start: StartPosition,
        *,
        scope: FeedScope | None = None,
        items: NewItemStateMode = NewItemStateMode.NEW_ITEM_STATE_MODE_UNSPECIFIED,
        max_page_size: int = 0,
        max_wait: timedelta = _NO_WAIT,
    ) -> ReadChangesResponse:
        """One page; with nothing to give it waits up to `max_wait`. Save its token, also when it is empty."""
        request = ReadChangesRequest(
            address=address,
            scope=scope,
            start_position=start,
            new_item_state_mode=items,
            max_page_size=max_page_size,
            max_wait=_duration(max_wait),
        )
        deadline = _DEADLINE + min(max(max_wait, _NO_WAIT), _LONGEST_WAIT)
        return await self._call(self._stub.ReadChanges, request, deadline)

    async def pages(
        self,
        address: ResourceAddress,
        start: StartPosition,
        *,
        scope: FeedScope | None = None,
        items: NewItemStateMode = NewItemStateMode.NEW_ITEM_STATE_MODE_UNSPECIFIED,
        max_page_size: int = 0,
        max_wait: timedelta = _LONG_POLL,
        follow: bool = False,
        patience: timedelta | None = timedelta(minutes=1),
    ) -> AsyncIterator[ReadChangesResponse]:
        """Page after page until nothing more is there; with `follow`, by long polls, without end.

        A retired partition ends it too: go on with the children that its last page names. An answer that says when
        to come back (throttled, unavailable) is waited out for up to `patience`.
        """
        while True:
            here = start

            async def read(here: StartPosition = here) -> ReadChangesResponse:
                page = await self.read_page(
                    address,
                    here,
                    scope=scope,
                    items=items,
                    max_page_size=max_page_size,
                    max_wait=max_wait if follow else _NO_WAIT,
                )
                if not page.continuation_token:
                    raise StreamInterrupted("a page came without a token")
                return page

            page = await retry(read, patience=patience, sleep=self._pause)
            yield page
            if page.partition_retired or not (page.more_available or follow):
                return
            start = after(page.continuation_token)

    async def partitions(self, address: ResourceAddress) -> AsyncIterator[PhysicalPartition]:
        """The physical partitions that hold retained changes, parents before their children."""
        page_token = ""
        while True:
            request = ListPhysicalPartitionsRequest(address=address, page_token=page_token)
            answer = await self._call(self._stub.ListPhysicalPartitions, request)
            for partition in answer.partitions:
                yield partition
            page_token = answer.next_page_token
            if not page_token:
                return

    async def capabilities(self, address: ResourceAddress) -> GetCapabilitiesResponse:
        """What a collection can do."""
        request = GetCapabilitiesRequest(address=address)
        return await self._call(self._stub.GetCapabilities, request)

    async def resolve(
        self,
        address: ResourceAddress,
        start: StartPosition,
        *,
        scope: FeedScope | None = None,
    ) -> ResolveStartPositionResponse:
        """A start position as a token."""
        request = ResolveStartPositionRequest(address=address, scope=scope, start_position=start)
        return await self._call(self._stub.ResolveStartPosition, request)

    async def inspect(self, address: ResourceAddress, continuation_token: str) -> InspectContinuationTokenResponse:
        """What a token is, and whether it can be used; one that cannot is an answer, not an error."""
        request = InspectContinuationTokenRequest(address=address, continuation_token=continuation_token)
        return await self._call(self._stub.InspectContinuationToken, request)

    async def streams(self, *, connection: str = "", collection: str = "") -> AsyncIterator[ListStreamsResponse]:
        """For operators: the open streams of the gateway, page by page, each of one process; empty names mean all."""
        request = ListStreamsRequest(connection=connection, collection=collection)
        while True:
            answer = await self._call(self._operator.ListStreams, request)
            yield answer
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless the client is closed meanwhile. Raises ClientClosed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()
            raise ClientClosed(_CLOSED)

    async def _call(
        self,
        method: Callable[..., Awaitable[T]],
        request: Message,
        deadline: timedelta = _DEADLINE,
    ) -> T:
        if self._closed:
            raise ClientClosed(_CLOSED)
        try:
            return await method(request, timeout=deadline.total_seconds())
        except grpc.aio.AioRpcError as error:
            raise ChangeFeedRpcError.of_call(error) from None
        except asyncio.CancelledError:
            # gRPC cancels what runs on a channel that is closed, and with it whoever waits for it.
            if self._closed and not _is_cancelled():
                raise ClientClosed(_CLOSED) from None
            raise


def connect(
    target: str,
    *,
    tls: bool | grpc.ChannelCredentials | None = None,
    ca: File | None = None,
    cert: File | None = None,
    key: File | None = None,
    bearer: Callable[[], str] | None = None,
    options: tuple[tuple[str, Any], ...] = (),
) -> ChangeFeedClient:
    """A client of the gateway at `host:port`. Connects with its first call; call it on an event loop.

    How it connects is as of `dialer`, which says what it raises.
    """
    return ChangeFeedClient(
        dialer(target, tls=tls, ca=ca, cert=cert, key=key, bearer=bearer, options=(*OPTIONS, *options))
    )


def _is_cancelled() -> bool:
    """Whether somebody cancelled the current task, and not only what it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _duration(duration: timedelta | None) -> Duration | None:
    if duration is None:
        return None
    message = Duration()
    message.FromTimedelta(duration)
    return message
