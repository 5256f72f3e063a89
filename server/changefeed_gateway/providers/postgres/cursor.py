"""Position in a feed's ticks, and its 20 bytes: big-endian, so that bytes compare in reading order."""

import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, overload

from changefeed_gateway.core.errors import InvalidRequest, Reason
from changefeed_gateway.core.model import Cursor

_LAYOUT = struct.Struct(">qqI")
_MICROSECOND: Final = timedelta(microseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Position(NamedTuple):
    """How far a feed has been read.

    `seq` 0: everything up to and including batch `tick`. Otherwise also the changes of batch `tick` + 1 whose sequence
    number is at most `seq`.
    """

    tick: int
    seq: int = 0

    @property
    def batch(self) -> int:
        """The newest batch of which it holds a part."""
        return self.tick + 1 if self.seq else self.tick


def mark_of(at: datetime) -> int:
    """What tells a tick from another one with its number: the microseconds of its time, modulo 2^32.

    A server that was promoted, or that was put back to an earlier day, makes ticks anew whose numbers others had.
    """
    return (at - _EPOCH) // _MICROSECOND & 0xFFFFFFFF


def encode_position(position: Position, at: datetime) -> Cursor:
    """Write a position; `at` is the time of the tick `position.batch`."""
    return Cursor(_LAYOUT.pack(*position, mark_of(at)))


def decode_position(cursor: Cursor) -> tuple[Position, int]:
    """Read back a position and the mark of its batch's tick.

    Raises InvalidRequest (TOKEN_MALFORMED) for bytes that `encode_position` cannot make.
    """
    if len(cursor) == _LAYOUT.size:
        tick, seq, mark = _LAYOUT.unpack(cursor)
        if tick >= 0 and seq >= 0:
            return Position(tick, seq), mark
    raise InvalidRequest(
        "the position is not one of this feed: restart from beginning or now",
        reason=Reason.TOKEN_MALFORMED,
    )


class RowCursors(Sequence[Cursor]):
    """The position after each row of a page, written only when asked: a page needs few of them.

    `ticks` and `seqs` hold at least `length` entries, in reading order; an entry beyond them, if there is one, tells
    whether the last row of the page also ends its batch. `complete`: nothing of the last row's batch lies beyond.
    `times` has the time of each of `ticks`.
    """

    __slots__ = ("_complete", "_length", "_seqs", "_ticks", "_times")

    def __init__(
        self,
        ticks: Sequence[int],
        seqs: Sequence[int],
        length: int,
        *,
        complete: bool,
        times: Mapping[int, datetime],
    ) -> None:
        self._ticks, self._seqs, self._length, self._complete = ticks, seqs, length, complete
        self._times = times

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Cursor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Cursor]: ...
    def __getitem__(self, index: int | slice) -> Cursor | list[Cursor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        return encode_position(self.position(index), self._times[self._ticks[index]])

    def position(self, index: int) -> Position:
        """The position after the row at `index`; past the whole batch where the row is its last."""
        if not -self._length <= index < self._length:
            raise IndexError(index)
        index %= self._length
        tick = self._ticks[index]
        following = index + 1
        ends_batch = self._ticks[following] != tick if following < len(self._ticks) else self._complete
        return Position(tick) if ends_batch else Position(tick - 1, self._seqs[index])
