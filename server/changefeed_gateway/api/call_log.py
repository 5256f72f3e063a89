"""One log line a call, in the audit log if it is denied; of calls that fail alike, only so many a second."""

import asyncio
import contextvars
from collections import Counter
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

from changefeed_gateway.core.errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    ChangeFeedError,
    HistoryGap,
    InternalFailure,
    ProviderAccessFailed,
    ProviderFailure,
)

MAX_LINES: Final = 10
"""Of one code and reason, and of one principal where it is denied, in `_WINDOW_SECONDS`: one client can make thousands
of calls a second that are refused."""
_WINDOW_SECONDS: Final = 1.0

_log: FilteringBoundLogger = structlog.get_logger("changefeed_gateway.calls")
_audit: FilteringBoundLogger = structlog.get_logger("changefeed_gateway.audit")


class CallLog:
    """Writes the lines, and at the end of a second how many were left out."""

    def __init__(self) -> None:
        self._seen: Counter[tuple[object, str, str]] = Counter()
        self._window: asyncio.TimerHandle | None = None
        self._closed = False

    def close(self) -> None:
        """Say what was left out up to now, and of what comes no more; idempotent."""
        self._closed = True
        if self._window is not None:
            self._window.cancel()
        self._end_window()

    def finished(self, facts: dict[str, object]) -> None:
        """A call that ended in good order."""
        _log.info("call finished", **facts)

    def cancelled(self, facts: dict[str, object]) -> None:
        """A call whose caller went away or whose deadline passed."""
        if self._has_room(facts["code"], ""):
            _log.info("call finished", **facts)

    def failed(self, error: ChangeFeedError, facts: dict[str, object], principal: str) -> None:
        """A call that was answered with an error."""
        denied = isinstance(error, AuthenticationFailed | AuthorizationFailed)
        if not self._has_room(facts["code"], error.reason, principal if denied else ""):
            return
        facts = facts | {"reason": error.reason, "error": str(error)}
        if denied:
            _audit.warning("call denied", **facts)
        elif isinstance(error, ProviderFailure | HistoryGap | InternalFailure):
            _log.error("call finished", **facts, exc_info=error)
        elif error.retryable or isinstance(error, ProviderAccessFailed):
            _log.warning("call finished", **facts)
        else:
            _log.info("call finished", **facts)

    def _has_room(self, code: object, reason: str, principal: str = "") -> bool:
        if not self._seen and not self._closed:
            # In a context of its own: the count belongs to no call.
            loop = asyncio.get_running_loop()
            self._window = loop.call_later(_WINDOW_SECONDS, self._end_window, context=contextvars.Context())
        self._seen[code, reason, principal] += 1
        return self._seen[code, reason, principal] <= MAX_LINES

    def _end_window(self) -> None:
        for (code, reason, principal), count in self._seen.items():
            if count > MAX_LINES:
                whose = {"principal": principal} if principal else {}
                _log.warning("calls left out of the log", code=code, reason=reason, count=count - MAX_LINES, **whose)
        self._seen.clear()
