"""Cursors that are made when somebody asks for them: most pages are not cut."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, overload

from changefeed_gateway.core.model import Cursor

_Place = TypeVar("_Place")


class LazyCursors(Sequence[Cursor], Generic[_Place]):
    """The cursors of some places, such as positions, none of them made before it is asked for."""

    __slots__ = ("_make", "_places")

    def __init__(self, places: Sequence[_Place], make: Callable[[_Place], Cursor]) -> None:
        """`make` is called each time that a cursor is asked for."""
        self._places, self._make = places, make

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Cursor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Cursor]: ...
    def __getitem__(self, index: int | slice) -> Cursor | Sequence[Cursor]:
        if isinstance(index, slice):
            return LazyCursors(self._places[index], self._make)
        return self._make(self._places[index])
