"""A table: its items, and the stream that its changes go to."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from tests.dynamodb.server.attributes import Attribute, Item, check_size, normalised, size_of
from tests.dynamodb.server.errors import invalid
from tests.dynamodb.server.stream import Stream

EXPIRY = {"Type": "Service", "PrincipalId": "dynamodb.amazonaws.com"}
"""Who deletes what has outlived its time."""

NEW_IMAGES = ("NEW_IMAGE", "NEW_AND_OLD_IMAGES")
OLD_IMAGES = ("OLD_IMAGE", "NEW_AND_OLD_IMAGES")


SCANNED_BYTES = 1 << 20
"""That one Scan reads."""


class Table:
    """Every write is one commit, and one record if something changed."""

    def __init__(
        self, *, name: str, arn: str, key_schema: list[dict[str, str]], attributes: list[dict[str, str]], created: float
    ) -> None:
        self.name = name
        self.arn = arn
        self.key_schema = key_schema
        self.attributes = attributes
        self.created = created
        self.table_id = str(uuid4())
        self.stream: Stream | None = None
        """The latest stream, on or off."""
        self.items: dict[str, Item] = {}
        self._types = {attribute["AttributeName"]: attribute["AttributeType"] for attribute in attributes}

    def put(self, item: Mapping[str, Attribute]) -> Item | None:
        """Create or replace an item; answers the one before."""
        new = normalised(item)
        check_size(new)
        key = self._key_of(new)
        return self._write(key, new)

    def update(self, key: Mapping[str, Attribute], change: Callable[[Item], None]) -> Item:
        """Change an item, or create it; answers the new one."""
        exact = self._whole_key(key)
        new = {**self.items.get(_text(exact), exact)}
        change(new)
        if self._key_of(new) != exact:
            raise invalid("Cannot update attribute. This attribute is part of the key")
        new = normalised(new)
        check_size(new)
        self._write(exact, new)
        return new

    def delete(self, key: Mapping[str, Attribute], *, expired: bool = False) -> Item | None:
        """Remove an item; without one nothing happens."""
        return self._write(self._whole_key(key), None, identity=EXPIRY if expired else None)

    def scan(
        self, *, limit: int | None, after: Mapping[str, Attribute] | None, segment: int = 0, segments: int = 1
    ) -> tuple[list[Item], Item | None]:
        """Items of a segment behind a key, in the order of a hash, and the key of the last one unless all was read."""
        places = sorted((_place(key), key) for key in self.items)
        behind = (-1, "") if after is None else (_place(_text(self._whole_key(after))), _text(self._whole_key(after)))
        if after is not None and behind[0] % segments != segment:
            raise invalid("The provided starting key is outside query boundaries based on provided conditions")
        found: list[Item] = []
        size = 0
        for place in places:
            if place <= behind or place[0] % segments != segment:
                continue
            found.append(self.items[place[1]])
            size += size_of(found[-1])
            if size > SCANNED_BYTES or len(found) == limit:
                return found, self._key_of(found[-1])
        return found, None

    def describe(self) -> dict[str, Any]:
        """The table as DescribeTable shows it."""
        described: dict[str, Any] = {
            "TableName": self.name,
            "TableArn": self.arn,
            "TableId": self.table_id,
            "TableStatus": "ACTIVE",
            "KeySchema": self.key_schema,
            "AttributeDefinitions": self.attributes,
            "CreationDateTime": self.created,
            "ItemCount": len(self.items),
            "TableSizeBytes": sum(map(size_of, self.items.values())),
            "BillingModeSummary": {"BillingMode": "PAY_PER_REQUEST"},
        }
        if self.stream is not None:
            described |= {"LatestStreamArn": self.stream.arn, "LatestStreamLabel": self.stream.label}
            if self.stream.enabled:
                described["StreamSpecification"] = {"StreamEnabled": True, "StreamViewType": self.stream.view_type}
        return described

    # --- Inside

    def _write(self, key: Item, new: Item | None, identity: dict[str, str] | None = None) -> Item | None:
        old = self.items.pop(_text(key), None)
        if new is not None:
            self.items[_text(key)] = new
        if old != new and self.stream is not None and self.stream.enabled:
            change: dict[str, Any] = {"eventName": "REMOVE" if new is None else "MODIFY" if old else "INSERT"}
            if identity is not None:
                change["userIdentity"] = identity
            self.stream.append(_text(self._hash_part(key)), self._content(self.stream.view_type, key, new, old), change)
        return old

    def _content(self, view_type: str, key: Item, new: Item | None, old: Item | None) -> dict[str, Any]:
        content: dict[str, Any] = {"Keys": key}
        if new is not None and view_type in NEW_IMAGES:
            content["NewImage"] = new
        if old is not None and view_type in OLD_IMAGES:
            content["OldImage"] = old
        content["SizeBytes"] = sum(size_of(part) for part in content.values())
        return content

    def _hash_part(self, key: Item) -> Item:
        name = self.key_schema[0]["AttributeName"]
        return {name: key[name]}

    def _whole_key(self, key: Mapping[str, Attribute]) -> Item:
        if key.keys() != {part["AttributeName"] for part in self.key_schema}:
            raise invalid("The provided key element does not match the schema")
        return self._key_of(normalised(key))

    def _key_of(self, item: Item) -> Item:
        key: Item = {}
        for part in self.key_schema:
            name = part["AttributeName"]
            if set(item.get(name, ())) != {self._types[name]} or item[name] in ({"S": ""}, {"B": ""}):
                raise invalid(f"One or more parameter values were invalid: the key {name} is missing or mistyped")
            key[name] = item[name]
        return key


def _place(text: str) -> int:
    """Where a key lies, and so in which segment."""
    return int.from_bytes(hashlib.md5(text.encode()).digest()[:4])


def _text(key: Item) -> str:
    return json.dumps(key, sort_keys=True)
