"""Position in a shard, and its bytes, which compare in reading order as far as positions can be compared."""

import struct
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Final, NamedTuple

from changefeed_gateway.core.errors import InvalidRequest, Reason
from changefeed_gateway.core.model import Cursor

RETENTION: Final = timedelta(hours=24)
"""How long DynamoDB Streams keeps a record (developer guide, "Change data capture for DynamoDB Streams")."""

CLOCKS_DIFFER: Final = 10
"""Seconds between the clocks of the service's hosts, at most: a record may be made by so much before the one that
stands in front of it."""

LIFE: Final = RETENTION - timedelta(seconds=CLOCKS_DIFFER)
"""How long a position is good for: what lies beyond it may be older than it says by what the clocks differ."""

_LAYOUT: Final = struct.Struct(">?17sIBIQ")
_SEQUENCE_BYTES: Final = 17
"""A sequence number has 40 digits at most."""


class Kind(IntEnum):
    """How a position is asked for."""

    HORIZON = 0
    """Before everything that the shard holds: it held nothing, or its parent had just ended."""
    BEFORE = 1
    """Before the record with the number."""
    AFTER = 2
    """After the record with the number."""
    AT = 3
    """Before the first record at or after a time."""
    NOW = 4
    """After everything that was there when it was made. No position of the service says that of a shard where nothing
    happens: this process knows it by an iterator, and every other one by the time, which may repeat some seconds."""


class Position(NamedTuple):
    """How far a shard has been read. Times are the service's own, in whole epoch seconds."""

    kind: Kind
    as_of: int
    """Nothing beyond the position is older than this: 24 hours later its history may be gone."""
    sequence: int = 0
    time: int = 0
    """What AT and NOW begin with, and when the record with the number was made."""
    mark: int = 0
    """Tells one NOW from another of the same second."""

    def seen_empty(self, as_of: int) -> "Position":
        """The same position, after it was found that nothing lay beyond it at a time."""
        return self._replace(as_of=max(self.as_of, as_of))

    @property
    def place(self) -> tuple[int, int, int, int]:
        """What it points at, whenever it was written."""
        return self.kind, self.sequence, self.time, self.mark

    @property
    def comparable(self) -> bool:
        """Whether it has a place in the order of the shard's numbers, before all or beside one.

        Times have none: a record may be older than the one before it.
        """
        return self.kind not in (Kind.AT, Kind.NOW)

    @property
    def proven(self) -> bool:
        """Whether it was found, after its own record, that nothing lay beyond it."""
        return self.as_of > self.time

    @property
    def expire_time(self) -> datetime:
        """When its history may begin to go."""
        return datetime.fromtimestamp(self.as_of, UTC) + LIFE


def horizon(as_of: int) -> Position:
    """Before everything."""
    return Position(Kind.HORIZON, as_of)


def before(sequence: int, created: int) -> Position:
    """Before a record."""
    return Position(Kind.BEFORE, created, sequence=sequence, time=created)


def after(sequence: int, created: int) -> Position:
    """After a record: the same for every reader, wherever it began."""
    return Position(Kind.AFTER, created, sequence=sequence, time=created)


def at_time(time: int) -> Position:
    """Before the first record at or after a time."""
    return Position(Kind.AT, time, time=time)


def now(as_of: int, granularity: int, mark: int) -> Position:
    """After everything that was there at a time.

    `granularity`: seconds to which the endpoint rounds a record's time down.
    """
    time = (as_of - CLOCKS_DIFFER) // granularity * granularity
    return Position(Kind.NOW, as_of, time=time, mark=mark)


def encode(position: Position) -> Cursor:
    """Write a position. Those with a number compare by it; those that cannot be compared lie before all others."""
    # Before a record is where the one with the number below ends.
    number = position.sequence - 1 if position.kind is Kind.BEFORE else position.sequence
    packed = max(0, number).to_bytes(_SEQUENCE_BYTES)
    where = position.comparable, packed
    return Cursor(_LAYOUT.pack(*where, position.as_of, position.kind, position.time, position.mark))


def decode(cursor: Cursor) -> Position:
    """Read a position back. Raises InvalidRequest (TOKEN_MALFORMED) for bytes that `encode` cannot make."""
    try:
        _, packed, as_of, kind, time, mark = _LAYOUT.unpack(cursor)
        chosen = Kind(kind)
    except (struct.error, ValueError) as error:
        raise InvalidRequest(
            "the position is not one of this table's stream: restart from beginning or now",
            reason=Reason.TOKEN_MALFORMED,
        ) from error
    number = int.from_bytes(packed)
    sequence = number + 1 if chosen is Kind.BEFORE else number
    return Position(chosen, as_of, sequence=sequence, time=time, mark=mark)
