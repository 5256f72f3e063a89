"""One call under way: its identity, its time, its messages, its end."""

import asyncio
import re
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, cast

import grpc
import structlog
from grpc_status import rpc_status

from changefeed_gateway.api.call_log import CallLog
from changefeed_gateway.api.reset import reset
from changefeed_gateway.api.status import status_code, to_status
from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import (
    ChangeFeedError,
    CredentialsExpired,
    InvalidRequest,
    ProviderAccessFailed,
    Reason,
    Throttled,
)
from changefeed_gateway.core.observation import LONG_WRITE, CallSpan, Observation
from changefeed_gateway.core.policy import ANONYMOUS, NOBODY, Principal
from changefeed_gateway.core.quota import UNLIMITED, Account

TRACE_KEY: Final = "traceparent"
"""Metadata key of the W3C's Trace Context: the span from which the call came."""
REQUEST_ID_KEY: Final = "x-request-id"
"""Metadata key: a caller may choose the id, and gets it back in the trailing metadata in any case."""

_NO_RETRY: Final = ("grpc-retry-pushback-ms", "-1")
"""Holds back a client whose gRPC retries every UNAVAILABLE (gRFC A6)."""

Context = grpc.aio.ServicerContext[bytes, bytes]

_TRACE: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.{0,64})?", re.ASCII)
_CLEAN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


class Call:
    """One call under way. Belongs to the task that made it."""

    def __init__(
        self, method: str, context: Context, log: CallLog, observation: Observation, *, answers_once: bool = False
    ) -> None:
        self.method = method
        self._observation, self._answers_once = observation, answers_once
        said = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        self.request_id = _request_id(said.get(REQUEST_ID_KEY, ""))
        trace = _TRACE.fullmatch(said.get(TRACE_KEY, ""))
        self.traceparent = "" if trace is None else trace[0]
        """The caller's span, as it says; empty without one."""
        self.trace_id = "" if trace is None else trace[1]
        self.span: CallSpan | None = None
        self.peer = context.peer()
        self.facts: dict[str, object] = {}
        """More for the call's log line; never a token or a document."""
        self.principal: Principal = NOBODY
        """Who calls, once it is known."""
        self.account = UNLIMITED
        """What they have taken of their quota."""
        self._context, self._log = context, log
        self.task = cast("asyncio.Task[object]", asyncio.current_task())
        """Done when the client has taken the end of the call, or is gone."""
        self.problem = ""
        """Why the caller is known no more; empty while they are."""
        self._reading = False
        self._at_end: tuple[Callable[[], None], ...] = ()
        self._started = time.monotonic()
        self._headers_sent = False
        self._headers_stuck = False
        self._writing = self._write_is_over = False
        self._write_began = self._write_until = 0.0
        self._write_timer: asyncio.TimerHandle | None = None
        context.set_trailing_metadata(((REQUEST_ID_KEY, self.request_id),))

    def is_from(self, principal: Principal, account: Account) -> None:
        """Say who calls, and whose quota its answers are of."""
        self.principal, self.account = principal, account
        if self.caller:
            structlog.contextvars.bind_contextvars(principal=self.caller)

    def at_end(self, work: Callable[[], None]) -> None:
        """Have something done when the call's task is done: it may take no time, and not fail."""
        if not self._at_end:
            self.task.add_done_callback(self._end)
        self._at_end += (work,)

    def _end(self, _: object) -> None:
        for work in self._at_end:
            work()

    @property
    def caller(self) -> str:
        """The name of who calls; empty where nobody is asked."""
        return "" if self.principal is ANONYMOUS else self.principal.name

    @property
    def elapsed(self) -> timedelta:
        """Time since the call arrived."""
        return timedelta(seconds=time.monotonic() - self._started)

    @property
    def time_remaining(self) -> timedelta | None:
        """What the call's deadline leaves; None without a deadline."""
        seconds: float | None = self._context.time_remaining()
        return None if seconds is None else timedelta(seconds=seconds)

    async def read(self) -> bytes | None:
        """The caller's next message; None when there is none to come.

        Not to be cancelled, because gRPC keeps for ever what comes for a read that was: `cut` ends it. Raises
        CredentialsExpired.
        """
        self._reading = True
        try:
            raw: Any = await self._context.read()
        finally:
            self._reading = False
        if self.problem:
            raise expired(self.problem)
        return raw if isinstance(raw, bytes) else None

    def expire(self, problem: str) -> bool:
        """End the call because its caller is known no more; answers whether its task was cancelled for it.

        While it reads it is not: the read raises CredentialsExpired when something has come.
        """
        self.problem = problem
        if not self._reading:
            self.task.cancel()
        return not self._reading

    async def request(self) -> bytes:
        """The one message of a caller who sends one. Raises InvalidRequest when there is none."""
        raw = await self.read()
        if raw is None:
            raise InvalidRequest("the call ended before its request came: send one message")
        return raw

    async def write(self, message: bytes, *, within: timedelta) -> None:
        """Send one message.

        Raises Throttled (CONSUMER_TOO_SLOW) when the consumer has not made room for it in that time.
        """
        # P7: what a consumer does not take is held for so long, and no longer.
        began = self._write_began = monotonic()
        self._write_until, self._writing, self._write_is_over = began + within.total_seconds(), True, False
        if self._write_timer is None or self._write_timer.when() > self._write_until:
            self._set_write_timer()
        cancellations = self.task.cancelling()
        try:
            await self._context.write(message)
        except asyncio.CancelledError:
            self._headers_stuck = not self._headers_sent
            if not self._write_is_over or self.task.uncancel() > cancellations:
                raise
            raise Throttled(
                f"the stream was not read for {monotonic() - began:.1f} s: resume from the last token, and read "
                "faster or ask for smaller batches",
                reason=Reason.CONSUMER_TOO_SLOW,
            ) from None
        finally:
            self._writing = False
        self._headers_sent = True
        self.account.sent(len(message))
        if (waited := monotonic() - began) >= LONG_WRITE:
            self._observation.write_seconds.observe(waited)

    def writing_since(self) -> float | None:
        """On the loop's clock, since when a message waits for the consumer; None when none does."""
        return self._write_began if self._writing else None

    def end_write(self) -> None:
        """Let the write that is under way, if there is one, fail as if its time were over."""
        if self._writing and not self._write_is_over:
            self._write_is_over = True
            self.task.cancel()

    def end_writes(self) -> None:
        """There are none any more."""
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _set_write_timer(self) -> None:
        """Watch the write under way, and those that follow it: nearly all end long before a timer of their own."""
        self.end_writes()
        self._write_timer = asyncio.get_running_loop().call_at(self._write_until, self._look_at_write)

    def _look_at_write(self) -> None:
        self._write_timer = None
        if not self._writing:
            return
        if self._write_until > monotonic():
            self._set_write_timer()
        else:
            self.end_write()

    def fail(self, error: ChangeFeedError) -> None:
        """Make an error the end of the call, which is then to return.

        Not by `context.abort`: gRPC keeps the exception that it raises in the call, and so every frame that the
        exception passed holds itself, with the request in it, until the garbage collector comes by.
        """
        self._log.failed(error, self._facts(status_code(error), error.reason), self.principal.name)
        status = rpc_status.to_status(to_status(error, request_id=self.request_id))
        if self._headers_stuck:
            # gRPC sends the headers of a first message that is under way once more with the status, and fails.
            self.cut(status.code, status.details)
            raise asyncio.CancelledError
        self._context.set_code(status.code)
        self._context.set_details(status.details)
        metadata = (*status.trailing_metadata, (REQUEST_ID_KEY, self.request_id))
        if isinstance(error, ProviderAccessFailed):
            metadata = (*metadata, _NO_RETRY)
        self._context.set_trailing_metadata(metadata)

    def cut(self, code: grpc.StatusCode, details: str) -> None:
        """End the call now, without waiting until the client has taken what it was sent; idempotent."""
        if not self.task.done():
            reset(self._context, code, details)

    def log_success(self) -> None:
        """Write the call's log line: it ended in good order."""
        self._log.finished(self._facts(grpc.StatusCode.OK))

    def log_cancellation(self) -> None:
        """Write the call's log line: the caller went away or its deadline passed."""
        self._log.cancelled(self._facts(grpc.StatusCode.CANCELLED))

    def _facts(self, code: grpc.StatusCode, reason: str = "") -> dict[str, object]:
        """For the call's one log line; it is counted here."""
        seconds = self.elapsed.total_seconds() if self._answers_once else None
        self._observation.call_ended(self.method, code.name, seconds, reason)
        if self.span is not None:
            self.span.ended(code.name, reason)
        milliseconds = round(self.elapsed / timedelta(milliseconds=1), 3)
        return {"code": code.name, "duration_ms": milliseconds, **self.facts}


def expired(problem: str) -> CredentialsExpired:
    """What is told to who is known no more."""
    return CredentialsExpired(f"{problem}: come again with newer ones")


def _request_id(said: str) -> str:
    """The caller's id if it is short and clean, otherwise a new one."""
    return said if _CLEAN_ID.fullmatch(said) else uuid.uuid4().hex
