"""What a session of a database is asked: statements, and the rows of a table as they were. Pure."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from google.cloud.spanner_v1.services.spanner import SpannerAsyncClient
from google.cloud.spanner_v1.types import ExecuteSqlRequest, ReadRequest, Type, TypeCode
from google.protobuf.struct_pb2 import NULL_VALUE, ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from changefeed_gateway.providers.spanner import instants

Ask = Callable[..., Awaitable[Any]]
"""Begins a request: a client, the session's name, and the options of the call."""

Scalar = None | bool | float | str
"""A value as the API has it: most types are texts."""

_NOTHING: Final = ListValue()
"""Where a range of keys has no end: every key begins with no values."""


class Parameter(NamedTuple):
    """A value of a statement; None is NULL."""

    value: str | None
    code: int = int(TypeCode.STRING)
    """Of its type, a `TypeCode`."""


def statement(sql: str, parameters: Mapping[str, Parameter]) -> Ask:
    """A statement, carried out on what was committed before it."""

    def ask(client: SpannerAsyncClient, session: str, **options: Any) -> Awaitable[Any]:
        request = ExecuteSqlRequest(
            session=session,
            sql=sql,
            params=_values(parameters),
            param_types={name: Type(code=parameter.code) for name, parameter in parameters.items()},
            transaction={"single_use": {"read_only": {"strong": True, "return_read_timestamp": True}}},
        )
        return client.execute_streaming_sql(request=request, **options)

    return ask


def rows_as_of(time: int, table: str, columns: Sequence[str], after: Sequence[Scalar] | None, limit: int) -> Ask:
    """The rows of a table in the order of their primary keys, as they were at a time, behind a key.

    ("Timestamp bounds: exact staleness" of Spanner's documentation.)
    """

    def ask(client: SpannerAsyncClient, session: str, **options: Any) -> Awaitable[Any]:
        begin = {"start_closed": _NOTHING} if after is None else {"start_open": _listed(after)}
        seconds, nanos = divmod(time, instants.SECOND)
        request = ReadRequest(
            session=session,
            table=table,
            columns=columns,
            key_set={"ranges": [begin | {"end_closed": _NOTHING}]},
            limit=limit,
            transaction={"single_use": {"read_only": {"read_timestamp": Timestamp(seconds=seconds, nanos=nanos)}}},
        )
        return client.streaming_read(request=request, **options)

    return ask


def _values(parameters: Mapping[str, Parameter]) -> Struct:
    return Struct(fields={name: _value(parameter.value) for name, parameter in parameters.items()})


def _listed(values: Sequence[Scalar]) -> ListValue:
    return ListValue(values=[_value(value) for value in values])


def _value(value: Scalar) -> Value:
    match value:
        case None:
            return Value(null_value=NULL_VALUE)
        case bool():
            return Value(bool_value=value)
        case str():
            return Value(string_value=value)
        case _:
            return Value(number_value=value)
