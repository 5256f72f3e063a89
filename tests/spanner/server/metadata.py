"""INFORMATION_SCHEMA, and the rows of tables: SQLite carries the statements out, on copies."""

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from google.protobuf import json_format, struct_pb2

from tests.spanner.server import errors
from tests.spanner.server.behaviour import Behaviour
from tests.spanner.server.clock import rfc3339
from tests.spanner.server.database import Database
from tests.spanner.server.encoding import RowType
from tests.spanner.server.schema import Column, Table

_NOW = re.compile(r"\s*SELECT\s+CURRENT_TIMESTAMP\s*(\(\s*\))?(?:\s+AS\s+(\w+))?\s*;?\s*", re.IGNORECASE)
_BOOLEANS = frozenset({"all", "all_columns"})
_INTEGERS = frozenset({"ordinal_position"})
_CAST = re.compile(r"CAST\(\s*([\w.`]+)\s+AS\s+STRING\s*\)", re.IGNORECASE)
_POSTGRES_CAST = re.compile(r'((?:\w+\.)?(?:\w+|"\w+"))::(?:text|varchar)', re.IGNORECASE)
_MISSING = re.compile(r"no such table: (?:\w+\.)?(\w+)")


@dataclass(frozen=True)
class Result:
    """The type of a row, and the rows one after another."""

    row_type: Any
    values: list[struct_pb2.Value]


def answer(database: Database, sql: str, parameters: Mapping[str, Any], *, now: int) -> Result:
    """Carry a statement out. Raises INVALID_ARGUMENT for what this is too small for."""
    if match := _NOW.fullmatch(sql):
        if bool(match[1]) is database.postgres:
            raise errors.invalid('[ERROR] syntax error at or near ")"' if match[1] else "Syntax error: Unexpected end")
        name = match[2] or ("current_timestamp" if database.postgres else "")
        return Result(row_type([(name, {"code": "TIMESTAMP"})]), [struct_pb2.Value(string_value=rfc3339(now))])
    try:
        return _by_sqlite(database, sql, parameters)
    except sqlite3.Error as error:
        raise _refusal(error, postgres=database.postgres) from error


def _by_sqlite(database: Database, sql: str, parameters: Mapping[str, Any]) -> Result:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("ATTACH ':memory:' AS information_schema")
        for view, (columns, rows) in _views(database).items():
            _fill(connection, f"information_schema.{view}", columns, rows)
        for table in database.tables.values():
            _fill(connection, table.name, [c.name for c in table.columns], _stored_rows(database, table))
        bound = {name.removeprefix("p") if database.postgres else name: value for name, value in parameters.items()}
        cursor = connection.execute(_translated(sql, postgres=database.postgres), bound)
        names = [column[0] for column in cursor.description or ()]
        found = cursor.fetchall()
    finally:
        connection.close()
    tables = [] if "information_schema" in sql.lower() else list(database.tables.values())
    types = [
        _type(tables, name, [row[place] for row in found], postgres=database.postgres)
        for place, name in enumerate(names)
    ]
    values = [_value(value, kind) for row in found for value, kind in zip(row, types, strict=True)]
    return Result(row_type(list(zip(names, types, strict=True))), values)


def _translated(sql: str, *, postgres: bool) -> str:
    """Say casts to text as SQLite does."""
    if postgres:
        return _POSTGRES_CAST.sub(r"CAST(\1 AS TEXT)", sql)
    return _CAST.sub(lambda match: _google_sql_text(match[1]), sql)


def _google_sql_text(column: str) -> str:
    if column.rpartition(".")[2].strip("`").lower() in _BOOLEANS:
        return f"CASE {column} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END"
    return f"CAST({column} AS TEXT)"


def _fill(connection: sqlite3.Connection, name: str, columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> None:
    quoted = ", ".join(f'"{column}"' for column in columns)
    connection.execute(f"CREATE TABLE {name} ({quoted})")
    places = ", ".join("?" for _ in columns)
    connection.executemany(f"INSERT INTO {name} VALUES ({places})", rows)


# --- The views


def _views(database: Database) -> dict[str, tuple[list[str], Iterator[Sequence[Any]]]]:
    schema = "public" if database.postgres else ""
    stream = ["change_stream_catalog", "change_stream_schema", "change_stream_name"]
    table = ["table_catalog", "table_schema", "table_name"]
    place = ("", schema)
    views: dict[str, tuple[list[str], Iterator[Sequence[Any]]]] = {
        "change_streams": (
            [*stream, "all"],
            ((*place, s.name, _flag(database, s.watches is None)) for s in _definitions(database)),
        ),
        "change_stream_tables": (
            [*stream, *table, "all_columns"],
            (
                (*place, s.name, *place, name, _flag(database, columns is None))
                for s in _definitions(database)
                for name, columns in (s.watches or {}).items()
            ),
        ),
        "change_stream_columns": (
            [*stream, *table, "column_name"],
            (
                (*place, s.name, *place, name, column)
                for s in _definitions(database)
                for name, columns in (s.watches or {}).items()
                for column in columns or ()
            ),
        ),
        "change_stream_options": (
            [*stream, "option_name", "option_type", "option_value"],
            (
                (*place, s.name, name, _option_type(database, value), _option_value(value))
                for s in _definitions(database)
                for name, value in s.options.items()
            ),
        ),
        "database_options": (
            ["catalog_name", "schema_name", "option_name", "option_type", "option_value"],
            ((*place, name, _option_type(database, ""), value) for name, value in _database_options(database)),
        ),
        "tables": (
            [*table, "table_type", "parent_table_name", "spanner_state"],
            ((*place, t.name, "BASE TABLE", None, "COMMITTED") for t in database.tables.values()),
        ),
        "columns": (
            [*table, "column_name", "ordinal_position", "is_nullable", "data_type", "spanner_type", "is_generated"],
            (
                (*place, t.name, c.name, t.ordinal(c.name), _nullable(database, t, c), *_sql_types(database, c),
                 "NEVER")
                for t in database.tables.values()
                for c in t.columns
            ),
        ),
        "index_columns": (
            [*table, "index_name", "index_type", "column_name", "ordinal_position", "column_ordering", "is_nullable",
             "spanner_type"],
            (
                (*place, t.name, "PRIMARY_KEY", "PRIMARY_KEY", name, number, "ASC",
                 _nullable(database, t, t.column(name)), _sql_types(database, t.column(name))[1])
                for t in database.tables.values()
                for number, name in enumerate(t.key, 1)
            ),
        ),
        "key_column_usage": (
            ["constraint_catalog", "constraint_schema", "constraint_name", *table, "column_name", "ordinal_position",
             "position_in_unique_constraint"],
            (
                (*place, f"PK_{t.name}", *place, t.name, name, number, None)
                for t in database.tables.values()
                for number, name in enumerate(t.key, 1)
            ),
        ),
        "table_constraints": (
            ["constraint_catalog", "constraint_schema", "constraint_name", *table, "constraint_type"],
            ((*place, f"PK_{t.name}", *place, t.name, "PRIMARY KEY") for t in database.tables.values()),
        ),
    }  # fmt: skip
    return {
        name: (columns if database.postgres else [column.upper() for column in columns], rows)
        for name, (columns, rows) in views.items()
    }


def _definitions(database: Database) -> Iterator[Any]:
    return (stream.definition for stream in database.streams.values())


def _flag(database: Database, value: bool) -> Any:
    return ("YES" if value else "NO") if database.postgres else value


def _option_type(database: Database, value: str | bool) -> str:
    if isinstance(value, bool):
        return "boolean" if database.postgres else "BOOL"
    return "character varying" if database.postgres else "STRING"


def _option_value(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else value


def _dialect(database: Database) -> str:
    return "POSTGRESQL" if database.postgres else "GOOGLE_STANDARD_SQL"


def _database_options(database: Database) -> Iterator[tuple[str, str]]:
    yield "database_dialect", _dialect(database)
    if database.version_retention != Behaviour().version_retention:
        yield "version_retention_period", f"{database.version_retention // timedelta(seconds=1)}s"


def _nullable(database: Database, table: Table, column: Column) -> str:
    return "NO" if database.postgres and column.name in table.key else "YES"


def _sql_types(database: Database, column: Column) -> tuple[str | None, str]:
    name = column.sql_type(postgres=database.postgres)
    if not database.postgres:
        return None, name
    name = name.replace("varchar", "character varying").replace("timestamptz", "timestamp with time zone")
    return ("ARRAY" if column.is_array else name), name


# --- Rows


def _stored_rows(database: Database, table: Table) -> Iterator[Sequence[Any]]:
    for row in database.rows[table.name].values():
        yield [_for_sqlite(column, row[column.name]) for column in table.columns]


def _for_sqlite(column: Column, value: Any) -> Any:
    if value is None:
        return None
    if column.is_array:
        return json.dumps(value)
    return int(value) if column.element == "INT64" else value


def _type(tables: Sequence[Table], name: str, values: Sequence[Any], *, postgres: bool) -> dict[str, Any]:
    if name.lower() in _INTEGERS:
        return {"code": "INT64"}
    if name.lower() in _BOOLEANS:
        return {"code": "STRING" if postgres else "BOOL"}
    for table in tables:
        for column in table.columns:
            if column.name == name:
                return api_type(column.type_code(postgres=postgres))
    return {"code": "INT64" if any(isinstance(value, int) for value in values) else "STRING"}


def api_type(code: Mapping[str, Any]) -> dict[str, Any]:
    """A column's type as the API has it."""
    made = {"code": code["code"]}
    if "type_annotation" in code:
        made["typeAnnotation"] = code["type_annotation"]
    if "array_element_type" in code:
        made["arrayElementType"] = api_type(code["array_element_type"])
    return made


def _value(value: Any, kind: Mapping[str, Any]) -> struct_pb2.Value:
    if value is None:
        return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
    match kind["code"]:
        case "ARRAY":
            return json_format.Parse(value, struct_pb2.Value())
        case "BOOL":
            return struct_pb2.Value(bool_value=bool(value))
        case "FLOAT64" | "FLOAT32" if isinstance(value, float):
            return struct_pb2.Value(number_value=value)
        case _:
            return struct_pb2.Value(string_value=str(value))


def row_type(columns: Sequence[tuple[str, Mapping[str, Any]]]) -> Any:
    """The type of rows with such columns."""
    fields = [{"name": name, "type": kind} for name, kind in columns]
    return json_format.ParseDict({"fields": fields}, RowType())


def _refusal(error: sqlite3.Error, *, postgres: bool) -> errors.ServiceError:
    if match := _MISSING.search(str(error)):
        return errors.invalid(
            f'[ERROR] relation "{match[1]}" does not exist' if postgres else f"Table not found: {match[1]} [at 1:1]"
        )
    return errors.invalid(f"Syntax error: the server of the tests does not carry this out: {error}")
