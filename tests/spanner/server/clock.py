"""The service's time: the real one, moved by what a test asks for. Times are nanoseconds since the epoch."""

import re
import time
from datetime import UTC, datetime, timedelta

MICROSECOND = 1_000
SECOND = 1_000_000_000


class Clock:
    """Never stands still and never goes back, so that a commit is later than all that was said before it."""

    def __init__(self) -> None:
        self._moved = 0
        self._last = 0

    def now(self) -> int:
        """The time, in whole microseconds, as the service has it."""
        return max(self._last, (time.time_ns() + self._moved) // MICROSECOND * MICROSECOND)

    def tick(self) -> int:
        """A time that nobody has been told yet."""
        self._last = max(self._last + MICROSECOND, self.now())
        return self._last

    def said(self, moment: int) -> None:
        """Let what follows be later than a time that a reader is told."""
        self._last = max(self._last, moment)

    def advance(self, span: timedelta) -> None:
        """Let time pass."""
        self._moved += nanoseconds(span)


def nanoseconds(span: timedelta) -> int:
    return span // timedelta(microseconds=1) * MICROSECOND


_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:?\d\d)")


def parse(text: str) -> int:
    """Read RFC 3339 text. Raises ValueError."""
    if (match := _RFC3339.fullmatch(text)) is None:
        raise ValueError(f"not RFC 3339: {text}")
    day, clock, fraction, zone = match.groups()
    whole = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
    seconds = (whole - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    return seconds * SECOND + int((fraction or "").ljust(9, "0"))


def rfc3339(moment: int, *, zone: str = "Z") -> str:
    """Write RFC 3339 text in UTC, without zeros at the end of the fraction, as the emulator does."""
    seconds, fraction = divmod(moment, SECOND)
    text = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits}{zone}" if digits else f"{text}{zone}"
