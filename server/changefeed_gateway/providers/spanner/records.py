"""The records of a change stream, from rows of either dialect. Pure."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from changefeed_gateway.providers.spanner import instants
from changefeed_gateway.providers.spanner.rows import Value


class Mod(NamedTuple):
    """One modified row, as JSON texts."""

    keys: str
    new_values: str


class DataRecord(NamedTuple):
    """Modifications of one table in one transaction, of one kind."""

    time: int
    """When it was committed, in nanoseconds."""
    transaction: str
    record: str
    """The number of the record within its transaction."""
    table: str
    mods: Sequence[Mod]
    mod_type: str
    columns: int
    """How many its rows have, the key's among them, of those that the stream watched at its time."""
    capture: str
    """What its values hold: the value capture type of its time."""
    tag: str
    """Of the transaction."""
    system: bool
    """Spanner's own transaction, such as one that deletes what has expired."""

    @property
    def size(self) -> int:
        """Characters of its values."""
        return sum(len(mod.keys) + len(mod.new_values) for mod in self.mods)


class Heartbeat(NamedTuple):
    """Everything committed up to a time was given."""

    time: int


class Descendant(NamedTuple):
    """A partition that goes on where one ends."""

    token: str
    parents: tuple[str, ...]
    time: int
    """When it begins, in nanoseconds."""


class Children(NamedTuple):
    """What goes on where a partition ends; of an initial query, what there is at its time."""

    partitions: tuple[Descendant, ...]


Record = DataRecord | Heartbeat | Children


def google_records(row: Sequence[Value]) -> Iterator[Record]:
    """The records of a row in GoogleSQL: an array of structs, each with three arrays.

    Fields are in the order in which Spanner documents them. Raises ValueError, IndexError.
    """
    for change in row[0].list_value.values:
        data, heartbeats, children = (field.list_value.values for field in change.list_value.values)
        for record in data:
            yield _google_data(record.list_value.values)
        for record in heartbeats:
            yield Heartbeat(instants.parse(record.list_value.values[0].string_value))
        for record in children:
            yield _google_children(record.list_value.values)


def _google_data(fields: Any) -> DataRecord:
    mods = [mod.list_value.values for mod in fields[6].list_value.values]
    return DataRecord(
        time=instants.parse(fields[0].string_value),
        record=fields[1].string_value,
        transaction=fields[2].string_value,
        table=fields[4].string_value,
        mods=[Mod(mod[0].string_value, mod[1].string_value) for mod in mods],
        mod_type=fields[7].string_value,
        columns=len(fields[5].list_value.values),
        capture=fields[8].string_value,
        tag=fields[11].string_value,
        system=fields[12].bool_value,
    )


def _google_children(fields: Any) -> Children:
    time = instants.parse(fields[0].string_value)
    found = [child.list_value.values for child in fields[2].list_value.values]
    return Children(
        tuple(
            Descendant(child[0].string_value, _parents(p.string_value for p in child[1].list_value.values), time)
            for child in found
        )
    )


def postgres_records(row: Sequence[Value]) -> Iterator[Record]:
    """The record of a row in PostgreSQL's dialect: one JSON object. Raises ValueError, KeyError, TypeError."""
    change = json.loads(row[0].string_value)
    if "data_change_record" in change:
        yield _postgres_data(change["data_change_record"])
    if "heartbeat_record" in change:
        yield Heartbeat(instants.parse(change["heartbeat_record"]["timestamp"]))
    if "child_partitions_record" in change:
        record = change["child_partitions_record"]
        time = instants.parse(record["start_timestamp"])
        yield Children(
            tuple(
                Descendant(child["token"], _parents(child.get("parent_partition_tokens") or ()), time)
                for child in record["child_partitions"]
            )
        )


def _postgres_data(record: Any) -> DataRecord:
    return DataRecord(
        time=instants.parse(record["commit_timestamp"]),
        record=record["record_sequence"],
        transaction=record["server_transaction_id"],
        table=record["table_name"],
        mods=[Mod(_dump(mod["keys"]), _dump(mod.get("new_values") or {})) for mod in record["mods"]],
        mod_type=record["mod_type"],
        columns=len(record["column_types"]),
        capture=record["value_capture_type"],
        tag=record.get("transaction_tag") or "",
        system=bool(record.get("is_system_transaction")),
    )


def _parents(tokens: Any) -> tuple[str, ...]:
    # An initial query has none; some answers say so by one that is NULL.
    return tuple(token for token in tokens if token)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
