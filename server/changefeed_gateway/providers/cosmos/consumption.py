"""What the calls of a provider cost in request units: for diagnostics, and one log line a minute."""

import asyncio
import contextvars
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

_WINDOW_SECONDS: Final = 60.0

_log: Final[FilteringBoundLogger] = structlog.get_logger(__name__)


class Consumption:
    """Sums the charges of an account's answers. A minute without a call has no line."""

    def __init__(self, account: str) -> None:
        self.calls = 0
        """Answers so far."""
        self.charge = 0.0
        """Request units so far."""
        self._account = account
        self._told = (0, 0.0)
        """What the lines so far have told."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, charge: float) -> None:
        """Count an answer."""
        self.calls += 1
        self.charge += charge
        if self._timer is None:
            # In a context of its own: the count belongs to no call.
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_WINDOW_SECONDS, self._tell, context=contextvars.Context())

    def _tell(self) -> None:
        self._timer = None
        calls, charge = self._told
        self._told = self.calls, self.charge
        _log.info(
            "request units of the last minute",
            account=self._account,
            calls=self.calls - calls,
            request_units=round(self.charge - charge, 2),
        )

    def close(self) -> None:
        """Tell what was not told yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._tell()
