"""What surrounds every handler: identity, admission, errors, one log line, an end within bounds.

Wrappers of handlers rather than a `grpc.aio.ServerInterceptor`: they are made once and not for each call, and they
read and parse the request themselves, so that none, a late or an unreadable one is our answer. To gRPC every method is
a stream of both sides, because it calls a unary handler only once a request has come, and never when none comes.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from typing import Final, TypeAlias, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError

from changefeed_gateway.api.admission import Admission, BadTokens, Connections, LateAnswers, host_of
from changefeed_gateway.api.call import Call, Context, expired
from changefeed_gateway.api.call_log import CallLog
from changefeed_gateway.api.connections import most_of_one_host
from changefeed_gateway.api.identity.caller import Identity
from changefeed_gateway.api.identity.demand import AddressedRequest
from changefeed_gateway.api.identity.door import Door
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
from changefeed_gateway.core.observation import CallTracing, Observation

MAX_BYSTANDERS: Final = 1_000
"""Calls of health and reflection under way: they have places of their own, to be answered also by a full gateway."""


_ANSWER_TIME: Final = timedelta(milliseconds=200)
"""What an answer needs to travel; a client's deadline reaches the server rounded up by up to half of this."""
_REQUEST_TIME: Final = timedelta(seconds=10)
"""How long a request may take to come: the call has its place already."""
LAST_WORDS: Final = timedelta(seconds=10)
"""How long a client may take to take the end of its call; then it is reset."""
_LOOK_AGAIN: Final = 10.0
"""Seconds between two looks whether the caller of a call under way is still known."""

_BAD_TOKEN: Final = frozenset(
    reason.value
    for reason in (
        Reason.AUTHENTICATION_FAILED,
        Reason.TOKEN_MALFORMED,
        Reason.TOKEN_SIGNATURE,
        Reason.TOKEN_VERSION,
    )
)
"""What a guess hears; other refusals are of tokens that somebody was given."""

_Message = TypeVar("_Message")
_Request = TypeVar("_Request", bound=AddressedRequest)
_Response = TypeVar("_Response")

_Parse = Callable[[bytes], _Message]
_Handler = Callable[[_Message, Call], Awaitable[_Response]]
_Body = Callable[[Call], Awaitable[None]]
_MethodHandler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class CallGuard:
    """Makes gRPC method handlers out of plain ones, and counts the calls under way.

    The gRPC handlers take and give bytes: there is no serializer that could build a joined page or batch again.
    """

    def __init__(
        self,
        limits: Limits,
        door: Door,
        *,
        last_words: timedelta = LAST_WORDS,
        observation: Observation | None = None,
        tracing: CallTracing | None = None,
    ) -> None:
        """`observation` counts the calls, `tracing` makes their spans."""
        self.door = door
        calls, streams = ("peer_call_share", limits.peer_call_share), ("peer_stream_share", limits.peer_stream_share)
        self._calls = Admission(limits.max_calls, Reason.TOO_MANY_CALLS, *calls)
        self._streams = Admission(limits.max_streams, Reason.TOO_MANY_STREAMS, *streams)
        self._bystanders = Admission(MAX_BYSTANDERS, Reason.TOO_MANY_CALLS, *streams)
        self._connections = Connections(most_of_one_host(limits))
        self._bad_tokens = BadTokens(limits.peer_bad_tokens)
        self._late = LateAnswers()
        self._write_timeout, self._last_words = limits.write_timeout, last_words
        self._log = CallLog()
        self._observation = observation or Observation()
        self._tracing = tracing
        self._arriving: set[Call] = set()
        self._draining = False

    def unary(self, method: str, parse: _Parse[_Request], handler: _Handler[_Request, bytes]) -> _MethodHandler:
        """Wrap a handler that returns its serialised answer."""

        async def body(call: Call) -> None:
            request = self._addressed(parse, await self._request(call), call)
            await self._charge(call)
            answer = await _in_time(handler, request, call)
            del request
            await call.write(answer, within=self._write_timeout)

        return self._method(method, self._calls, body, answers_once=True)

    def stream(self, method: str, parse: _Parse[_Request], handler: _Handler[_Request, None]) -> _MethodHandler:
        """Wrap a handler that sends serialised messages with `Call.write`."""

        async def body(call: Call) -> None:
            request = self._addressed(parse, await self._request(call), call)
            await self._charge(call, stream=True)
            call.at_end(call.account.close_stream)
            await handler(request, call)

        return self._method(method, self._streams, body)

    def bystander(
        self,
        method: str,
        parse: _Parse[_Message],
        handler: Callable[[_Message, Call], AsyncGenerator[bytes]],
        *,
        is_health: bool = False,
    ) -> _MethodHandler:
        """Wrap a handler beside the service, of one request and any number of answers.

        What of it the caller may hear of is the handler's to ask of the door: `knows` and `may`, with `Call.principal`.
        """

        async def body(call: Call) -> None:
            await self._write_all(handler(_parsed(parse, await self._request(call)), call), call)

        return self._method(method, self._bystanders, body, is_health=is_health)

    def conversation(
        self, method: str, parse: _Parse[_Message], handler: Callable[[AsyncIterator[_Message]], AsyncGenerator[bytes]]
    ) -> _MethodHandler:
        """Wrap a handler beside the service that takes any number of requests, each in time."""

        async def requests(call: Call) -> AsyncIterator[_Message]:
            while (raw := await self._arrival(call, call.read)) is not None:
                yield _parsed(parse, raw)

        async def body(call: Call) -> None:
            await self._write_all(handler(requests(call)), call)

        return self._method(method, self._bystanders, body)

    def judge(self, call: Call, problem: ChangeFeedError) -> None:
        """Count a token that is no good, of a call that hears of it in an error or in an answer."""
        if problem.reason in _BAD_TOKEN:
            self._bad_tokens.count(host_of(call.peer), call.peer)

    def begin_drain(self) -> None:
        """Let nobody hold the end up whose request has not come."""
        self._draining = True
        for call in tuple(self._arriving):
            _cut_late(call)

    def close(self) -> None:
        """Say what the log has left out; no call is to come."""
        self._log.close()

    async def idle(self) -> None:
        """Wait until no call of the service is under way."""
        await self._calls.idle.wait()
        await self._streams.idle.wait()

    def _method(
        self,
        method: str,
        admission: Admission,
        body: _Body,
        *,
        answers_once: bool = False,
        is_health: bool = False,
    ) -> _MethodHandler:
        async def guarded(_: object, context: Context) -> None:
            call = Call(method, context, self._log, self._observation, answers_once=answers_once)

            async def known(call: Call) -> None:
                # Before anything of the request is looked at.
                identity = await self.door.identify(context, is_health=is_health)
                call.is_from(identity.principal, self.door.account(identity.principal))
                await _while_known(identity, body, call)

            # In the context of the call's own task, which ends with it.
            if self._tracing is None:
                structlog.contextvars.bind_contextvars(**_facts(call))
                await self._run(call, admission, known)
                return
            with self._tracing.call(call.method, call.request_id, call.traceparent) as call.span:
                call.trace_id = call.span.trace_id
                structlog.contextvars.bind_contextvars(**_facts(call))
                await self._run(call, admission, known)

        return grpc.stream_stream_rpc_method_handler(guarded)

    async def _charge(self, call: Call, *, stream: bool = False) -> None:
        """Count a call against its caller's quota; who comes before the time that it was told hears of it late."""
        try:
            call.account.begin_read()
            if stream:
                call.account.open_stream()
        except Throttled:
            if call.account.was_told:
                await self._late.wait()
            raise

    def _addressed(self, parse: _Parse[_Request], raw: bytes, call: Call) -> _Request:
        """Parse a request of the service and let it through the door."""
        request = _parsed(parse, raw)
        connection, collection = _loggable(request.address.connection), _loggable(request.address.collection)
        structlog.contextvars.bind_contextvars(connection=connection, collection=collection)
        if call.span is not None:
            call.span.name(connection, collection)
        self.door.admit(call.principal, request, call.facts)
        return request

    async def _run(self, call: Call, admission: Admission, body: _Body) -> None:
        host = host_of(call.peer)
        try:
            await self._bad_tokens.check(host, call.peer)
            self._connections.enter(host, call.peer)
            call.at_end(partial(self._connections.leave, host, call.peer))
            admission.enter(host)
            # The task is done when the client has taken the end: what it was sent is held until then.
            call.at_end(partial(admission.leave, host))
            await body(call)
            call.log_success()
        except asyncio.CancelledError as error:
            if call.task.cancelling():
                call.log_cancellation()
                raise
            # Something that we waited for was cancelled, and not by the caller: silence would be no answer.
            _fail_unforeseen(call, error)
        except grpc.aio.BaseError as gone:  # a write on a call that has ended
            call.log_cancellation()
            call.cut(grpc.StatusCode.CANCELLED, "")
            raise asyncio.CancelledError from gone
        except ChangeFeedError as error:
            self.judge(call, error)
            call.fail(error)
        except Exception as error:
            _fail_unforeseen(call, error)
        finally:
            call.end_writes()
            self._bound_end(call)

    def _bound_end(self, call: Call) -> None:
        late = asyncio.get_running_loop().call_later(self._last_words.total_seconds(), _cut_unread, call)
        call.task.add_done_callback(lambda _: late.cancel())

    async def _write_all(self, answers: AsyncGenerator[bytes], call: Call) -> None:
        async with aclosing(answers):
            async for answer in answers:
                await call.write(answer, within=self._write_timeout)

    async def _request(self, call: Call) -> bytes:
        return await self._arrival(call, call.request)

    async def _arrival(self, call: Call, read: Callable[[], Awaitable[_Response]]) -> _Response:
        """Read within the time for it; past that the call is cut, which ends the read."""
        seconds = 0.0 if self._draining else _REQUEST_TIME.total_seconds()
        late = asyncio.get_running_loop().call_later(seconds, _cut_late, call)
        self._arriving.add(call)
        try:
            return await read()
        finally:
            late.cancel()
            self._arriving.discard(call)


def _cut_unread(call: Call) -> None:
    call.cut(grpc.StatusCode.RESOURCE_EXHAUSTED, "the end of the call was not read")
    # gRPC would log as a fault of its own that the status could not be sent.
    call.task.cancel()


def _facts(call: Call) -> dict[str, str]:
    """For every line that is logged within a call."""
    facts = {"request_id": call.request_id, "method": call.method, "peer": call.peer}
    return facts | {"trace_id": call.trace_id} if call.trace_id else facts


def _cut_late(call: Call) -> None:
    call.cut(grpc.StatusCode.UNAVAILABLE, "no request came in time")


def _fail_unforeseen(call: Call, error: BaseException) -> None:
    failure = InternalFailure("unexpected exception")
    failure.__cause__ = error
    try:
        call.fail(failure)
    finally:
        del failure


async def _in_time(handler: _Handler[_Message, _Response], request: _Message, call: Call) -> _Response:
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


def _parsed(parse: _Parse[_Message], raw: bytes) -> _Message:
    try:
        return parse(raw)
    except DecodeError as error:
        raise InvalidRequest("the request is not a message of this method") from error


async def _while_known(identity: Identity, body: _Body, call: Call) -> None:
    """Go on for as long as the caller's credentials hold; then end with CredentialsExpired."""
    if identity.is_for_ever:
        await body(call)
        return
    loop, cancellations = asyncio.get_running_loop(), call.task.cancelling()
    timer: asyncio.TimerHandle | None = None
    cancelled = False

    def look() -> None:
        nonlocal timer, cancelled
        if problem := identity.problem():
            cancelled = call.expire(problem)
        else:
            timer = loop.call_later(identity.seconds_left(_LOOK_AGAIN), look)

    if problem := identity.problem():
        raise expired(problem)
    timer = loop.call_later(identity.seconds_left(_LOOK_AGAIN), look)
    try:
        await body(call)
    except asyncio.CancelledError:
        if not cancelled or call.task.uncancel() > cancellations:
            raise
        raise expired(call.problem) from None
    finally:
        if timer is not None:
            timer.cancel()


def _loggable(name: str) -> str:
    return name if len(name) <= MAX_NAME_CHARS and name.isprintable() else "(not a name)"
