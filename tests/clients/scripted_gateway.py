"""A gRPC server that says what it is told to: the ends of streams that a real gateway seldom has."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from changefeed.v1.change_event_pb2 import ChangeEvent
from changefeed.v1.partition_pb2 import ListPhysicalPartitionsRequest, ListPhysicalPartitionsResponse
from changefeed.v1.read_changes_pb2 import ReadChangesRequest, ReadChangesResponse
from changefeed.v1.subscribe_pb2 import (
    SUBSCRIPTION_STATE_CATCHING_UP,
    SUBSCRIPTION_STATE_LIVE,
    ChangeBatch,
    Closing,
    ClosingReason,
    Heartbeat,
    StateChanged,
    SubscribeRequest,
    SubscribeResponse,
    SubscriptionOpened,
)


@dataclass
class Refusal:
    """An error of the gateway."""

    code: grpc.StatusCode
    reason: str
    category: str
    retryable: bool = False
    retry_after: timedelta | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass
class Raw:
    """An error whose details are whatever bytes they are."""

    code: grpc.StatusCode
    details: bytes


@dataclass
class Silence:
    """The stream stays open and says nothing."""


Step = SubscribeResponse | Refusal | Raw | Silence
Script = Sequence[Step]


class ScriptedGateway:
    """Plays one script a stream, in order; after the last one streams are refused for good."""

    def __init__(self, *scripts: Script) -> None:
        self.requests: list[SubscribeRequest] = []
        self.arrivals: list[float] = []
        self.peers: list[str] = []
        self.authorizations: list[str] = []
        """What each stream carried as its authorization, empty without."""
        self.pages: list[ReadChangesResponse | Refusal | Silence] = []
        self.reads: list[ReadChangesRequest] = []
        self.listings: list[ListPhysicalPartitionsResponse] = []
        """What partitions are listed, one answer after the other; after the last one it is asked to come back later."""
        self.listed = 0
        """How often they were asked for."""
        self.target = ""
        self.open = 0
        """Streams that their client has not left."""
        self._changed = asyncio.Event()
        self._scripts = list(scripts)
        self._server = grpc.aio.server()

    async def start(self, credentials: grpc.ServerCredentials | None = None) -> str:
        """Listen on a free loopback port, encrypted with credentials; answers the target."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Subscribe": grpc.unary_stream_rpc_method_handler(
                self._subscribe, SubscribeRequest.FromString, SubscribeResponse.SerializeToString
            ),
            "ReadChanges": grpc.unary_unary_rpc_method_handler(
                self._read, ReadChangesRequest.FromString, ReadChangesResponse.SerializeToString
            ),
            "ListPhysicalPartitions": grpc.unary_unary_rpc_method_handler(
                self._list,
                ListPhysicalPartitionsRequest.FromString,
                ListPhysicalPartitionsResponse.SerializeToString,
            ),
        }
        service = "changefeed.v1.ChangeFeedService"
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        free = "127.0.0.1:0"
        port = self._server.add_secure_port(free, credentials) if credentials else self._server.add_insecure_port(free)
        await self._server.start()
        self.target = f"127.0.0.1:{port}"
        return self.target

    async def stop(self) -> None:
        await self._server.stop(0)

    async def _subscribe(
        self,
        request: SubscribeRequest,
        context: grpc.aio.ServicerContext[SubscribeRequest, SubscribeResponse],
    ) -> AsyncIterator[SubscribeResponse]:
        self.requests.append(request)
        self.arrivals.append(asyncio.get_running_loop().time())
        self.peers.append(context.peer())
        metadata = dict(context.invocation_metadata() or ())
        self.authorizations.append(str(metadata.get("authorization", "")))
        script = self._scripts.pop(0) if self._scripts else [EXPIRED]
        self._open(context)
        for number, step in enumerate(script, start=1):
            match step:
                case Refusal():
                    await context.abort_with_status(rpc_status.to_status(_status(step)))
                case Silence():
                    await asyncio.Event().wait()
                case Raw():
                    context.set_trailing_metadata((("grpc-status-details-bin", step.details),))
                    await context.abort(step.code, "said by somebody on the way")
                case _:
                    step.delivery_sequence = step.delivery_sequence or number
                    yield step

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that calls change: a request, a read, the end of a stream."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def _open(self, context: grpc.aio.ServicerContext[SubscribeRequest, SubscribeResponse]) -> None:
        self.open += 1
        self._changed.set()

        def close(_: object) -> None:
            self.open -= 1
            self._changed.set()

        context.add_done_callback(close)  # type: ignore[arg-type]  # the stubs name a type variable

    async def _read(
        self,
        request: ReadChangesRequest,
        context: grpc.aio.ServicerContext[ReadChangesRequest, ReadChangesResponse],
    ) -> ReadChangesResponse:
        self.reads.append(request)
        self._changed.set()
        answer = self.pages.pop(0)
        match answer:
            case Refusal():
                await context.abort_with_status(rpc_status.to_status(_status(answer)))
            case Silence():
                await asyncio.Event().wait()
            case ReadChangesResponse():
                return answer
        raise AssertionError("neither ends")

    async def _list(
        self,
        _: ListPhysicalPartitionsRequest,
        context: grpc.aio.ServicerContext[ListPhysicalPartitionsRequest, ListPhysicalPartitionsResponse],
    ) -> ListPhysicalPartitionsResponse:
        self.listed += 1
        self._changed.set()
        if not self.listings:
            await context.abort_with_status(rpc_status.to_status(_status(LATER)))
        return self.listings.pop(0)


LATER = Refusal(
    code=grpc.StatusCode.RESOURCE_EXHAUSTED,
    reason="PROVIDER_THROTTLED",
    category="THROTTLED",
    retryable=True,
    retry_after=timedelta(minutes=5),
)
EXPIRED = Refusal(
    code=grpc.StatusCode.OUT_OF_RANGE,
    reason="CHECKPOINT_EXPIRED",
    category="CHECKPOINT_EXPIRED",
)


def opened(token: str, heartbeat: timedelta = timedelta(seconds=10)) -> SubscribeResponse:
    interval = Duration()
    interval.FromTimedelta(heartbeat)
    return SubscribeResponse(opened=SubscriptionOpened(continuation_token=token, heartbeat_interval=interval))


def batch(token: str, *event_ids: str) -> SubscribeResponse:
    events = [ChangeEvent(event_id=event_id) for event_id in event_ids]
    return SubscribeResponse(batch=ChangeBatch(events=events, continuation_token=token))


def heartbeat(token: str) -> SubscribeResponse:
    return SubscribeResponse(heartbeat=Heartbeat(continuation_token=token))


def live() -> SubscribeResponse:
    return SubscribeResponse(state_changed=StateChanged(state=SUBSCRIPTION_STATE_LIVE))


def catching_up() -> SubscribeResponse:
    return SubscribeResponse(state_changed=StateChanged(state=SUBSCRIPTION_STATE_CATCHING_UP))


def closing(reason: ClosingReason, token: str, after: timedelta = timedelta(0)) -> SubscribeResponse:
    pause = Duration()
    pause.FromTimedelta(after)
    return SubscribeResponse(closing=Closing(reason=reason, continuation_token=token, reconnect_after=pause))


def _status(refusal: Refusal) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo(
        reason=refusal.reason,
        domain="changefeed",
        metadata={
            "category": refusal.category,
            "retryable": str(refusal.retryable).lower(),
            "request_id": "request-1",
            **refusal.metadata,
        },
    )
    status = status_pb2.Status(code=refusal.code.value[0], message="said by the script")
    status.details.append(_packed(info))
    if refusal.retry_after is not None:
        pause = Duration()
        pause.FromTimedelta(refusal.retry_after)
        status.details.append(_packed(error_details_pb2.RetryInfo(retry_delay=pause)))
    if refusal.category == "INVALID_REQUEST":
        violation = error_details_pb2.BadRequest.FieldViolation(field="a", description="b")
        status.details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    return status


def _packed(
    message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo | error_details_pb2.BadRequest,
) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
