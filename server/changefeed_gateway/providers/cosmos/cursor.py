"""Position in a feed range, and its bytes, which compare in reading order as far as positions can be compared."""

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from changefeed_gateway.core.errors import InvalidRequest, Reason
from changefeed_gateway.core.model import Cursor

WHOLE_RUN: Final = "~"
"""Of `Position.inside`: everything with the lsn has been passed. Behind every other text that can stand there."""

_TIME: Final = "@"
"""What an origin begins with that is a time; an etag begins with a quotation mark."""
_HEAD: Final = struct.Struct(">Q")
_REST: Final = struct.Struct(">II")
_END: Final = b"\0"
_LENGTH: Final = struct.Struct(">H")
_MOST_INTERVALS: Final = 10_000
"""Of a key prefix: more than a container has partitions."""


class Mode(StrEnum):
    """Which change feed of a container is read."""

    ALL_VERSIONS_AND_DELETES = "all_versions_and_deletes"
    LATEST_VERSION = "latest_version"


_MODES: Final = {Mode.ALL_VERSIONS_AND_DELETES: b"a", Mode.LATEST_VERSION: b"l"}


class Interval(NamedTuple):
    """Effective partition keys from `low` up to, but not including, `high`: hexadecimal texts; "" to "FF" is all."""

    low: str
    high: str

    def within(self, other: "Interval") -> bool:
        """Whether another one holds it whole."""
        return other.low <= self.low and self.high <= other.high

    def common(self, other: "Interval") -> "Interval | None":
        """What two have in common."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        return Interval(low, high) if low < high else None


EVERYTHING: Final = Interval("", "FF")
"""All effective partition keys."""
RETIRED: Final = Interval("FF", "FF")
"""Of a partition that had been replaced by others before it was read: it has nothing of its own."""


class Position(NamedTuple):
    """How far an interval has been read: behind all that lies up to a place in the answers that follow an origin."""

    interval: Interval
    origin: str
    """Where the service is asked to begin: its etag, as it wrote it; "@" and epoch seconds; or "" for the beginning."""
    as_of: int
    """Nothing beyond the position is older than this, in epoch seconds of the service's clock; 0 where not known. Of an
    item of a snapshot it is the answer that tells of it: it may have been deleted since an older one."""
    lsn: int = 0
    """What has a lower number has been passed."""
    inside: str = ""
    """Of what has the number `lsn` itself, the last that has been passed."""
    passed: int = 0
    """How many changes of the answers to the origin have been passed: so many more are to be asked for."""

    @property
    def comparable(self) -> bool:
        """Whether it has a place in the order of the numbers; a time has none."""
        return bool(self.lsn) or not self.origin.startswith(_TIME)

    def passes(self, lsn: int, inside: str) -> bool:
        """Whether a change with this number and place in its run lies before the position."""
        return (lsn, inside) <= (self.lsn, self.inside)

    def behind(self, lsn: int, inside: str, as_of: int, passed: int) -> "Position":
        """Right behind a change, one of so many that an answer to this position's origin brought."""
        return Position(self.interval, self.origin, max(self.as_of, as_of), lsn, inside, passed)

    def at(self, etag: str, lsn: int, as_of: int) -> "Position":
        """At the end of an answer with an etag, whose last change had a number.

        The etag is opaque by contract. Where it is a number, as all are that were seen, it says how far an answer
        without changes has gone. P1: one that has not come to the number of the position, as of a replica that lags,
        says nothing of the rest of a run of which a part has been passed.
        """
        told = max(lsn, number_of(etag))
        inside = WHOLE_RUN if told >= self.lsn else self.inside
        return Position(self.interval, etag, max(self.as_of, as_of), max(self.lsn, told), inside)

    def narrowed(self, interval: Interval) -> "Position":
        """The same position in a part of the interval."""
        return self._replace(interval=interval)

    @property
    def start_time(self) -> datetime | None:
        """The time that is the origin; None where it is none."""
        if not self.origin.startswith(_TIME):
            return None
        return datetime.fromtimestamp(int(self.origin.removeprefix(_TIME)), UTC)

    def expire_time(self, backup_window: timedelta | None) -> datetime | None:
        """When its history may begin to go; None where that is not known."""
        if backup_window is None or not self.as_of:
            return None
        return datetime.fromtimestamp(self.as_of, UTC) + backup_window


def number_of(etag: str) -> int:
    """The number that an etag is; 0 for one that is none."""
    number = etag.strip('"')
    return int(number) if number.isdecimal() and len(number) < 20 else 0


def beginning(interval: Interval, as_of: int = 0) -> Position:
    """Before everything."""
    return Position(interval, "", as_of)


def at_time(interval: Interval, second: int) -> Position:
    """Before the first change at or after a time, in epoch seconds."""
    return Position(interval, f"{_TIME}{second}", 0)


def encode(position: Position, mode: Mode) -> Cursor:
    """Write a position."""
    order = _HEAD.pack(position.lsn) + position.inside.encode() + _END
    texts = (position.interval.low, position.interval.high, position.origin)
    rest = _REST.pack(position.as_of, position.passed) + _MODES[mode]
    return Cursor(order + rest + _END.join(text.encode() for text in texts))


def decode(cursor: Cursor, mode: Mode) -> Position:
    """Read a position back. Raises InvalidRequest (TOKEN_MALFORMED) for bytes that `encode` cannot make.

    And for a position of the other mode (TOKEN_WRONG_RESOURCE): it is one of another feed.
    """
    try:
        (lsn,) = _HEAD.unpack_from(cursor)
        inside, rest = cursor[_HEAD.size :].split(_END, 1)
        as_of, passed = _REST.unpack_from(rest)
        written, texts = rest[_REST.size : _REST.size + 1], rest[_REST.size + 1 :]
        low, high, origin = (text.decode() for text in texts.split(_END))
        position = Position(Interval(low, high), origin, as_of, lsn, inside.decode(), passed)
        if written not in _MODES.values() or (position.start_time is None and origin and not _is_etag(origin)):
            raise ValueError(origin)
    except (struct.error, ValueError, OverflowError, OSError) as error:
        raise _malformed() from error
    if written != _MODES[mode]:
        raise InvalidRequest(
            f"the token is of the connection's other mode, and the connection reads {mode}: set the mode that the token"
            " was made with, or restart from now",
            reason=Reason.TOKEN_WRONG_RESOURCE,
        )
    return position


def encode_all(positions: Sequence[Position], mode: Mode) -> Cursor:
    """Write the positions of several intervals."""
    cursors = [encode(position, mode) for position in positions]
    return Cursor(b"".join(_LENGTH.pack(len(cursor)) + cursor for cursor in cursors))


def decode_all(cursor: Cursor, mode: Mode) -> list[Position]:
    """Read the positions of several intervals back. Raises as `decode`."""
    positions: list[Position] = []
    rest: bytes = cursor
    while rest and len(positions) < _MOST_INTERVALS:
        try:
            (length,) = _LENGTH.unpack_from(rest)
        except struct.error as error:
            raise _malformed() from error
        positions.append(decode(Cursor(rest[_LENGTH.size : _LENGTH.size + length]), mode))
        rest = rest[_LENGTH.size + length :]
    if rest or not positions:
        raise _malformed()
    return positions


def _is_etag(text: str) -> bool:
    return text.isprintable() and len(text) < 1_000


def _malformed() -> InvalidRequest:
    return InvalidRequest(
        "the position is not one of this container's feed: restart from now", reason=Reason.TOKEN_MALFORMED
    )
