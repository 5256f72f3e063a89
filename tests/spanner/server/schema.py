"""What a database consists of, and the DDL that makes the same on the emulator."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

POSTGRES_TYPES = {
    "BOOL": "boolean",
    "BYTES": "bytea",
    "DATE": "date",
    "FLOAT32": "real",
    "FLOAT64": "double precision",
    "INT64": "bigint",
    "JSON": "jsonb",
    "NUMERIC": "numeric",
    "STRING": "varchar",
    "TIMESTAMP": "timestamptz",
}
ANNOTATIONS = {"NUMERIC": "PG_NUMERIC", "JSON": "PG_JSONB"}
SIZED = frozenset({"STRING", "BYTES"})


@dataclass(frozen=True)
class Column:
    """Its type is a type code, such as INT64, or ARRAY<INT64>."""

    name: str
    type: str

    @property
    def element(self) -> str:
        """The type code of the values: of the elements, when it is an array."""
        return self.type.removeprefix("ARRAY<").removesuffix(">")

    @property
    def is_array(self) -> bool:
        return self.type.startswith("ARRAY<")

    def type_code(self, *, postgres: bool) -> dict[str, object]:
        """The type as `column_types` has it."""
        inner: dict[str, object] = {"code": self.element}
        if postgres and self.element in ANNOTATIONS:
            inner["type_annotation"] = ANNOTATIONS[self.element]
        return {"array_element_type": inner, "code": "ARRAY"} if self.is_array else inner

    def sql_type(self, *, postgres: bool) -> str:
        """The type in DDL."""
        if postgres:
            return POSTGRES_TYPES[self.element] + ("[]" if self.is_array else "")
        name = f"{self.element}(MAX)" if self.element in SIZED else self.element
        return f"ARRAY<{name}>" if self.is_array else name


@dataclass(frozen=True)
class Table:
    """Columns in their order, and which of them are the primary key."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    def column(self, name: str) -> Column:
        """A column by its name. Raises KeyError."""
        return next((column for column in self.columns if column.name == name), None) or _missing(name)

    def ordinal(self, name: str) -> int:
        """The place of a column, from one."""
        return self.columns.index(self.column(name)) + 1

    def ddl(self, *, postgres: bool) -> str:
        columns = ", ".join(f"{column.name} {column.sql_type(postgres=postgres)}" for column in self.columns)
        key = ", ".join(self.key)
        if postgres:
            return f"CREATE TABLE {self.name} ({columns}, PRIMARY KEY ({key}))"
        return f"CREATE TABLE {self.name} ({columns}) PRIMARY KEY ({key})"


@dataclass(frozen=True)
class StreamDefinition:
    """A change stream: what it watches, and the options that were set; an option that was not has no row anywhere."""

    name: str
    watches: Mapping[str, Sequence[str] | None] | None = None
    """Of each table the columns beside the key, None for all; None instead of tables watches everything."""
    options: Mapping[str, str | bool] = field(default_factory=dict)

    def columns(self, table: Table) -> list[Column] | None:
        """The columns that are watched, the key's among them; None when the table is not."""
        if self.watches is None:
            return list(table.columns)
        if table.name not in self.watches:
            return None
        chosen = self.watches[table.name]
        return [c for c in table.columns if chosen is None or c.name in table.key or c.name in chosen]

    def ddl(self, *, postgres: bool) -> str:
        text = f"CREATE CHANGE STREAM {self.name} FOR {self._watched()}"
        if self.options:
            quoted = ", ".join(f"{name} = {_literal(value)}" for name, value in self.options.items())
            text += f" {'WITH' if postgres else 'OPTIONS'} ({quoted})"
        return text

    def _watched(self) -> str:
        if self.watches is None:
            return "ALL"
        return ", ".join(
            name if columns is None else f"{name}({', '.join(columns)})" for name, columns in self.watches.items()
        )


def table(name: str, key: str | Sequence[str], **columns: str) -> Table:
    """A table from the types of its columns, such as `table("things", "id", id="INT64", tags="ARRAY<STRING>")`."""
    made = tuple(Column(column, kind) for column, kind in columns.items())
    assert all(re.fullmatch(r"\w+|ARRAY<\w+>", column.type) for column in made), made
    return Table(name, made, (key,) if isinstance(key, str) else tuple(key))


def _literal(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else f"'{value}'"


def _missing(name: str) -> Column:
    raise KeyError(name)
