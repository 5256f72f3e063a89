"""From stream records to changes, and from attribute values to JSON. Pure.

An item is plain JSON: a string, a boolean, null, lists and maps as they are, a number as a JSON number with all its
digits. What JSON has no word for is a map with one name that begins with "$": `{"$binary": "<base64>"}`,
`{"$stringSet": [...]}`, `{"$numberSet": [...]}`, `{"$binarySet": [...]}`. A name of the item's own that begins with "$"
gets another "$" in front, so no two values share a form and each can be read back.
"""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
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

AttributeValue = Mapping[str, Any]
"""As boto3 gives it: one type letter and its value; numbers are text, binary is bytes."""
Record = Mapping[str, Any]
"""One entry of GetRecords."""

_CHANGE_TYPES: Final = {
    "INSERT": ChangeType.CREATE,
    "MODIFY": ChangeType.UPDATE,
    "REMOVE": ChangeType.DELETE,
}
_KEY_TYPES: Final = {"S": KeyType.STRING, "N": KeyType.NUMBER, "B": KeyType.BINARY}
_EXPIRY: Final = "dynamodb.amazonaws.com"
_JSON_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class KeySchema(NamedTuple):
    """Names of a table's key attributes."""

    partition_key: str
    sort_key: str | None


def key_schema(described: Sequence[Mapping[str, str]]) -> KeySchema:
    """Read a KeySchema: which attribute is HASH and which RANGE is said there alone."""
    names = {part["KeyType"]: part["AttributeName"] for part in described}
    return KeySchema(names["HASH"], names.get("RANGE"))


def sequence_of(record: Record) -> int:
    """A record's number; numbers of one shard compare as integers."""
    return int(record["dynamodb"]["SequenceNumber"])


def created_of(record: Record) -> int:
    """When a record was made, in whole epoch seconds, rounded down by the service."""
    created: datetime = record["dynamodb"]["ApproximateCreationDateTime"]
    return int(created.timestamp())


def item_json(item: Mapping[str, AttributeValue]) -> str:
    """Write an item as JSON text."""
    return _map(item)


class ChangeMaker:
    """Makes the changes of one shard."""

    def __init__(self, schema: KeySchema, partition_id: PartitionId) -> None:
        self._schema = schema
        self._partition_id = partition_id

    def make(self, record: Record, read: PageRead) -> Change:
        """The change of one record, with its item as far as the read wants it."""
        content = record["dynamodb"]
        change_type = _CHANGE_TYPES[record["eventName"]]
        state, item = _item(content.get("NewImage"), change_type, read)
        return Change(
            event_id=record["eventID"],
            change_type=change_type,
            key=_key(self._schema, content["Keys"]),
            item_state=state,
            item=item,
            commit_time=datetime.fromtimestamp(created_of(record), UTC),
            partition_id=self._partition_id,
            sequence=str(sequence_of(record)),
            origin=_origin(record),
        )


class ItemMaker:
    """Makes the items of a snapshot of one table."""

    def __init__(self, schema: KeySchema, stream_arn: str, *, whole: bool) -> None:
        """`whole`: changes carry items, and so do these."""
        self._schema, self._stream_arn, self._whole = schema, stream_arn, whole

    def make(self, item: Mapping[str, AttributeValue], read: PageRead) -> Change:
        """One item, as far as the read wants it."""
        state, text = _item(item if self._whole else None, ChangeType.SNAPSHOT, read)
        # P3: of what the item holds, so it is another one when that has changed.
        content = json.dumps([self._stream_arn, _canonical({"M": item})], sort_keys=True)
        return Change(
            event_id=blake2b(content.encode(), digest_size=16).hexdigest(),
            change_type=ChangeType.SNAPSHOT,
            key=_key(self._schema, item),
            item_state=state,
            item=text,
            commit_time=None,
            partition_id=PartitionId(""),
            sequence="",
        )


def key_texts(names: Sequence[str], item: Mapping[str, AttributeValue]) -> tuple[tuple[str, str], ...]:
    """Type letter and text of some attributes of an item, which are strings, numbers or binaries."""
    found = [next(iter(item[name].items())) for name in names]
    return tuple((letter, _base64(content) if letter == "B" else content) for letter, content in found)


def _key(schema: KeySchema, keys: Mapping[str, AttributeValue]) -> Key:
    partition = _component(schema.partition_key, keys[schema.partition_key])
    text = partition.value
    if partition.type is KeyType.STRING and text.startswith("["):
        text = json.dumps([text], ensure_ascii=False)
    if schema.sort_key is None:
        return Key(text, (partition,))
    sort = _component(schema.sort_key, keys[schema.sort_key])
    return Key(text, (partition, sort), sort.value)


def _component(name: str, value: AttributeValue) -> KeyComponent:
    ((letter, content),) = value.items()
    text = _base64(content) if letter == "B" else str(content)
    return KeyComponent(name, text, _KEY_TYPES[letter])


def _item(
    image: Mapping[str, AttributeValue] | None, change_type: ChangeType, read: PageRead
) -> tuple[ItemState, str | None]:
    if change_type is ChangeType.DELETE:
        return ItemState.NOT_APPLICABLE, None
    if not read.items:
        return ItemState.OMITTED, None
    if image is None:
        return ItemState.UNAVAILABLE, None
    text = item_json(image)
    if len(text.encode()) > read.max_item_bytes:
        return ItemState.TOO_LARGE, None
    return ItemState.INCLUDED, text


def _origin(record: Record) -> Origin:
    identity = record.get("userIdentity") or {}
    by_service = identity.get("Type", identity.get("type")) == "Service"
    who = identity.get("PrincipalId", identity.get("principalId"))
    return Origin.EXPIRY if by_service and who == _EXPIRY else Origin.APPLICATION


# --- Values


def _value(value: AttributeValue) -> str:
    ((letter, content),) = value.items()
    match letter:
        case "S":
            return _text(content)
        case "N":
            return _number(content)
        case "BOOL":
            return "true" if content else "false"
        case "NULL":
            return "null"
        case "L":
            return f"[{','.join(map(_value, content))}]"
        case "M":
            return _map(content)
        case "B":
            return f'{{"$binary":{_text(_base64(content))}}}'
        case "SS":
            return _set("$stringSet", map(_text, content))
        case "NS":
            return _set("$numberSet", map(_number, content))
        case "BS":
            return _set("$binarySet", (_text(_base64(member)) for member in content))
        case _:
            raise ValueError(f"DynamoDB has no attribute type {letter}")


def _map(content: Mapping[str, AttributeValue]) -> str:
    return f"{{{','.join(f'{_text(_name(name))}:{_value(value)}' for name, value in content.items())}}}"


def _name(name: str) -> str:
    return f"${name}" if name.startswith("$") else name


def _set(name: str, members: Iterable[str]) -> str:
    return f'{{"{name}":[{",".join(members)}]}}'


def _text(content: str) -> str:
    return json.dumps(content, ensure_ascii=False)


def _number(content: str) -> str:
    """A number as the service wrote it, unless JSON would write it otherwise."""
    return content if _JSON_NUMBER.fullmatch(content) else str(Decimal(content))


def _base64(content: bytes) -> str:
    return b64encode(content).decode()


def _canonical(value: AttributeValue) -> list[Any]:
    """A value in the one form of all that are equal: members of sets have no order."""
    ((letter, content),) = value.items()
    match letter:
        case "L":
            return [letter, [_canonical(member) for member in content]]
        case "M":
            return [letter, {name: _canonical(member) for name, member in content.items()}]
        case "B":
            return [letter, _base64(content)]
        case "BS":
            return [letter, sorted(map(_base64, content))]
        case "SS" | "NS":
            return [letter, sorted(content)]
        case _:
            return [letter, content]
