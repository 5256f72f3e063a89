"""StreamingRead: the rows of a table in the order of their keys, as they were at a time."""

from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf import json_format

from tests.spanner.server import encoding, errors, metadata
from tests.spanner.server.behaviour import Behaviour
from tests.spanner.server.database import Database
from tests.spanner.server.schema import Column, Table
from tests.spanner.server.values import Row, key_place, stored


def read_rows(database: Database, request: Any, *, now: int, behaviour: Behaviour) -> Iterator[bytes]:
    """The messages of an answer. Raises what the service refuses."""
    bound = request.transaction.single_use.read_only
    time = bound.read_timestamp.ToNanoseconds() if bound.HasField("read_timestamp") else now
    rows = database.rows_at(request.table, time)
    table = database.tables[request.table]
    columns = [_column(table, name) for name in request.columns]
    chosen = [row for row in rows if _within(database, table, row, request.key_set)]
    fields = [(column.name, metadata.api_type(column.type_code(postgres=database.postgres))) for column in columns]
    head = encoding.head(metadata.row_type(fields))
    limited, size = chosen[: request.limit or None], behaviour.records_per_message
    for start in range(0, len(limited), size):
        part = limited[start : start + size]
        encoded = [encoding.row(*[encoding.value(row[column.name]) for column in columns]) for row in part]
        message = b"".join([head, *encoded, *([encoding.RESUME] if behaviour.resume_tokens else [])])
        head = b""
        yield from [message] if behaviour.chunk_every is None else encoding.chunks(message, behaviour.chunk_every)
    if head:
        yield head


def _column(table: Table, name: str) -> Column:
    try:
        return table.column(name)
    except KeyError as error:
        raise errors.not_found(f"Column not found in table {table.name}: {name}") from error


def _within(database: Database, table: Table, row: Row, key_set: Any) -> bool:
    if key_set.all_:
        return True
    place = key_place(table, [row[name] for name in table.key])
    return any(_in_range(database, table, place, key_range) for key_range in key_set.ranges)


def _in_range(database: Database, table: Table, place: Sequence[Any], key_range: Any) -> bool:
    """Whether a row's key lies in a range; a bound of fewer values stands for every key that begins with them."""
    assert key_range.WhichOneof("end_key_type") == "end_closed"
    assert not key_range.end_closed.values, "ranges that end somewhere are not supported"
    kind = key_range.WhichOneof("start_key_type")
    given = json_format.MessageToDict(getattr(key_range, kind))
    bound = key_place(
        table,
        [
            stored(table.column(name), value, postgres=database.postgres, now=0)
            for name, value in zip(table.key, given, strict=False)
        ],
    )
    first = tuple(place)[: len(bound)]
    return first > bound if kind == "start_open" else first >= bound
