"""From modifications to changes. Pure.

An item is the row as Spanner writes it in JSON: the key's columns and then the others, INT64 and NUMERIC as strings,
BYTES as base64, a JSON column as a string that holds its text. Nothing is converted, so nothing loses a digit.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from changefeed_gateway.core.model import (
    Change,
    ChangeType,
    ItemState,
    Key,
    KeyComponent,
    KeyType,
    Origin,
    PageRead,
    PartitionId,
)
from changefeed_gateway.providers.spanner import instants
from changefeed_gateway.providers.spanner.records import DataRecord

_CHANGE_TYPES: Final = {"INSERT": ChangeType.CREATE, "UPDATE": ChangeType.UPDATE, "DELETE": ChangeType.DELETE}
WHOLE_ROWS: Final = ("NEW_ROW", "NEW_ROW_AND_OLD_VALUES")
"""Value capture types whose records hold the row as the change left it."""


class KeyColumn(NamedTuple):
    """A column of a table's primary key."""

    name: str
    type: KeyType


class TakenMod(NamedTuple):
    """One modification of a record."""

    record: DataRecord
    place: int
    """Of the modification, from 0."""


def has_fewer(record: DataRecord, columns: int) -> bool:
    """Whether the rows of a record, which are to be whole, have fewer columns than some."""
    return record.columns < columns and record.mod_type != "DELETE" and record.capture in WHOLE_ROWS


class ChangeMaker:
    """Makes the changes of one table in one partition."""

    def __init__(self, key: Sequence[KeyColumn], partition_id: PartitionId, *, whole: bool, columns: int) -> None:
        """`whole`: the stream watches every column of the table. `columns`: of a row that has fewer some are missing.

        0: of none, however few it has.
        """
        self._key = key
        self._partition_id = partition_id
        self._whole = whole
        self._columns = columns
        self._record: DataRecord | None = None
        self._facts: _Facts

    def make(self, taken: TakenMod, read: PageRead) -> Change:
        """The change of one modification, with its item as far as the read wants it. Raises ValueError, KeyError."""
        record, place = taken
        if record is not self._record:
            self._record, self._facts = record, _facts(record)
        change_type, commit_time, origin, annotations, prefix = self._facts
        state, item = self._item(record, place, change_type, read)
        # P3: of what Spanner numbered alone, so it is the same from any replica and in any scope.
        number = f"{prefix}{place}"
        return Change(
            number,
            change_type,
            _make_key(self._key, json.loads(record.mods[place].keys)),
            state,
            item,
            commit_time,
            self._partition_id,
            number,
            origin,
            annotations,
        )

    def _item(
        self, record: DataRecord, place: int, change_type: ChangeType, read: PageRead
    ) -> tuple[ItemState, str | None]:
        if change_type is ChangeType.DELETE:
            return ItemState.NOT_APPLICABLE, None
        if not read.items:
            return ItemState.OMITTED, None
        if record.capture not in WHOLE_ROWS or not self._whole or record.columns < self._columns:
            return ItemState.UNAVAILABLE, None
        mod = record.mods[place]
        item = _joined(mod.keys, mod.new_values)
        if len(item) > read.max_item_bytes or len(item.encode()) > read.max_item_bytes:
            return ItemState.TOO_LARGE, None
        return ItemState.INCLUDED, item


class ItemMaker:
    """Makes the items of a snapshot from the rows of one table as they were at one time."""

    def __init__(self, key: Sequence[KeyColumn], columns: Sequence[str], time: int, *, whole: bool) -> None:
        """`columns` of a row, the key's first. `whole`: changes carry items, and so do these."""
        self._key, self._columns, self._time, self._whole = key, columns, time, whole

    def make(self, values: Sequence[Any], read: PageRead) -> Change:
        """The item of a row, with its values as JSON has them."""
        row = dict(zip(self._columns, values, strict=True))
        key = _make_key(self._key, row)
        state, item = self._item(row, read)
        # P3: a row at a time is the same whoever reads it, and null is no empty text.
        values = [None if component.type is KeyType.NULL else component.value for component in key.components]
        digest = blake2b(_dump(values).encode(), digest_size=12)
        return Change(
            f"{self._time}.{digest.hexdigest()}", ChangeType.SNAPSHOT, key, state, item, None, PartitionId(""), ""
        )

    def _item(self, row: Mapping[str, Any], read: PageRead) -> tuple[ItemState, str | None]:
        if not read.items:
            return ItemState.OMITTED, None
        if not self._whole:
            return ItemState.UNAVAILABLE, None
        item = _dump(row)
        if len(item) > read.max_item_bytes or len(item.encode()) > read.max_item_bytes:
            return ItemState.TOO_LARGE, None
        return ItemState.INCLUDED, item


class _Facts(NamedTuple):
    """What all modifications of a record have in common."""

    change_type: ChangeType
    commit_time: datetime
    origin: Origin
    annotations: str
    prefix: str
    """Of their numbers."""


def _facts(record: DataRecord) -> _Facts:
    change_type = _CHANGE_TYPES[record.mod_type]
    return _Facts(
        change_type,
        instants.exact(record.time),
        _origin(record, change_type),
        json.dumps({"transaction_tag": record.tag}, ensure_ascii=False) if record.tag else "",
        f"{record.transaction}.{record.record}.",
    )


def _make_key(columns: Sequence[KeyColumn], values: Mapping[str, Any]) -> Key:
    listed = [_plain(values[column.name]) for column in columns]
    components = tuple([_component(column, value) for column, value in zip(columns, listed, strict=True)])
    if len(components) == 1 and components[0].type is not KeyType.NULL:
        text = components[0].value
        if not (components[0].type is KeyType.STRING and text.startswith("[")):
            return Key(text, components)
    return Key(_dump(listed), components)


def _plain(value: Any) -> Any:
    """A key's value in its one form: a whole FLOAT64 may come as 1 or as 1.0."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _component(column: KeyColumn, value: Any) -> KeyComponent:
    if value is None:
        return KeyComponent(column.name, "", KeyType.NULL)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return KeyComponent(column.name, text, column.type)


def _joined(keys: str, values: str) -> str:
    """One JSON object of the members of two, whose names differ."""
    first, second = keys.strip()[1:-1].strip(), values.strip()[1:-1].strip()
    return f"{{{first}{',' if first and second else ''}{second}}}"


def _origin(record: DataRecord, change_type: ChangeType) -> Origin:
    if not record.system:
        return Origin.APPLICATION
    # Time to live is what deletes rows in transactions of Spanner's own.
    return Origin.EXPIRY if change_type is ChangeType.DELETE else Origin.SYSTEM


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
