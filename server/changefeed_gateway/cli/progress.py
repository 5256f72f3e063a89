"""Signs of life of long work, on standard error and only on a terminal."""

import sys
import time
from typing import Final

from changefeed_gateway.cli.output import err

_SECONDS: Final = 0.5


class Meter:
    """Counts changes, and shows count and rate while the changes themselves go into a file or a pipe."""

    def __init__(self) -> None:
        self.total = 0
        self._started = self._shown = time.monotonic()
        self._status = err.status("reading")
        self._visible = sys.stderr.isatty() and not sys.stdout.isatty()
        if self._visible:
            self._status.start()

    def add(self, count: int) -> None:
        """Count changes."""
        self.total += count
        now = time.monotonic()
        if self._visible and now - self._shown > _SECONDS:
            self._shown = now
            rate = self.total / (now - self._started)
            self._status.update(f"{self.total:,} changes, {rate:,.0f}/s")

    def close(self) -> None:
        """Stop showing."""
        self._status.stop()
