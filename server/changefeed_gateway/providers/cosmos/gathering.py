"""From the documents of one answer to a page: how many fit, and the position after each. Pure."""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple, overload

from changefeed_gateway.core.columns import COMMIT_TIME, ITEM, SECOND, Columns, Row
from changefeed_gateway.core.errors import ProviderFailure
from changefeed_gateway.core.model import Change, PageRead
from changefeed_gateway.providers.cosmos.cursor import Mode, Position
from changefeed_gateway.providers.cosmos.errors import lowered
from changefeed_gateway.providers.cosmos.mapping import ChangeMaker, Document, placed

_A_TURN: Final = 250
"""Documents of which changes are made in one turn of the loop: some 3 ms."""

_CLOCKS_DIFFER: Final = 60
"""Seconds between the clocks of the service's hosts, at most."""

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


async def gather(
    documents: Sequence[Document], position: Position, maker: ChangeMaker, mode: Mode, read: PageRead
) -> Gathered:
    """Make changes of what an answer to a position's origin brought behind the position; the first always fits.

    Raises HistoryGap for a change that has a number which had been given before: to one that a fail-over has lost.
    """
    rows: list[Row] = []
    places: list[_Place] = []
    size, whole, lsn = 0, True, 0
    ages = mode is Mode.ALL_VERSIONS_AND_DELETES
    first = _begin(documents, position) if ages else 0
    for number, (document, lsn, inside) in enumerate(placed(documents[first:], mode), first + 1):
        if lsn <= position.lsn and ages and _is_of_later(document, position):
            raise lowered()
        if lsn < position.lsn:
            continue
        # P3: of a run that was begun all are made, because the ids of those that follow count them.
        row = maker.make(document, lsn, read)
        if number % _A_TURN == 0:
            await asyncio.sleep(0)
        if lsn == position.lsn and position.passes(lsn, inside):
            continue
        size += len(row[ITEM] or b"")
        if len(rows) == read.max_changes or (rows and size > read.max_bytes):
            whole = False
            break
        rows.append(row)
        places.append((lsn, inside, row[COMMIT_TIME] // SECOND if ages else 0, number))
    return Gathered(Columns.of_rows(rows), Positions(position, places), whole, lsn)


def _begin(documents: Sequence[Document], position: Position) -> int:
    """How many of the first documents a reader need not look at: those before the run in which it stands."""
    first = min(position.passed, len(documents))
    if not first or _lsn(documents[first - 1]) != position.lsn:
        return 0
    while first and _lsn(documents[first - 1]) == position.lsn:
        first -= 1
    return first


def _is_of_later(document: Document, position: Position) -> bool:
    """Whether a change was made when a position had long been passed."""
    made = document["metadata"].get("crts")
    return bool(position.as_of) and isinstance(made, int) and made > position.as_of + _CLOCKS_DIFFER


def _lsn(document: Document) -> int:
    try:
        return int(document["metadata"]["lsn"])
    except (KeyError, TypeError, ValueError) as error:
        raise ProviderFailure("a document of the change feed does not say its number") from error
