"""Where a snapshot of a feed stands: how far its items were read, and its changes. Pure.

P2: a consumer is never taken back in time, and nothing is missing. An item is read in some snapshot S of the database,
at a place whose position lies before S. From then on exactly those changes of its key are for the consumer that S does
not see. Changes of keys that were not read yet are not for it, except deletes, which are sent always: a page that broke
off may have brought the item, and who reads it again from the token before must not keep what is gone.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from changefeed_gateway.core.errors import InvalidRequest, Reason
from changefeed_gateway.core.model import Cursor
from changefeed_gateway.providers.postgres.cursor import Position, mark_of
from changefeed_gateway.providers.postgres.mapping import DELETE, KEY, OP, TRUNCATE, XID, Row
from changefeed_gateway.providers.postgres.ticks.tick import parse_snapshot

_MARK: Final = b"\xff"
"""How the cursor of a place begins; one of a position begins with a number that is not negative."""

READ: Final = 0
"""A key up to which all items were read before the newest part."""
IN_PART: Final = 1
BEYOND: Final = 2


class Part(NamedTuple):
    """The items that were read last, for as long as the position has not reached a tick that was made after them."""

    low: str | None
    """They lie behind this key; None: they are the first."""
    snapshot: str
    """In which they were read, as text."""
    tick: int = 0
    """One that has all that they saw; 0 in a place that an earlier version wrote."""
    mark: int = 0
    """Of that tick. P6: where it is lost, transactions that the items saw are too, and others have their ids."""


class SnapshotPlace(NamedTuple):
    """How far a snapshot has come. `key` is the text of the last key that was read, as the log has it."""

    position: Position
    """Up to where changes were read."""
    key: str | None = None
    complete: bool = False
    """All items were read."""
    part: Part | None = None
    items: int = 0
    estimate: int | None = None

    @property
    def low(self) -> str | None:
        """The key up to which every change is for the consumer; None before the first one."""
        return self.part.low if self.part else self.key

    @property
    def high(self) -> str | None:
        """The key up to which items were read; None where all were."""
        return None if self.complete else self.key

    @property
    def needs_order(self) -> bool:
        """Whether it takes the index's order to tell what is for the consumer."""
        return self.low is not None or (self.part is not None and not self.complete)

    def passes(self, row: Row, where: int, sees: Callable[[int], bool]) -> bool:
        """Whether a change is for the consumer; `where` its key lies, `sees` whether the part's snapshot sees it."""
        if row[OP] == TRUNCATE or where == READ:
            return True
        if self.part is None:
            return row[OP] == DELETE
        return not sees(row[XID]) and (where == IN_PART or row[OP] == DELETE)


def is_place(cursor: Cursor) -> bool:
    """Whether a cursor is one of a place in a snapshot, rather than a position."""
    return cursor.startswith(_MARK)


def encode_place(place: SnapshotPlace, at: datetime) -> Cursor:
    """Write a place; `at` is the time of the tick `place.position.batch`."""
    body = [*place.position, mark_of(at), place.key, place.complete, place.part, place.items, place.estimate]
    return Cursor(_MARK + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())


def decode_place(cursor: Cursor) -> tuple[SnapshotPlace, int]:
    """Read back a place and the mark of its position's tick.

    Raises InvalidRequest (TOKEN_MALFORMED) for bytes that `encode_place` does not make.
    """
    try:
        tick, seq, mark, key, complete, part, items, estimate = json.loads(cursor[len(_MARK) :])
        position = Position(int(tick), int(seq))
        place = SnapshotPlace(position, key, bool(complete), Part(*part) if part else None, int(items), estimate)
        if place.part is not None:
            parse_snapshot(place.part.snapshot)
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidRequest(
            "the position is not one of this feed: restart from beginning, now or snapshot",
            reason=Reason.TOKEN_MALFORMED,
        ) from error
    return place, int(mark)


def seen_by(snapshot: str) -> Callable[[int], bool]:
    """Whether a snapshot sees a transaction that left rows; the same answer as pg_visible_in_snapshot."""
    xmin, xmax, xip = parse_snapshot(snapshot)
    return lambda xid: xid < xmin or (xid < xmax and xid not in xip)


def keys_to_place(rows: Sequence[Row]) -> list[bytes]:
    """The keys of some rows, each once."""
    return list(dict.fromkeys(row[KEY] for row in rows if row[OP] != TRUNCATE))


def passing(place: SnapshotPlace, rows: Sequence[Row], where: Mapping[bytes, int]) -> list[int]:
    """Which of some changes are for the consumer; `where` has the place of each key."""
    sees = seen_by(place.part.snapshot) if place.part else _nothing
    return [index for index, row in enumerate(rows) if place.passes(row, where.get(row[KEY], IN_PART), sees)]


def _nothing(xid: int) -> bool:
    return False
