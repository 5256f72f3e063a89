"""How late the event loop comes to what is due."""

import asyncio
from contextvars import Context
from typing import Final

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.observation import Distribution

_EVERY: Final = 0.1
"""Seconds: a stall is seen by the part of it that lies behind the next look."""


class LoopWatch:
    """Looks ten times a second, from the moment it is made until it is closed."""

    def __init__(self, stalls: Distribution) -> None:
        self._stalls = stalls
        self._loop = asyncio.get_running_loop()
        self._set(monotonic() + _EVERY)

    def _set(self, due: float) -> None:
        self._timer = self._loop.call_at(due, self._look, due, context=Context())

    def _look(self, due: float) -> None:
        now = monotonic()
        self._stalls.observe(max(0.0, now - due))
        self._set(now + _EVERY)

    def close(self) -> None:
        """Look no more; idempotent."""
        self._timer.cancel()
