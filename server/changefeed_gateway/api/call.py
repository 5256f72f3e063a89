"""One call under way: its identity, its time, its messages, its end."""

import asyncio
import re
import time
import uuid
from datetime import timedelta
from typing import Final, NoReturn

import grpc
import structlog
from grpc_status import rpc_status
from structlog.typing import FilteringBoundLogger

from changefeed_gateway.api.status import status_code, to_status
from changefeed_gateway.core.errors import (
    ChangeFeedError,
    HistoryGap,
    InternalFailure,
    ProviderFailure,
    Reason,
    Throttled,
)

REQUEST_ID_KEY: Final = "x-request-id"
"""Metadata key: a caller may choose the id, and gets it back in the trailing metadata in any case."""

Context = grpc.aio.ServicerContext[bytes, bytes]

_CLEAN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_log: FilteringBoundLogger = structlog.get_logger("changefeed_gateway.calls")


class Call:
    """One call under way."""

    def __init__(self, method: str, context: Context) -> None:
        self.method = method
        self.request_id = _request_id(context)
        self.peer = context.peer()
        self.facts: dict[str, object] = {}
        """More for the call's log line; never a token or a document."""
        self._context = context
        self._started = time.monotonic()
        self._writing: asyncio.Timeout | None = None
        context.set_trailing_metadata(((REQUEST_ID_KEY, self.request_id),))

    @property
    def elapsed(self) -> timedelta:
        """Time since the call arrived."""
        return timedelta(seconds=time.monotonic() - self._started)

    @property
    def time_remaining(self) -> timedelta | None:
        """What the call's deadline leaves; None without a deadline."""
        seconds: float | None = self._context.time_remaining()
        return None if seconds is None else timedelta(seconds=seconds)

    async def write(self, message: bytes, *, within: timedelta) -> None:
        """Send one message of a stream.

        Raises Throttled (CONSUMER_TOO_SLOW) when the consumer has not made room for it in that time.
        """
        began = time.monotonic()
        try:
            async with asyncio.timeout(within.total_seconds()) as self._writing:
                await self._context.write(message)
        except TimeoutError:
            raise Throttled(
                f"the stream was not read for {time.monotonic() - began:.1f} s: resume from the last token, and read "
                "faster or ask for smaller batches",
                reason=Reason.CONSUMER_TOO_SLOW,
            ) from None
        finally:
            self._writing = None

    def end_write(self) -> None:
        """Let the write that is under way, if there is one, fail as if its time were over."""
        if self._writing is not None and not self._writing.expired():
            self._writing.reschedule(asyncio.get_running_loop().time())

    async def abort(self, error: ChangeFeedError) -> NoReturn:
        """End the call with an error.

        Waits until the client has taken what was sent before, or is gone: hold nothing that others need.
        """
        self._log_failure(error)
        status = rpc_status.to_status(to_status(error, request_id=self.request_id))
        metadata = (*status.trailing_metadata, (REQUEST_ID_KEY, self.request_id))
        try:
            await self._context.abort(status.code, status.details, metadata)
        except grpc.aio.InternalError as gone:
            raise asyncio.CancelledError from gone

    def log_success(self) -> None:
        """Write the call's log line: it ended in good order."""
        _log.info("call finished", **self._facts(grpc.StatusCode.OK))

    def log_cancellation(self) -> None:
        """Write the call's log line: the caller went away or its deadline passed."""
        _log.info("call finished", **self._facts(grpc.StatusCode.CANCELLED))

    def _log_failure(self, error: ChangeFeedError) -> None:
        facts = self._facts(status_code(error)) | {"reason": error.reason, "error": str(error)}
        if isinstance(error, ProviderFailure | HistoryGap | InternalFailure):
            _log.error("call finished", **facts, exc_info=error)
        elif error.retryable:
            _log.warning("call finished", **facts)
        else:
            _log.info("call finished", **facts)

    def _facts(self, code: grpc.StatusCode) -> dict[str, object]:
        milliseconds = round(self.elapsed / timedelta(milliseconds=1), 3)
        return {"code": code.name, "duration_ms": milliseconds, **self.facts}


def _request_id(context: Context) -> str:
    """The caller's id if it is short and clean, otherwise a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _CLEAN_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex
