"""Times as Spanner has them: nanoseconds since the epoch, and their text. Pure."""

from datetime import UTC, datetime, timedelta
from typing import Final

from changefeed_gateway.core.model import ExactTime

SECOND: Final = 1_000_000_000
"""Nanoseconds."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FRACTION_AT: Final = len("2026-01-01T00:00:00")


def parse(text: str) -> int:
    """Nanoseconds of an RFC 3339 text in UTC, ending in Z or +00:00. Raises ValueError."""
    moment = datetime.fromisoformat(text[:_FRACTION_AT])
    rest = text[_FRACTION_AT:]
    if not rest.endswith(("Z", "+00:00")):
        raise ValueError("a time that is not in UTC")
    fraction = rest.removesuffix("Z").removesuffix("+00:00")
    if fraction and not (fraction[0] == "." and fraction[1:].isdecimal() and len(fraction) <= 10):
        raise ValueError("a time with an unknown fraction")
    since = moment.replace(tzinfo=UTC) - _EPOCH
    return (since.days * 86_400 + since.seconds) * SECOND + int(fraction[1:].ljust(9, "0"))


def text(nanoseconds: int) -> str:
    """RFC 3339 text with all nine digits, so that texts sort as times do."""
    seconds, fraction = divmod(nanoseconds, SECOND)
    moment = _EPOCH + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def of_datetime(moment: datetime) -> int:
    """Nanoseconds of an aware time."""
    beyond = moment.nanoseconds if isinstance(moment, ExactTime) else 0
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1_000 + beyond


def of_timedelta(length: timedelta) -> int:
    """Nanoseconds of a length of time."""
    return length // timedelta(microseconds=1) * 1_000


def to_datetime(nanoseconds: int) -> datetime:
    """An aware time, rounded down to the microsecond."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1_000)


def exact(nanoseconds: int) -> datetime:
    """An aware time that keeps its nanoseconds, where it has any beyond the microsecond."""
    moment = to_datetime(nanoseconds)
    return ExactTime.of(moment, nanoseconds % 1_000) if nanoseconds % 1_000 else moment
