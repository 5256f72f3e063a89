"""What surrounds every handler: identity, admission, errors, one log line.

Wrappers of handlers rather than a `grpc.aio.ServerInterceptor`: they are made once and not for each call, and they
parse the request themselves, so that an unreadable one is our answer and not an exception's text.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Final, Protocol, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError

from changefeed.v1 import resource_pb2
from changefeed_gateway.api.call import Call, Context
from changefeed_gateway.api.wire.decode import MAX_NAME_CHARS
from changefeed_gateway.core.errors import (
    ChangeFeedError,
    InternalFailure,
    InvalidRequest,
    Reason,
    Throttled,
    TransientFailure,
)
from changefeed_gateway.core.limits import Limits


class AddressedRequest(Protocol):
    """Any request of the service."""

    @property
    def address(self) -> resource_pb2.ResourceAddress:
        """The collection that is meant."""
        ...


_ANSWER_TIME: Final = timedelta(milliseconds=200)
"""What an answer needs to travel; a client's deadline reaches the server rounded up by up to half of this."""

_Request = TypeVar("_Request", bound=AddressedRequest)
_Response = TypeVar("_Response")

_Parse = Callable[[bytes], _Request]
_Handler = Callable[[_Request, Call], Awaitable[_Response]]


class CallGuard:
    """Makes gRPC method handlers out of plain ones, and counts the calls under way.

    The gRPC handlers take and give bytes: there is no serializer that could build a joined page or batch again.
    """

    def __init__(self, limits: Limits) -> None:
        self._calls = _Admission(limits.max_calls, Reason.TOO_MANY_CALLS)
        self._streams = _Admission(limits.max_streams, Reason.TOO_MANY_STREAMS)

    def unary(
        self, method: str, parse: _Parse[_Request], handler: _Handler[_Request, bytes]
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Wrap a handler that returns its serialised answer."""

        async def guarded(raw: bytes, context: Context) -> bytes:
            return await _run(Call(method, context), self._calls, parse, partial(_in_time, handler), raw)

        return grpc.unary_unary_rpc_method_handler(guarded)

    def stream(
        self, method: str, parse: _Parse[_Request], handler: _Handler[_Request, None]
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Wrap a handler that sends serialised messages with `Call.write`."""

        async def guarded(raw: bytes, context: Context) -> None:
            await _run(Call(method, context), self._streams, parse, handler, raw)

        return grpc.unary_stream_rpc_method_handler(guarded)

    async def idle(self) -> None:
        """Wait until no call is under way."""
        await self._calls.idle.wait()
        await self._streams.idle.wait()


class _Admission:
    """Counts what is under way and refuses what is too much."""

    def __init__(self, limit: int, reason: Reason) -> None:
        self.idle = asyncio.Event()
        self.idle.set()
        self._limit = limit
        self._reason = reason
        self._under_way = 0

    @contextmanager
    def place(self) -> Iterator[Throttled | None]:
        """Take a place while the block runs, or say why there is none."""
        if self._under_way >= self._limit:
            yield Throttled(f"the gateway serves {self._limit} already: try again", reason=self._reason)
            return
        self._under_way += 1
        self.idle.clear()
        try:
            yield None
        finally:
            self._under_way -= 1
            if not self._under_way:
                self.idle.set()


async def _run(
    call: Call,
    admission: _Admission,
    parse: _Parse[_Request],
    handler: _Handler[_Request, _Response],
    raw: bytes,
) -> _Response:
    # The place is kept until an abort is through: what a stalled client has not taken is still held for it.
    with (
        structlog.contextvars.bound_contextvars(request_id=call.request_id, method=call.method, peer=call.peer),
        admission.place() as refusal,
    ):
        if refusal is not None:
            await call.abort(refusal)
        try:
            response = await handler(_parsed(parse, raw), call)
        except asyncio.CancelledError:
            call.log_cancellation()
            raise
        except grpc.aio.BaseError as gone:  # a write on a call that has ended
            call.log_cancellation()
            raise asyncio.CancelledError from gone
        except ChangeFeedError as error:
            failure = error
        except Exception as error:
            failure = InternalFailure("unexpected exception")
            failure.__cause__ = error
        else:
            call.log_success()
            return response
        await call.abort(failure)


async def _in_time(handler: _Handler[_Request, _Response], request: _Request, call: Call) -> _Response:
    """Answer before the caller's deadline: past it, nobody hears that the provider was at fault."""
    remaining = call.time_remaining
    if remaining is None:
        return await handler(request, call)
    try:
        async with asyncio.timeout(max(remaining - _ANSWER_TIME, remaining / 2).total_seconds()) as limit:
            return await handler(request, call)
    except TimeoutError:
        if not limit.expired():
            raise
        raise TransientFailure(
            "the provider did not answer within the call's deadline: try again", reason=Reason.PROVIDER_TIMEOUT
        ) from None


def _parsed(parse: _Parse[_Request], raw: bytes) -> _Request:
    try:
        request = parse(raw)
    except DecodeError as error:
        raise InvalidRequest("the request is not a message of this method") from error
    address = request.address
    structlog.contextvars.bind_contextvars(
        connection=_loggable(address.connection), collection=_loggable(address.collection)
    )
    return request


def _loggable(name: str) -> str:
    return name if len(name) <= MAX_NAME_CHARS and name.isprintable() else "(not a name)"
