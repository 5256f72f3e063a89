"""From the documents of a change feed to changes. Pure.

An item is passed on as the service gives it, with `_etag` and `_ts` but without `_rid`, `_self`, `_attachments` and
`_lsn`, which say where the service keeps it. Numbers of Cosmos DB are double precision.
"""

import hashlib
import json
import re
from binascii import hexlify
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

import orjson

from changefeed_gateway.core.columns import SECOND, KeyShape, Row
from changefeed_gateway.core.errors import InvalidRequest, ProviderFailure
from changefeed_gateway.core.model import (
    ChangeType,
    ItemState,
    KeyComponent,
    KeyType,
    Origin,
    PageRead,
    PartitionId,
)
from changefeed_gateway.providers.cosmos.cursor import Mode

Document = Mapping[str, Any]
"""One entry of a change feed."""

UNDEFINED: Final[dict[str, Any]] = {}
"""The value of a key path that an item does not have, as requests to the service write it."""

_LEFT_OUT: Final = ("_rid", "_self", "_attachments", "_lsn")
_CHANGE_TYPES: Final = {
    "create": ChangeType.CREATE,
    "replace": ChangeType.UPDATE,
    "delete": ChangeType.DELETE,
}
_STEP: Final = re.compile(r'/(?:"([^"]*)"|([^/]+))')
_compact: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_escaped: Final = json.JSONEncoder(separators=(",", ":")).encode
_EXACT: Final = 2**53
"""Whole numbers up to here are exact in double precision."""


class KeyPath(NamedTuple):
    """Where one value of the partition key lies in an item."""

    name: str
    """The path without its first slash."""
    steps: tuple[str, ...]


def key_paths(definition: Mapping[str, Any]) -> tuple[KeyPath, ...]:
    """Read a container's partition key definition."""
    paths = [tuple(quoted or plain for quoted, plain in _STEP.findall(path)) for path in definition.get("paths", ())]
    return tuple(KeyPath("/".join(steps), steps) for steps in paths)


def parse_partition_key(text: str, paths: Sequence[KeyPath]) -> list[Any]:
    """The values that a partition key text stands for; fewer than the container has make a prefix.

    Raises InvalidRequest.
    """
    values: Any = [text]
    if text.startswith("["):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None
    scalars = (str, int, float, bool, type(None))
    if not isinstance(values, list) or not all(value == UNDEFINED or isinstance(value, scalars) for value in values):
        raise InvalidRequest.field("scope.logical_partition", "a text that begins with [ is a JSON array of values")
    if not 0 < len(values) <= len(paths):
        raise InvalidRequest.field("scope.logical_partition", f"the container's partition key has {len(paths)} values")
    return values


_ALONE: Final = f"{1:08x}"
Placed = tuple[Document, int, str]
"""A document with its number, and where it stands among those with the same number; these texts compare."""


def placed(documents: Sequence[Document], mode: Mode) -> Iterator[Placed]:
    """The documents of a page, in an order that does not depend on what was replaced since. Raises ProviderFailure."""
    try:
        if mode is Mode.LATEST_VERSION:
            # What one transaction changed comes in no order of its own, and may leave it for a later version. P2.
            for document in sorted(documents, key=itemgetter("_lsn", "_rid")):
                yield document, int(document["_lsn"]), document["_rid"]
            return
        run, number = -1, 0
        for document in documents:
            lsn = int(document["metadata"]["lsn"])
            number = number + 1 if lsn == run else 1
            run = lsn
            yield document, lsn, _ALONE if number == 1 else f"{number:08x}"
    except (KeyError, TypeError, ValueError) as error:
        raise ProviderFailure("a document of the change feed does not say its number") from error


class _DocumentKey(NamedTuple):
    """The key of an item, and its parts as they are told."""

    partition_key: str
    item_id: str
    shape: KeyShape
    values: tuple[bytes, ...]


class ChangeMaker:
    """Makes the changes of one partition."""

    def __init__(
        self,
        container_rid: str,
        paths: Sequence[KeyPath],
        mode: Mode,
        partition_id: PartitionId,
        *,
        items: bool = False,
    ) -> None:
        """`items`: of latest versions, the items of a snapshot instead."""
        self._rid = _measured(container_rid)
        self._items = items
        self._paths = paths
        # The id is told once.
        self._names = ["" if path.steps == ("id",) else path.name for path in paths]
        self._make = self._of_version if mode is Mode.LATEST_VERSION else self._of_record
        self._partition_id = partition_id
        self._usual_path = paths[0].steps[0] if len(paths) == 1 and len(paths[0].steps) == 1 else None
        self._usual_shape: KeyShape = tuple((name, KeyType.STRING) for name in (*self._names, "id") if name)
        self._run = -1
        self._seen: dict[tuple[str, str], int] = {}
        """How often each item was changed by the transaction that is being told."""

    def make(self, document: Document, lsn: int, read: PageRead) -> Row:
        """The change of one document, with its item as far as the read wants it.

        Every document of a run has to be made, from its first on: the ordinal in event ids counts them. Raises
        ProviderFailure for one that is not as the service documents it.
        """
        try:
            return self._make(document, lsn, read)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise ProviderFailure("a document of the change feed is not as Cosmos DB documents it") from error

    def _of_record(self, record: Document, lsn: int, read: PageRead) -> Row:
        metadata = record["metadata"]
        operation = metadata["operationType"]
        change_type = _CHANGE_TYPES[operation]
        current: Any = record.get("current")
        deleted = change_type is ChangeType.DELETE
        partition_key, item_id, shape, values = self._key_of_deleted(record) if deleted else self._key_of(current)
        state, item = _item(current, change_type, read)
        number = str(lsn)
        told = f"{number}.{self._ordinal(lsn, partition_key, item_id)}"
        return (
            # P3: nothing of where it was read goes into it: ranges split.
            _digest(
                f"{self._rid}{len(partition_key)}:{partition_key}{len(item_id)}:{item_id}"
                f"{len(operation)}:{operation}{len(told)}:{told}"
            ),
            change_type,
            partition_key.encode(),
            item_id.encode(),
            shape,
            values,
            state,
            item,
            int(metadata["crts"]) * SECOND,
            self._partition_id,
            number.encode(),
            Origin.EXPIRY if metadata.get("timeToLiveExpired") else Origin.APPLICATION,
            b"",
        )

    def _of_version(self, version: Document, lsn: int, read: PageRead) -> Row:
        partition_key, item_id, shape, values = self._key_of(version)
        state, item = _item(version, ChangeType.UPDATE, read)
        return (
            # P3: there is no history of an item, so what names the change is the version that it left.
            _digest(self._rid + _measured(version["_rid"]) + _measured(version["_etag"]) + "item" * self._items),
            ChangeType.SNAPSHOT if self._items else ChangeType.UPDATE,
            partition_key.encode(),
            item_id.encode(),
            shape,
            values,
            state,
            item,
            int(version["_ts"]) * SECOND,
            self._partition_id,
            b"" if self._items else b"%d" % lsn,
            Origin.APPLICATION,
            b"",
        )

    def _ordinal(self, lsn: int, partition_key: str, item_id: str) -> int:
        """Which change of its item it is within its transaction."""
        item = partition_key, item_id
        if lsn != self._run:
            self._run = lsn
            self._seen = {item: 1}
            return 1
        ordinal = self._seen[item] = self._seen.get(item, 0) + 1
        return ordinal

    def _key_of(self, item: Any) -> _DocumentKey:
        value = item.get(self._usual_path) if self._usual_path is not None else None
        if type(value) is str and value[:1] != "[":
            item_id = item["id"]
            values = (item_id.encode(),) if len(self._usual_shape) == 1 else (value.encode(), item_id.encode())
            return _DocumentKey(value, item_id, self._usual_shape, values)
        return self._key([_at(item, steps) for _, steps in self._paths], item["id"])

    def _key(self, values: Sequence[Any], item_id: str) -> _DocumentKey:
        components = []
        for name, value in zip(self._names, values, strict=True):
            if name and value != UNDEFINED:
                components.append(_component(name, value))
        components.append(KeyComponent("id", item_id))
        return _DocumentKey(
            partition_key_text(values),
            item_id,
            tuple((name, key_type) for name, _, key_type in components),
            tuple(value.encode() for _, value, _ in components),
        )

    def _key_of_deleted(self, record: Document) -> _DocumentKey:
        told = record["metadata"].get("partitionKey")
        item_id = record["metadata"].get("id")
        # Before January 2025 the service told no key with a deletion; a preview tells the item before.
        image = record.get("current") or record.get("previous") or {}
        if item_id is not None and told is not None:
            values = [_told(told, number, path, len(self._paths)) for number, path in enumerate(self._paths)]
        elif "id" in image:
            item_id, values = image["id"], [_at(image, path.steps) for path in self._paths]
        else:
            raise ProviderFailure("the service tells a deletion without its key: no reader could apply it")
        return self._key(values, item_id)


def partition_key_text(values: Sequence[Any]) -> str:
    """Several values, or one that is no plain text, as a JSON array; see `core.model.Key`."""
    if len(values) == 1 and isinstance(values[0], str) and not values[0].startswith("["):
        return values[0]
    return _compact([_normal(value) for value in values])


def _measured(fact: str) -> str:
    """A text behind its length: no two lists of them are one text."""
    return f"{len(fact)}:{fact}"


def _digest(facts: str) -> bytes:
    """Of measured texts."""
    return hexlify(hashlib.sha256(facts.encode("utf-8", "surrogatepass")).digest()[:16])


def _at(item: Any, steps: Sequence[str]) -> Any:
    if len(steps) == 1 and type(found := item.get(steps[0], UNDEFINED)) is str:
        return found
    for step in steps:
        if not isinstance(item, Mapping) or step not in item:
            return UNDEFINED
        item = item[step]
    return UNDEFINED if isinstance(item, Mapping | list) else item


def _told(key: Any, number: int, path: KeyPath, count: int) -> Any:
    """One value of a deletion's partition key: by its path, by the last step of it, or by its place."""
    match key:
        case Mapping():
            nested = _at(key, path.steps)
            return key.get(path.name, key.get(path.steps[-1], nested) if nested == UNDEFINED else nested)
        case list():
            return key[number]
        case _ if count == 1:
            return key
        case _:
            raise ValueError("one value for several paths")


def _normal(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value


def _component(name: str, value: Any) -> KeyComponent:
    if type(value) is str:
        return KeyComponent(name, value)
    match value:
        case None:
            return KeyComponent(name, "", KeyType.NULL)
        case bool():
            return KeyComponent(name, "true" if value else "false", KeyType.BOOLEAN)
        case int() | float():
            return KeyComponent(name, json.dumps(_normal(value)), KeyType.NUMBER)
        case _:
            return KeyComponent(name, str(value))


def _item(image: Document | None, change_type: ChangeType, read: PageRead) -> tuple[ItemState, bytes | None]:
    if change_type is ChangeType.DELETE:
        return ItemState.NOT_APPLICABLE, None
    if not read.items:
        return ItemState.OMITTED, None
    if not image:
        return ItemState.UNAVAILABLE, None
    content = dict(image)
    for name in _LEFT_OUT:
        content.pop(name, None)
    text = _in_utf8(content)
    if len(text) > read.max_item_bytes:
        return ItemState.TOO_LARGE, None
    return ItemState.INCLUDED, text


def _in_utf8(content: Mapping[str, Any]) -> bytes:
    """JSON, with escapes for all that is not ASCII where UTF-8 has no word for some: half a pair of surrogates."""
    try:
        # A copy: what it hands over has room for 4 kB, however short, and a page keeps thousands.
        return b"%b" % orjson.dumps(content)
    except orjson.JSONEncodeError:
        # It also refuses whole numbers of more than 64 bits, and more than 254 levels.
        return _escaped(content).encode()
