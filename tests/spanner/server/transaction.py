"""What one transaction does to the rows, and the records that a change stream makes of it."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tests.spanner.server.partition import DataRecord, Mod, Partition
from tests.spanner.server.schema import Column, StreamDefinition, Table
from tests.spanner.server.stream import HASHES, ChangeStream
from tests.spanner.server.values import Row, key_place, told

MOD_TYPES = {(False, True): "INSERT", (True, True): "UPDATE", (True, False): "DELETE"}
WHOLE_ROWS = frozenset({"NEW_ROW", "NEW_ROW_AND_OLD_VALUES"})
OLD_VALUES = frozenset({"OLD_AND_NEW_VALUES", "NEW_ROW_AND_OLD_VALUES"})


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What is said of a transaction as a whole."""

    timestamp: int
    transaction_id: str
    tag: str = ""
    system: bool = False
    expiry: bool = False
    excluded: bool = False
    """Asked to be kept out of the streams that allow this."""


@dataclass(frozen=True, kw_only=True)
class RowChange:
    """The sum of what a transaction does to one row. `touched` are the columns that it writes, changed or not."""

    table: Table
    old: Row | None
    new: Row | None
    touched: frozenset[str]
    rewritten: bool = False
    """REPLACE over a row: a new row all the same."""

    @property
    def mod_type(self) -> str:
        return MOD_TYPES[self.old is not None and not self.rewritten, self.new is not None]

    @property
    def key(self) -> tuple[Any, ...]:
        row = self.new if self.new is not None else self.old
        assert row is not None
        return tuple(row[name] for name in self.table.key)

    @property
    def sort_key(self) -> tuple[Any, ...]:
        return key_place(self.table, self.key)

    @property
    def place(self) -> int:
        """Where the row lies among the hashes."""
        text = json.dumps([self.table.name, *self.key])
        return int.from_bytes(hashlib.md5(text.encode()).digest()[:2]) % HASHES


def publish(stream: ChangeStream, commit: Commit, changes: Iterable[RowChange], *, emulated: bool) -> None:
    """Add the records of a transaction to a change stream."""
    made = list(_grouped(stream, commit, changes))
    partitions = [partition.token for partition, *_ in made]
    for sequence, (partition, mod_type, table, columns, mods) in enumerate(made):
        record = DataRecord(
            commit_timestamp=commit.timestamp,
            record_sequence=sequence,
            server_transaction_id=commit.transaction_id,
            is_last=partition.token not in partitions[sequence + 1 :],
            table=table.name,
            columns=tuple((column, column.name in table.key, table.ordinal(column.name)) for column in columns),
            mods=tuple(_mod(stream, change, columns, emulated=emulated) for change in mods),
            mod_type=mod_type,
            value_capture_type=stream.value_capture_type,
            records_in_transaction=len(made),
            partitions_in_transaction=len(set(partitions)),
            transaction_tag=commit.tag,
            is_system_transaction=commit.system,
        )
        stream.append(partition, record)


_Group = tuple[Partition, str, Table, tuple[Column, ...], Sequence[RowChange]]


def _grouped(stream: ChangeStream, commit: Commit, changes: Iterable[RowChange]) -> Iterable[_Group]:
    """Runs of rows that fit into one record: the same partition, table, kind and columns."""
    if commit.excluded and stream.definition.options.get("allow_txn_exclusion"):
        return
    if commit.expiry and stream.definition.options.get("exclude_ttl_deletes"):
        return

    def place(change: RowChange) -> tuple[Partition, str, Table, tuple[Column, ...]] | None:
        columns = _columns(stream.definition, stream.value_capture_type, change)
        return None if columns is None else (stream.partition_of(change.place), change.mod_type, change.table, columns)

    # As in the emulator, an update that is not shown for its columns ends a run, a kind that is not shown does not.
    shown = (change for change in changes if not stream.definition.options.get(f"exclude_{change.mod_type.lower()}"))
    for head, run in groupby(shown, place):
        if head is not None:
            yield *head, list(run)


def _columns(definition: StreamDefinition, capture: str, change: RowChange) -> tuple[Column, ...] | None:
    """The columns that a record of the change has; None when the stream does not show it."""
    watched = definition.columns(change.table)
    if watched is None:
        return None
    # The emulator records every update of a row where rows are captured whole, whichever columns it names.
    if change.mod_type != "UPDATE" or capture in WHOLE_ROWS:
        return tuple(watched)
    touched = [column for column in watched if column.name in change.touched or column.name in change.table.key]
    return tuple(touched) if len(touched) > len(change.table.key) else None


def _mod(stream: ChangeStream, change: RowChange, columns: Sequence[Column], *, emulated: bool) -> Mod:
    capture = stream.value_capture_type
    values = [column for column in columns if column.name not in change.table.key]
    old: Sequence[Column] = ()
    if capture in OLD_VALUES and change.mod_type != "INSERT":
        old = [c for c in values if change.mod_type == "DELETE" or c.name in change.touched]
    nothing = capture in OLD_VALUES and change.mod_type == "UPDATE" and not old
    row = change.new if change.new is not None else change.old
    assert row is not None
    key = [change.table.column(name) for name in change.table.key]
    return Mod(
        keys=_object(key, row, emulated=emulated),
        new_values=_object(values, change.new, emulated=emulated),
        # The emulator has null here, not {}, for an update of nothing.
        old_values="null" if nothing else _object(old, change.old, emulated=emulated),
    )


def _object(columns: Sequence[Column], row: Mapping[str, Any] | None, *, emulated: bool) -> str:
    if row is None:
        return "{}"
    found = {column.name: told(column, row[column.name], emulated=emulated) for column in columns}
    return json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
