"""One database: its tables with their rows, its change streams, and its transactions."""

import base64
import hashlib
import itertools
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from tests.spanner.server import errors
from tests.spanner.server.behaviour import Behaviour
from tests.spanner.server.clock import Clock, nanoseconds
from tests.spanner.server.schema import StreamDefinition, Table
from tests.spanner.server.stream import ChangeStream
from tests.spanner.server.transaction import Commit, RowChange, publish
from tests.spanner.server.values import Row, key_place, stored

Mutation = Mapping[str, Any]
"""As the API's JSON has it: `{"insert": {"table": ..., "columns": [...], "values": [[...]]}}`, `update`,
`insert_or_update`, `replace`, or `{"delete": {"table": ..., "key_set": {"keys": [[...]]}}}`."""

Rows = dict[tuple[Any, ...], Row]


class _Version(NamedTuple):
    """What a row was from a time on; None once it was deleted."""

    time: int
    row: Row | None


@dataclass
class _Pending:
    old: Row | None
    new: Row | None
    touched: set[str]
    rewritten: bool = False


class Database:
    """Not safe for threads: one event loop uses it."""

    def __init__(self, path: str, *, postgres: bool, clock: Clock, behaviour: Behaviour) -> None:
        self.path = path
        self.postgres = postgres
        self.tables: dict[str, Table] = {}
        self.rows: dict[str, Rows] = {}
        self.streams: dict[str, ChangeStream] = {}
        self._versions: dict[str, dict[tuple[Any, ...], list[_Version]]] = {}
        """What the rows of a table were, the latest last."""
        self._made: dict[str, int] = {}
        """When a table was."""
        self._clock = clock
        self._behaviour = behaviour
        self._transactions = itertools.count(2)

    # --- Schema

    def create_table(self, *tables: Table) -> None:
        for table in tables:
            assert table.name not in self.tables
            self.tables[table.name] = table
            self.rows[table.name] = {}
            self._versions[table.name] = {}
            self._made[table.name] = self._clock.tick()

    def drop_table(self, name: str) -> None:
        del self.tables[name], self.rows[name], self._versions[name], self._made[name]

    def create_stream(self, definition: StreamDefinition) -> ChangeStream:
        assert definition.name not in self.streams
        stream = ChangeStream(definition, postgres=self.postgres, clock=self._clock, behaviour=self._behaviour)
        self.streams[definition.name] = stream
        return stream

    def drop_stream(self, name: str) -> None:
        """Its data are gone, and queries of it end."""
        stream = self.streams.pop(name)
        stream.dropped = True
        stream.changed.ring()

    def stream(self, name: str) -> ChangeStream:
        """A change stream by its name. Raises what the dialect says when there is none."""
        if (stream := self.streams.get(name)) is None:
            raise errors.no_function(name, postgres=self.postgres)
        return stream

    # --- Reads

    @property
    def version_retention(self) -> timedelta:
        """How long rows can be read as they were."""
        return self._behaviour.version_retention

    def rows_at(self, name: str, time: int) -> list[Row]:
        """A table as it was, in the order of its keys. Raises NOT_FOUND and FAILED_PRECONDITION."""
        if time < self._clock.now() - nanoseconds(self._behaviour.version_retention):
            raise errors.too_stale(time)
        if name not in self.tables or time < self._made[name]:
            raise errors.not_found(f"Table not found: {name}")
        table = self.tables[name]
        found = [
            row
            for versions in self._versions[name].values()
            if (row := next((v.row for v in reversed(versions) if v.time <= time), None)) is not None
        ]
        return sorted(found, key=lambda row: key_place(table, [row[column] for column in table.key]))

    # --- Transactions

    def commit(self, mutations: Iterable[Mutation], *, at: int | None = None, **said: Any) -> Commit:
        """Carry mutations out as one transaction; `said` goes into the `Commit`. Raises what Commit answers."""
        now = at if at is not None else self._commit_timestamp()
        pending: dict[str, dict[tuple[Any, ...], _Pending]] = {}
        for mutation in mutations:
            for operation, body in mutation.items():
                self._apply(pending.setdefault(self._table(body).name, {}), operation, body, now)
        changes = [change for name, found in pending.items() for change in self._settle(self.tables[name], found)]
        for change in changes:
            versions = self._versions[change.table.name].setdefault(change.key, [])
            insort(versions, _Version(now, change.new), key=lambda version: version.time)
            if change.new is None:
                del self.rows[change.table.name][change.key]
            else:
                self.rows[change.table.name][change.key] = change.new
        commit = Commit(timestamp=now, transaction_id=self._transaction_id(), **said)
        for stream in self.streams.values():
            publish(stream, commit, changes, emulated=self._behaviour.emulated_values)
            stream.changed.ring()
        return commit

    # --- Inside

    def _commit_timestamp(self) -> int:
        return self._clock.tick() + (123 if self._behaviour.nanoseconds else 0)

    def _transaction_id(self) -> str:
        number = str(next(self._transactions))
        if not self._behaviour.opaque_transactions:
            return number
        return base64.b64encode(hashlib.md5(number.encode()).digest()[:12]).decode()

    def _table(self, body: Mapping[str, Any]) -> Table:
        if (table := self.tables.get(body["table"])) is None:
            raise errors.not_found(f"Table not found: {body['table']}")
        return table

    def _apply(
        self, pending: dict[tuple[Any, ...], _Pending], operation: str, body: Mapping[str, Any], now: int
    ) -> None:
        table = self._table(body)
        if operation == "delete":
            for key in self._keys(table, body["key_set"], now):
                self._row(table, pending, key).new = None
            return
        for values in body["values"]:
            row = self._stored(table, body["columns"], values, now)
            key = tuple(row[name] for name in table.key)
            self._write(table, self._row(table, pending, key), operation, row, key)

    def _write(self, table: Table, found: _Pending, operation: str, row: Row, key: tuple[Any, ...]) -> None:
        if operation == "insert" and found.new is not None:
            raise errors.already_exists(table.name, key)
        if operation == "update" and found.new is None:
            raise errors.no_row(table.name, key)
        if operation == "replace" or found.new is None:
            found.rewritten = True
            found.new = {column.name: None for column in table.columns} | dict(row)
            found.touched |= {column.name for column in table.columns}
        else:
            found.new = {**found.new, **row}
            found.touched |= set(row)

    def _row(self, table: Table, pending: dict[tuple[Any, ...], _Pending], key: tuple[Any, ...]) -> _Pending:
        if key not in pending:
            row = self.rows[table.name].get(key)
            pending[key] = _Pending(row, row, set())
        return pending[key]

    def _keys(self, table: Table, key_set: Mapping[str, Any], now: int) -> list[tuple[Any, ...]]:
        if key_set.get("all"):
            return list(self.rows[table.name])
        assert not key_set.get("ranges"), "ranges of keys are not supported"
        return [
            tuple(self._stored(table, table.key, values, now)[name] for name in table.key)
            for values in key_set.get("keys", ())
        ]

    def _stored(self, table: Table, columns: Sequence[str], values: Sequence[Any], now: int) -> Row:
        return {
            name: stored(table.column(name), value, postgres=self.postgres, now=now)
            for name, value in zip(columns, values, strict=True)
        }

    def _settle(self, table: Table, pending: Mapping[tuple[Any, ...], _Pending]) -> list[RowChange]:
        """The changes in the order of the keys; what came and went in one transaction is none."""
        changes = [
            RowChange(
                table=table,
                old=p.old,
                new=p.new,
                touched=frozenset(p.touched),
                rewritten=p.rewritten and p.new is not None,
            )
            for p in pending.values()
            if p.old is not None or p.new is not None
        ]
        return sorted(
            (change for change in changes if change.new is None or change.touched), key=lambda change: change.sort_key
        )
