"""A stream of changes that outlives connections: it watches heartbeats, reconnects and resumes."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from changefeed.v1.change_event_pb2 import ChangeEvent
from changefeed.v1.change_feed_service_pb2_grpc import ChangeFeedServiceStub
from changefeed.v1.partition_pb2 import ChildPartition
from changefeed.v1.read_changes_pb2 import PortabilityWarning, SnapshotProgress
from changefeed.v1.subscribe_pb2 import (
    CLOSING_REASON_MAX_EVENTS,
    CLOSING_REASON_PARTITION_RETIRED,
    SUBSCRIPTION_STATE_LIVE,
    ChangeBatch,
    ClosingReason,
    Heartbeat,
    SnapshotFinished,
    SubscribeRequest,
    SubscribeResponse,
    SubscriptionOpened,
)
from changefeed_client.checkpoint import WHOLE, Checkpoint, Place
from changefeed_client.errors import (
    ChangeFeedRpcError,
    ClientClosed,
    HeartbeatMissed,
    StreamClosed,
    StreamInterrupted,
    span,
)
from changefeed_client.positions import after
from changefeed_client.retrying import announce, retry
from changefeed_client.seen import Seen

if TYPE_CHECKING:
    from changefeed.v1.change_feed_service_pb2_grpc import ChangeFeedServiceAsyncStub

_OPENING_SECONDS: Final = 20.0
"""How long a stream may take to send its first message."""
_MISSED_HEARTBEATS: Final = 2
_FINAL: Final = frozenset({CLOSING_REASON_MAX_EVENTS, CLOSING_REASON_PARTITION_RETIRED})
_OF_A_LATER_CONTRACT: Final = "none"
"""Stands for the token of a message that says nothing to this version."""

_Call = grpc.aio.UnaryStreamCall[SubscribeRequest, SubscribeResponse]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What one message of a stream brought. Handle the events, then save the token: a restart goes on after them."""

    events: Sequence[ChangeEvent]
    """In order for every key; empty for a heartbeat and the like."""
    continuation_token: str
    """Never empty."""
    live: bool
    """Whether everything that was there has been delivered, and changes arrive as they are committed."""
    watermark: datetime | None = None
    """Everything committed before it has been delivered, where the provider can tell."""
    token_expire_time: datetime | None = None
    """When the token is expected to lose its history, where the retention is known."""
    children: Sequence[ChildPartition] = ()
    """The partitions to go on with when the one that was read is retired; the tail ends then."""
    snapshot: SnapshotProgress | None = None
    """How far the snapshot has come, in a delivery of one; `finished` in the one that ends it, which has no events."""
    warnings: Sequence[PortabilityWarning] = ()
    """Where the collection differs from what portable code expects, or a snapshot may not come to its end; at first."""


class Tail:
    """Iterates over deliveries until `max_events` have come, the partition is retired or an error is final.

    Delivery is at least once: after a reconnect or a restart, events may come again with the same `event_id`.
    Raises ChangeFeedRpcError, StreamInterrupted when `patience` ends in a silence, or ClientClosed when it is closed
    while somebody reads. A reader that is cancelled, as by `asyncio.wait_for`, loses nothing: what it waited for is the
    next one's. One reader at a time; close it with `aclose` or `async with`.

    With a checkpoint it starts at the saved position, if there is one, and saves each delivery's token when the next
    one is asked for: the reader has then handled it. A loop that is left saves nothing of its last delivery, which
    comes again from another tail; a second loop over this one would take it for handled, and is a RuntimeError. With
    `deduplicate`, events are left out that are among the last so many by their id.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        request: SubscribeRequest,
        *,
        dial: Callable[[], grpc.aio.Channel],
        patience: timedelta | None = None,
        checkpoint: Checkpoint | None = None,
        deduplicate: int = 0,
    ) -> None:
        self._call: _Call | None = None
        self.reconnects = 0
        """How often the stream was opened again."""
        self._channel = channel
        self._own_channel: grpc.aio.Channel | None = None
        self._dial = dial
        self._request = SubscribeRequest()
        self._request.CopyFrom(request)
        self._patience = patience
        self._place = Place(checkpoint, request.scope.physical_partition_id or WHOLE)
        self._seen = Seen(deduplicate)
        self._pending: asyncio.Task[SubscribeResponse] | None = None
        self._is_read = False
        self._sequence = 0
        self._silence = _OPENING_SECONDS
        self._live = False
        self._token = ""
        self._delivered = 0
        self._ended = False
        self._closed = ""

    def __aiter__(self) -> Self:
        if self._place.has_unsaved:
            raise RuntimeError("a loop over this tail was left: its last delivery comes again from another tail")
        return self

    async def __anext__(self) -> Delivery:
        if self._is_read:
            raise RuntimeError("another task reads this tail")
        self._is_read = True
        try:
            await self._place.save()
            if token := await self._place.load():
                self._request.start_position.CopyFrom(after(token))
            while not self._ended:
                delivery = self._take(await self._next_message())
                if delivery is not None:
                    self._place.deliver(delivery.continuation_token)
                    return delivery
        finally:
            self._is_read = False
        if self._closed:
            raise ClientClosed(self._closed)
        await self.aclose()
        raise StopAsyncIteration

    async def _next_message(self) -> SubscribeResponse:
        """What a task of its own reads: it outlives a reader that is cancelled, and its pauses grow on."""
        if self._pending is None:
            self._pending = asyncio.create_task(
                retry(self._receive, patience=self._patience, before_pause=self._announce)
            )
            self._pending.add_done_callback(_retrieve)
        pending = self._pending
        await asyncio.wait({pending})
        if self._pending is pending:
            self._pending = None
        if pending.cancelled():
            raise ClientClosed(self._closed or "the tail was closed while it was read")
        return pending.result()

    def __del__(self) -> None:
        # Whoever drops a tail leaves its stream; gRPC itself keeps a call until the gateway ends it.
        if self._call is not None:
            with suppress(RuntimeError):  # the loop is closed, and every stream with it
                self._loop.call_soon_threadsafe(self._call.cancel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self, reason: str = "") -> None:
        """End the stream; idempotent. With a reason, whoever goes on reading is told it by ClientClosed."""
        self._ended = True
        self._closed = self._closed or reason
        pending, self._pending = self._pending, None
        try:
            if pending is not None:
                pending.cancel()
                await asyncio.wait({pending})
        finally:
            self._hang_up()
            await self._close_own_channel()

    async def _receive(self) -> SubscribeResponse:
        """The next message, from a new stream if the last one broke.

        What every new stream says first is passed over here when it is not the first stream: only what follows
        counts as progress that ends the growth of pauses.
        """
        reopening = self._call is None and bool(self._token)
        try:
            message = await self._read()
            while reopening and _is_preamble(message):
                message = await self._read()
            self._raise_if_interrupted(message)
        except grpc.aio.AioRpcError as error:
            self._hang_up()
            raise ChangeFeedRpcError.of_call(error) from None
        except HeartbeatMissed:
            self._hang_up()
            await self._redial()
            raise
        except BaseException:
            self._hang_up()
            raise
        return message

    async def _read(self) -> SubscribeResponse:
        if self._call is None:
            stub: ChangeFeedServiceAsyncStub = ChangeFeedServiceStub(self._channel)
            self._loop = asyncio.get_running_loop()
            self._call = stub.Subscribe(self._next_request())
            self._silence = _OPENING_SECONDS
            self._sequence = 0
        try:
            async with asyncio.timeout(self._silence):
                message = await self._call.read()
        except TimeoutError:
            raise HeartbeatMissed(f"nothing arrived for {self._silence:.1f} s") from None
        if not isinstance(message, SubscribeResponse):
            raise StreamInterrupted("the stream ended without saying why")
        self._sequence += 1
        if message.delivery_sequence != self._sequence:  # P1: what is missing in between is asked for again
            raise StreamInterrupted(f"message {message.delivery_sequence} came where {self._sequence} was due")
        if message.HasField("opened"):
            interval = span(message.opened.heartbeat_interval)
            self._silence = interval.total_seconds() * _MISSED_HEARTBEATS or _OPENING_SECONDS
        return message

    def _raise_if_interrupted(self, message: SubscribeResponse) -> None:
        closing = message.closing
        if message.HasField("closing") and closing.reason not in _FINAL:
            if closing.continuation_token:
                self._move(closing.continuation_token)
            raise StreamClosed(
                f"closed by the gateway: {_reason(closing.reason)}",
                span(closing.reconnect_after),
            )
        content = message.WhichOneof("content")
        if content == "state_changed":
            token = self._token
        else:
            token = getattr(message, content).continuation_token if content else _OF_A_LATER_CONTRACT
        if not token:  # P4: nobody could go on from there
            raise StreamInterrupted(f"{content} came without a token")

    def _take(self, message: SubscribeResponse) -> Delivery | None:
        """Move the position over a message and say what it brought; None for a message of a later contract."""
        match message.WhichOneof("content"):
            case "opened":
                opened = message.opened
                return self._deliver(opened.continuation_token, expires=opened, warnings=opened.warnings)
            case "batch":
                batch = message.batch
                progress = batch.snapshot if batch.HasField("snapshot") else None
                return self._deliver(
                    batch.continuation_token, expires=batch, seen=batch, events=batch.events, snapshot=progress
                )
            case "snapshot_finished":
                finished = message.snapshot_finished
                return self._deliver(finished.continuation_token, expires=finished, snapshot=finished.snapshot)
            case "heartbeat":
                beat = message.heartbeat
                return self._deliver(beat.continuation_token, expires=beat, seen=beat)
            case "partition_retired":
                retired = message.partition_retired
                return self._deliver(retired.continuation_token, children=retired.child_partitions)
            case "state_changed":
                self._live = message.state_changed.state == SUBSCRIPTION_STATE_LIVE
                return self._deliver(self._token)
            case "closing":
                self._ended = True
                return self._deliver(message.closing.continuation_token)
            case _:
                return None

    def _deliver(
        self,
        token: str,
        *,
        events: Sequence[ChangeEvent] = (),
        expires: SubscriptionOpened | ChangeBatch | Heartbeat | SnapshotFinished | None = None,
        seen: ChangeBatch | Heartbeat | None = None,
        children: Sequence[ChildPartition] = (),
        snapshot: SnapshotProgress | None = None,
        warnings: Sequence[PortabilityWarning] = (),
    ) -> Delivery:
        self._move(token)
        self._delivered += len(events)
        if self._request.max_events and self._delivered >= self._request.max_events:
            self._ended = True
        return Delivery(
            events=self._seen.fresh(events),
            continuation_token=token,
            live=self._live,
            watermark=_time(seen.watermark) if seen and seen.HasField("watermark") else None,
            token_expire_time=_time(expires.token_expire_time)
            if expires and expires.HasField("token_expire_time")
            else None,
            children=children,
            snapshot=snapshot,
            warnings=warnings,
        )

    def _move(self, token: str) -> None:
        self._token = token
        self._request.start_position.CopyFrom(after(token))

    def _next_request(self) -> SubscribeRequest:
        request = SubscribeRequest()
        request.CopyFrom(self._request)
        if request.max_events:
            request.max_events -= self._delivered
        return request

    def _announce(self, error: BaseException, pause: float, attempt: int) -> None:
        self.reconnects += 1
        announce(error, pause, attempt)

    async def _redial(self) -> None:
        """Leave a connection that may be dead; gRPC itself would use it again until a keepalive ping finds out."""
        await self._close_own_channel()
        self._channel = self._own_channel = self._dial()

    async def _close_own_channel(self) -> None:
        channel, self._own_channel = self._own_channel, None
        if channel is not None:
            await channel.close()

    def _hang_up(self) -> None:
        call, self._call = self._call, None
        self._live = False
        if call is not None:
            call.cancel()


def _is_preamble(message: SubscribeResponse) -> bool:
    return message.HasField("opened") or (
        message.HasField("state_changed") and message.state_changed.state != SUBSCRIPTION_STATE_LIVE
    )


def _retrieve(task: asyncio.Task[SubscribeResponse]) -> None:
    """A tail that is dropped takes what it read last with it: nobody is left to be told."""
    if not task.cancelled():
        task.exception()


def _reason(reason: int) -> str:
    """The name of a reason; the number of one of a later contract."""
    return ClosingReason.Name(reason) if reason in ClosingReason.values() else str(reason)


def _time(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(UTC)
