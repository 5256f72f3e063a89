"""The service's time: the real one, moved by what a test asks for."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime


class Clock:
    """Answers epoch seconds."""

    def __init__(self) -> None:
        self._moved = 0.0

    def now(self) -> float:
        """Epoch seconds."""
        return time.time() + self._moved

    def advance(self, span: timedelta) -> None:
        """Let time pass."""
        self._moved += span.total_seconds()

    def http_date(self) -> str:
        """The time as the header `Date` has it: whole seconds."""
        return format_datetime(datetime.fromtimestamp(int(self.now()), UTC), usegmt=True)
