"""Position in a feed's ticks, and its 16 bytes: big-endian, so that bytes compare in reading order."""

import struct
from collections.abc import Sequence
from typing import NamedTuple, overload

from changefeed_gateway.core.errors import InvalidRequest, Reason
from changefeed_gateway.core.model import Cursor

_LAYOUT = struct.Struct(">qq")


class Position(NamedTuple):
    """How far a feed has been read.

    `seq` 0: everything up to and including batch `tick`. Otherwise also the changes of batch `tick` + 1 whose sequence
    number is at most `seq`.
    """

    tick: int
    seq: int = 0


def encode_position(position: Position) -> Cursor:
    """Write a position."""
    return Cursor(_LAYOUT.pack(*position))


def decode_position(cursor: Cursor) -> Position:
    """Read a position back. Raises InvalidRequest (TOKEN_MALFORMED) for bytes that `encode_position` cannot make."""
    if len(cursor) == _LAYOUT.size:
        position = Position(*_LAYOUT.unpack(cursor))
        if position.tick >= 0 and position.seq >= 0:
            return position
    raise InvalidRequest(
        "the position is not one of this feed: restart from beginning or now",
        reason=Reason.TOKEN_MALFORMED,
    )


class RowCursors(Sequence[Cursor]):
    """The position after each row of a page, written only when asked: a page needs few of them.

    `ticks` and `seqs` hold at least `length` entries, in reading order; an entry beyond them, if there is one, tells
    whether the last row of the page also ends its batch. `complete`: nothing of the last row's batch lies beyond.
    """

    __slots__ = ("_complete", "_length", "_seqs", "_ticks")

    def __init__(self, ticks: Sequence[int], seqs: Sequence[int], length: int, *, complete: bool) -> None:
        self._ticks, self._seqs, self._length, self._complete = ticks, seqs, length, complete

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Cursor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Cursor]: ...
    def __getitem__(self, index: int | slice) -> Cursor | list[Cursor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        return encode_position(self.position(index))

    def position(self, index: int) -> Position:
        """The position after the row at `index`; past the whole batch where the row is its last."""
        if not -self._length <= index < self._length:
            raise IndexError(index)
        index %= self._length
        tick = self._ticks[index]
        following = index + 1
        ends_batch = self._ticks[following] != tick if following < len(self._ticks) else self._complete
        return Position(tick) if ends_batch else Position(tick - 1, self._seqs[index])
