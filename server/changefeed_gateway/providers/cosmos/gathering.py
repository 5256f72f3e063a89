"""From the documents of one answer to a page: how many fit, and the position after each. Pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple, overload

from changefeed_gateway.core.columns import COMMIT_TIME, ITEM, SECOND, Columns, Row
from changefeed_gateway.core.model import Change, PageRead
from changefeed_gateway.providers.cosmos.cursor import Mode, Position
from changefeed_gateway.providers.cosmos.mapping import ChangeMaker, Document, placed

_Place = tuple[int, str, int, int]
"""What `Position.behind` wants of a change."""


class Positions(Sequence[Position]):
    """The position after each of some changes, made when somebody asks for it: most pages are not cut."""

    __slots__ = ("_end", "_places", "_start")

    def __init__(self, start: Position, places: Sequence[_Place], end: Position | None = None) -> None:
        """`end`: after the last, where that is further."""
        self._start, self._places, self._end = start, places, end

    def ending(self, end: Position) -> "Positions":
        """The same with another end."""
        return Positions(self._start, self._places, end)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Position: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Position]: ...
    def __getitem__(self, index: int | slice) -> Position | Sequence[Position]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        index = range(len(self))[index]
        if self._end is not None and index == len(self) - 1:
            return self._end
        return self._start.behind(*self._places[index])


class Gathered(NamedTuple):
    """The first changes of an answer, as far as they fit into a page."""

    changes: Sequence[Change]
    positions: Sequence[Position]
    """After each change."""
    whole: bool
    """Everything fitted."""
    last_lsn: int = 0
    """Of the last document, whether it fitted or not."""

    def ending(self, end: Position) -> "Gathered":
        """The same, with a position that is further after the last change."""
        return self._replace(positions=self.positions.ending(end)) if isinstance(self.positions, Positions) else self


NOTHING: Final = Gathered((), (), whole=True)


def gather(
    documents: Sequence[Document], position: Position, maker: ChangeMaker, mode: Mode, read: PageRead
) -> Gathered:
    """Make changes of what an answer to a position's origin brought behind the position; the first always fits."""
    rows: list[Row] = []
    places: list[_Place] = []
    size, whole, lsn = 0, True, 0
    ages = mode is Mode.ALL_VERSIONS_AND_DELETES
    for number, (document, lsn, inside) in enumerate(placed(documents, mode), 1):
        if lsn < position.lsn:
            continue
        # P3: of a run that was begun all are made, because the ids of those that follow count them.
        row = maker.make(document, lsn, read)
        if lsn == position.lsn and position.passes(lsn, inside):
            continue
        size += len(row[ITEM] or b"")
        if len(rows) == read.max_changes or (rows and size > read.max_bytes):
            whole = False
            break
        rows.append(row)
        places.append((lsn, inside, row[COMMIT_TIME] // SECOND if ages else 0, number))
    return Gathered(Columns.of_rows(rows), Positions(position, places), whole, lsn)
