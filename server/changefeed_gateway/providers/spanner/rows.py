"""Rows of a streamed result: messages hold them in pieces, cut anywhere. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

Value = Any
"""google.protobuf.Value: a list_value for arrays and structs, a string_value for most else."""

_JOINABLE: Final = ("string_value", "list_value")


class RowJoiner:
    """Joins what messages cut, as `PartialResultSet.chunked_value` says (google/spanner/v1/result_set.proto)."""

    def __init__(self, columns: int) -> None:
        """`columns` of each row."""
        self._columns = columns
        self._values: list[Value] = []
        self._open = False
        """The last value goes on in the next message."""

    def take(self, values: Iterable[Value], *, chunked: bool) -> Iterator[Sequence[Value]]:
        """The rows that a message completes. Raises ValueError for what cannot be joined."""
        fresh = list(values)
        if self._open and fresh:
            join(self._values[-1], fresh.pop(0))
        self._values += fresh
        self._open = (chunked and bool(self._values)) or (self._open and not fresh and chunked)
        whole = len(self._values) - (1 if self._open else 0)
        rows = whole // self._columns
        for number in range(rows):
            yield self._values[number * self._columns : (number + 1) * self._columns]
        del self._values[: rows * self._columns]

    @property
    def complete(self) -> bool:
        """Nothing that was begun is missing."""
        return not self._values


def plain(value: Value) -> Any:
    """A value as JSON has it: most types are texts. Raises ValueError for a struct."""
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            return value.number_value
        case "bool_value":
            return value.bool_value
        case "list_value":
            return [plain(member) for member in value.list_value.values]
        case "null_value":
            return None
        case _:
            raise ValueError("a value of a kind that no column has")


def join(first: Value, rest: Value) -> None:
    """Append what follows of a value that was cut. Raises ValueError for what cannot be cut."""
    kind = first.WhichOneof("kind")
    if kind not in _JOINABLE or rest.WhichOneof("kind") != kind:
        raise ValueError("a value was cut that cannot be")
    if kind == "string_value":
        first.string_value += rest.string_value
        return
    members, more = first.list_value.values, list(rest.list_value.values)
    if members and more:
        last, following = members[-1].WhichOneof("kind"), more[0].WhichOneof("kind")
        if last in _JOINABLE and last == following:
            join(members[-1], more.pop(0))
    members.extend(more)
