"""The changes of a page, field by field: a page makes thousands, and single ones are made only when somebody asks.

Texts are UTF-8, as they go on the wire and as drivers can give them: nobody looks whether they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import chain, starmap
from operator import attrgetter
from typing import Any, Final, Self, overload

from changefeed_gateway.core.model import (
    Change,
    ChangeType,
    ExactTime,
    ItemState,
    Key,
    KeyComponent,
    KeyType,
    Origin,
    PartitionId,
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = 86_400

KeyShape = tuple[tuple[str, KeyType], ...]
"""Name and type of each component of a key."""


Row = tuple[Any, ...]
"""The values of one change, in the order of the fields of `Columns`."""
ITEM: Final = 7
COMMIT_TIME: Final = 8

SECOND: Final = 1_000_000_000
"""In nanoseconds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns(Sequence[Change]):
    """What `Change` says, one sequence a field, all of one length."""

    event_ids: Sequence[bytes]
    change_types: Sequence[ChangeType]
    partition_keys: Sequence[bytes]
    sort_keys: Sequence[bytes]
    key_shapes: Sequence[KeyShape]
    key_values: Sequence[tuple[bytes, ...]]
    """The values of each key's components, in the order of its shape."""
    item_states: Sequence[ItemState]
    items: Sequence[bytes | None]
    commit_times: Sequence[int | None]
    """Nanoseconds since 1970."""
    partition_ids: Sequence[PartitionId]
    sequences: Sequence[bytes]
    origins: Sequence[Origin]
    annotations: Sequence[bytes]

    @classmethod
    def of(cls, changes: Sequence[Change]) -> "Columns":
        """The one place that adapts single changes.

        Raises UnicodeEncodeError for a text that UTF-8 has no word for, and TypeError for a naive commit time.
        """
        if isinstance(changes, Columns):
            return changes
        keys = [change.key for change in changes]
        return cls(
            event_ids=[change.event_id.encode() for change in changes],
            change_types=[change.change_type for change in changes],
            partition_keys=[key.partition_key.encode() for key in keys],
            sort_keys=[key.sort_key.encode() for key in keys],
            key_shapes=[tuple([(part.name, part.type) for part in key.components]) for key in keys],
            key_values=[tuple([part.value.encode() for part in key.components]) for key in keys],
            item_states=[change.item_state for change in changes],
            items=[None if change.item is None else change.item.encode() for change in changes],
            commit_times=[None if (at := change.commit_time) is None else _nanoseconds(at) for change in changes],
            partition_ids=[change.partition_id for change in changes],
            sequences=[change.sequence.encode() for change in changes],
            origins=[change.origin for change in changes],
            annotations=[change.annotations.encode() for change in changes],
        )

    @classmethod
    def of_rows(cls, rows: Sequence[Row]) -> "Columns":
        """Of changes whose values stand in the order of the fields."""
        return cls(**dict(zip(_COLUMNS, zip(*rows, strict=True), strict=True))) if rows else cls.of(())

    @classmethod
    def joined(cls, parts: Sequence[Sequence[Change]]) -> "Columns":
        """Several one behind the other."""
        if len(parts) == 1:
            return cls.of(parts[0])
        columns = [cls.of(part) for part in parts]
        return cls(**{name: list(chain.from_iterable(map(column, columns))) for name, column in _COLUMNS.items()})

    def chosen(self, indices: Sequence[int]) -> Self:
        """Some of them, by their places."""
        return type(self)(**{name: [column(self)[i] for i in indices] for name, column in _COLUMNS.items()})

    def rows(self) -> Iterator[Row]:
        """The values of each change."""
        return zip(*[column(self) for column in _COLUMNS.values()], strict=True)

    def __len__(self) -> int:
        return len(self.event_ids)

    @overload
    def __getitem__(self, index: int) -> Change: ...
    @overload
    def __getitem__(self, index: slice) -> "Columns": ...
    def __getitem__(self, index: "int | slice") -> "Change | Columns":
        if isinstance(index, slice):
            return Columns(**{name: column(self)[index] for name, column in _COLUMNS.items()})
        return _change(*[column(self)[index] for column in _COLUMNS.values()])

    def __iter__(self) -> Iterator[Change]:
        return starmap(_change, self.rows())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(Change.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]  # as of any sequence that can be compared with a list


_COLUMNS: Final = {field.name: attrgetter(field.name) for field in fields(Columns)}


def annotations_of(changes: Sequence[Change]) -> Sequence[bytes]:
    """The annotations of each change; no single change is put together for them."""
    if isinstance(changes, Columns):
        return changes.annotations
    return [change.annotations.encode(errors="replace") for change in changes]


def _change(
    event_id: bytes,
    change_type: ChangeType,
    partition_key: bytes,
    sort_key: bytes,
    key_shape: KeyShape,
    key_values: tuple[bytes, ...],
    item_state: ItemState,
    item: bytes | None,
    commit_time: int | None,
    partition_id: PartitionId,
    sequence: bytes,
    origin: Origin,
    annotations: bytes,
) -> Change:
    components = [
        KeyComponent(name, value.decode(), kind) for (name, kind), value in zip(key_shape, key_values, strict=True)
    ]
    return Change(
        event_id.decode(),
        change_type,
        Key(partition_key.decode(), tuple(components), sort_key.decode()),
        item_state,
        None if item is None else item.decode(),
        None if commit_time is None else _moment(commit_time),
        partition_id,
        sequence.decode(),
        origin,
        annotations.decode(),
    )


def _nanoseconds(moment: datetime) -> int:
    since = moment - _EPOCH
    whole = (since.days * _DAY + since.seconds) * 1_000_000 + since.microseconds
    return whole * 1_000 + (moment.nanoseconds if isinstance(moment, ExactTime) else 0)


def _moment(nanoseconds: int) -> datetime:
    microseconds, rest = divmod(nanoseconds, 1_000)
    moment = _EPOCH + timedelta(microseconds=microseconds)
    return ExactTime.of(moment, rest) if rest else moment
