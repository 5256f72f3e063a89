"""Records on the wire: structs in GoogleSQL, one JSON object in the PostgreSQL dialect."""

import json
from collections.abc import Sequence
from typing import Any

from google.cloud.spanner_v1 import PartialResultSet, StructType
from google.protobuf import json_format, struct_pb2

from tests.spanner.server.clock import rfc3339
from tests.spanner.server.partition import ChildPartitions, DataRecord, Heartbeat, Record

_Raw: Any = PartialResultSet.pb()
RowType: Any = StructType.pb()

RESUME = bytes(_Raw(resume_token=b"where to go on").SerializeToString())
"""A resume token, as bytes of a message's end."""


def encode(record: Record, *, postgres: bool) -> bytes:
    """A row with a record, as bytes of a message that may be joined with others."""
    return row(struct_pb2.Value(string_value=_json(_named(record))) if postgres else value([_positional(record)]))


def row(*values: struct_pb2.Value) -> bytes:
    """Values as bytes of a message that may be joined with others."""
    return bytes(_Raw(values=values).SerializeToString())


def head(fields: Any, *, read_timestamp: int | None = None) -> bytes:
    """The metadata, as bytes of a first message."""
    message = _Raw(metadata={"row_type": fields})
    if read_timestamp is not None:
        message.metadata.transaction.read_timestamp.FromNanoseconds(read_timestamp)
    return bytes(message.SerializeToString())


def chunks(encoded: bytes, every: int) -> list[bytes]:
    """A message in pieces, of which each but the last ends in the middle of a text."""
    whole = _Raw.FromString(encoded)
    found = []
    while whole.values and (cut := _cut(whole.values[-1], every)) is not None:
        first, rest = cut
        piece = _Raw(values=[*whole.values[:-1], first], chunked_value=True)
        if whole.HasField("metadata"):
            piece.metadata.CopyFrom(whole.metadata)
        found.append(bytes(piece.SerializeToString()))
        whole = _Raw(values=[rest], resume_token=whole.resume_token)
    return [*found, bytes(whole.SerializeToString())]


def row_type(*, postgres: bool, name: str) -> Any:
    """The one column of a change stream's rows."""
    if postgres:
        column = {"name": name, "type": {"code": "JSON", "typeAnnotation": "PG_JSONB"}}
    else:
        column = {"name": "ChangeRecord", "type": _array(_CHANGE_RECORD)}
    return json_format.ParseDict({"fields": [column]}, RowType())


# --- Inside


def _positional(record: Record) -> list[Any]:
    match record:
        case DataRecord():
            return [[_data_fields(record)], [], []]
        case Heartbeat():
            return [[], [[rfc3339(record.timestamp)]], []]
        case ChildPartitions():
            children = [[child.token, list(child.parents)] for child in record.children]
            return [[], [], [[rfc3339(record.start), f"{record.record_sequence:08d}", children]]]


def _data_fields(record: DataRecord) -> list[Any]:
    return [
        rfc3339(record.commit_timestamp),
        f"{record.record_sequence:08d}",
        record.server_transaction_id,
        record.is_last,
        record.table,
        [
            [column.name, _json(column.type_code(postgres=False)), of_key, str(ordinal)]
            for column, of_key, ordinal in record.columns
        ],
        [[mod.keys, mod.new_values, mod.old_values] for mod in record.mods],
        record.mod_type,
        record.value_capture_type,
        str(record.records_in_transaction),
        str(record.partitions_in_transaction),
        record.transaction_tag,
        record.is_system_transaction,
    ]


def _named(record: Record) -> dict[str, Any]:
    match record:
        case DataRecord():
            return {"data_change_record": _data_object(record)}
        case Heartbeat():
            return {"heartbeat_record": {"timestamp": _offset(record.timestamp)}}
        case ChildPartitions():
            children = [{"token": c.token, "parent_partition_tokens": list(c.parents)} for c in record.children]
            return {
                "child_partitions_record": {
                    "start_timestamp": _offset(record.start),
                    "record_sequence": f"{record.record_sequence:08d}",
                    "child_partitions": children,
                }
            }


def _data_object(record: DataRecord) -> dict[str, Any]:
    return {
        "commit_timestamp": _offset(record.commit_timestamp),
        "record_sequence": f"{record.record_sequence:08d}",
        "server_transaction_id": record.server_transaction_id,
        "is_last_record_in_transaction_in_partition": record.is_last,
        "table_name": record.table,
        "column_types": [
            {
                "name": column.name,
                "type": column.type_code(postgres=True),
                "is_primary_key": of_key,
                "ordinal_position": ordinal,
            }
            for column, of_key, ordinal in record.columns
        ],
        "mods": [
            {
                "keys": json.loads(mod.keys),
                "new_values": json.loads(mod.new_values),
                "old_values": json.loads(mod.old_values),
            }
            for mod in record.mods
        ],
        "mod_type": record.mod_type,
        "value_capture_type": record.value_capture_type,
        "number_of_records_in_transaction": record.records_in_transaction,
        "number_of_partitions_in_transaction": record.partitions_in_transaction,
        "transaction_tag": record.transaction_tag,
        "is_system_transaction": record.is_system_transaction,
    }


def _offset(moment: int) -> str:
    return rfc3339(moment, zone="+00:00")


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def value(plain: Any) -> struct_pb2.Value:
    """A value as the API has it."""
    match plain:
        case None:
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
        case bool():
            return struct_pb2.Value(bool_value=plain)
        case float():
            return struct_pb2.Value(number_value=plain)
        case str():
            return struct_pb2.Value(string_value=plain)
        case list():
            return struct_pb2.Value(list_value=struct_pb2.ListValue(values=map(value, plain)))
        case _:
            raise TypeError(type(plain))


def _cut(value: struct_pb2.Value, after: int) -> tuple[struct_pb2.Value, struct_pb2.Value] | None:
    """Cut a value in two behind so many characters of its texts; None when it has no more."""
    if value.HasField("string_value"):
        text = value.string_value
        if len(text) <= after:
            return None
        return struct_pb2.Value(string_value=text[:after]), struct_pb2.Value(string_value=text[after:])
    if not value.HasField("list_value"):
        return None
    items: Sequence[struct_pb2.Value] = value.list_value.values
    for index, item in enumerate(items):
        if (cut := _cut(item, after)) is not None:
            first, rest = cut
            return _list([*items[:index], first]), _list([rest, *items[index + 1 :]])
        after -= _length(item)
    return None


def _list(items: Sequence[struct_pb2.Value]) -> struct_pb2.Value:
    return struct_pb2.Value(list_value=struct_pb2.ListValue(values=items))


def _length(value: struct_pb2.Value) -> int:
    if value.HasField("list_value"):
        return sum(map(_length, value.list_value.values))
    return len(value.string_value)


def _struct(**fields: Any) -> dict[str, Any]:
    return {
        "code": "STRUCT",
        "structType": {
            "fields": [
                {"name": name, "type": {"code": kind} if isinstance(kind, str) else kind}
                for name, kind in fields.items()
            ]
        },
    }


def _array(element: str | dict[str, Any]) -> dict[str, Any]:
    return {"code": "ARRAY", "arrayElementType": {"code": element} if isinstance(element, str) else element}


_CHANGE_RECORD = _struct(
    data_change_record=_array(
        _struct(
            commit_timestamp="TIMESTAMP",
            record_sequence="STRING",
            server_transaction_id="STRING",
            is_last_record_in_transaction_in_partition="BOOL",
            table_name="STRING",
            column_types=_array(_struct(name="STRING", type="JSON", is_primary_key="BOOL", ordinal_position="INT64")),
            mods=_array(_struct(keys="JSON", new_values="JSON", old_values="JSON")),
            mod_type="STRING",
            value_capture_type="STRING",
            number_of_records_in_transaction="INT64",
            number_of_partitions_in_transaction="INT64",
            transaction_tag="STRING",
            is_system_transaction="BOOL",
        )
    ),
    heartbeat_record=_array(_struct(timestamp="TIMESTAMP")),
    child_partitions_record=_array(
        _struct(
            start_timestamp="TIMESTAMP",
            record_sequence="STRING",
            child_partitions=_array(_struct(token="STRING", parent_partition_tokens=_array("STRING"))),
        )
    ),
)
