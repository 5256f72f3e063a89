"""Position in a change-stream partition, and its bytes, which compare in reading order."""

import json
import struct
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

from changefeed_gateway.core.errors import InvalidRequest, Reason
from changefeed_gateway.core.model import Cursor
from changefeed_gateway.providers.spanner import instants

_LAYOUT: Final = struct.Struct(">QII")


class Cut(NamedTuple):
    """A record of which a page took the first modifications only."""

    transaction: str
    record: str
    mods: int
    """Taken so far."""


class Position(NamedTuple):
    """How far a partition has been read.

    A query starts at a time and includes it, so the position says what was taken of that very time. Of one transaction
    records come in the order of their numbers (Spanner, "Change streams: data change records").
    """

    time: int
    """Of the last record or heartbeat, in nanoseconds since the epoch."""
    taken: int = 0
    """Records of exactly that time that were taken."""
    seen: tuple[tuple[str, str], ...] = ()
    """Transactions of exactly that time, each with the number of its last record that was taken."""
    cut: Cut | None = None

    def after(self, time: int, transaction: str, record: str) -> "Position":
        """After a whole record."""
        if time > self.time:
            return Position(time, 1, ((transaction, record),))
        others = tuple(seen for seen in self.seen if seen[0] != transaction)
        return Position(time, self.taken + 1, (*others, (transaction, record)))

    def within(self, time: int, transaction: str, record: str, mods: int) -> "Position":
        """After the first modifications of a record."""
        cut = Cut(transaction, record, mods)
        return Position(time, 0, (), cut) if time > self.time else self._replace(cut=cut)

    def heard(self, time: int) -> "Position":
        """After a heartbeat: everything up to its time was given."""
        return Position(time) if time > self.time else self

    def passed(self, time: int, transaction: str, record: str) -> bool:
        """Whether a record was taken whole."""
        if time > self.time:
            return False
        return any(known == transaction and _number(record) <= _number(last) for known, last in self.seen)

    def passed_mods(self, time: int, transaction: str, record: str) -> int:
        """How many modifications of a record were taken."""
        at = self.cut
        here = at is not None and time == self.time and (at.transaction, at.record) == (transaction, record)
        return at.mods if here and at is not None else 0

    @property
    def watermark(self) -> datetime:
        """Everything committed before it was taken: records come in the order of their times."""
        return instants.to_datetime(self.time)

    def expire_time(self, retention: timedelta) -> datetime:
        """When its history begins to go."""
        return instants.to_datetime(self.time) + retention


def _number(record: str) -> tuple[int, str]:
    """Record sequences are numbers of one width; compared so, another width does no harm."""
    return len(record), record


def encode(position: Position) -> Cursor:
    """Write a position."""
    mods = position.cut.mods if position.cut else 0
    return Cursor(_LAYOUT.pack(position.time, position.taken, mods) + _rest(position.seen, position.cut))


@lru_cache(1_024)
def _rest(seen: tuple[tuple[str, str], ...], cut: Cut | None) -> bytes:
    if not seen and cut is None:
        return b""
    return json.dumps([seen, cut], separators=(",", ":")).encode()


def decode(cursor: Cursor) -> Position:
    """Read a position back. Raises InvalidRequest (TOKEN_MALFORMED) for bytes that `encode` cannot make."""
    try:
        time, taken, mods = _LAYOUT.unpack(cursor[: _LAYOUT.size])
        seen, cut = json.loads(cursor[_LAYOUT.size :] or b"[[],null]")
        position = Position(
            time,
            taken,
            tuple((str(transaction), str(record)) for transaction, record in seen),
            None if cut is None else Cut(str(cut[0]), str(cut[1]), mods),
        )
    except (struct.error, ValueError, TypeError, IndexError) as error:
        raise InvalidRequest(
            "the position is not one of this table's change stream: restart from beginning or now",
            reason=Reason.TOKEN_MALFORMED,
        ) from error
    return position
