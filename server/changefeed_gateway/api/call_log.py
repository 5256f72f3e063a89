"""One log line a call; of calls that fail alike, only so many a second."""

import asyncio
import contextvars
from collections import Counter
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

from changefeed_gateway.core.errors import (
    ChangeFeedError,
    HistoryGap,
    InternalFailure,
    ProviderAccessFailed,
    ProviderFailure,
)

MAX_LINES: Final = 10
"""Of one code and reason, in `_WINDOW_SECONDS`: one client can make thousands of calls a second that are refused."""
_WINDOW_SECONDS: Final = 1.0

_log: FilteringBoundLogger = structlog.get_logger("changefeed_gateway.calls")


class CallLog:
    """Writes the lines, and at the end of a second how many were left out."""

    def __init__(self) -> None:
        self._seen: Counter[tuple[object, str]] = Counter()

    def finished(self, facts: dict[str, object]) -> None:
        """A call that ended in good order."""
        _log.info("call finished", **facts)

    def cancelled(self, facts: dict[str, object]) -> None:
        """A call whose caller went away or whose deadline passed."""
        if self._has_room(facts["code"], ""):
            _log.info("call finished", **facts)

    def failed(self, error: ChangeFeedError, facts: dict[str, object]) -> None:
        """A call that was answered with an error."""
        if not self._has_room(facts["code"], error.reason):
            return
        facts = facts | {"reason": error.reason, "error": str(error)}
        if isinstance(error, ProviderFailure | HistoryGap | InternalFailure):
            _log.error("call finished", **facts, exc_info=error)
        elif error.retryable or isinstance(error, ProviderAccessFailed):
            _log.warning("call finished", **facts)
        else:
            _log.info("call finished", **facts)

    def _has_room(self, code: object, reason: str) -> bool:
        if not self._seen:
            # In a context of its own: the count belongs to no call.
            loop = asyncio.get_running_loop()
            loop.call_later(_WINDOW_SECONDS, self._end_window, context=contextvars.Context())
        self._seen[code, reason] += 1
        return self._seen[code, reason] <= MAX_LINES

    def _end_window(self) -> None:
        for (code, reason), count in self._seen.items():
            if count > MAX_LINES:
                _log.warning("calls left out of the log", code=code, reason=reason, count=count - MAX_LINES)
        self._seen.clear()
