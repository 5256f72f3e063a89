"""Partition keys: where they lie in an item, and among the effective partition keys (hash, version 2)."""

import json
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import mmh3

from tests.cosmos.server.errors import invalid

Component = str | float | bool | None | dict[str, Any]
"""One value of a key; `{}` is a property that the item lacks."""

MIN_EPK = ""
MAX_EPK = "FF"
"""Above all: no hash begins with a byte above 3F."""

_WHOLE = 0x40 << 120
"""No hash is as large: its two highest bits are cleared."""


class Definition(NamedTuple):
    """The partition key of a container."""

    paths: tuple[str, ...]
    kind: str

    @classmethod
    def parse(cls, body: dict[str, Any]) -> "Definition":
        """Read what a container is created with. Raises BadRequest."""
        kind, paths = body.get("kind", "Hash"), tuple(body["paths"])
        if kind not in ("Hash", "MultiHash") or not 1 <= len(paths) <= (1 if kind == "Hash" else 3):
            raise invalid("The partition key definition is invalid.")
        if body.get("version", 1) != 2:
            raise invalid("This server knows version 2 of the partition key only.")
        return cls(paths, kind)

    def body(self) -> dict[str, Any]:
        """The definition as the container shows it."""
        return {"paths": list(self.paths), "kind": self.kind, "version": 2}

    def of(self, item: dict[str, Any]) -> list[Component]:
        """The key of an item."""
        return [_at(item, path) for path in self.paths]

    def read(self, header: str) -> list[Component]:
        """The key of the header `x-ms-documentdb-partitionkey`. Raises BadRequest."""
        try:
            key = json.loads(header)
        except ValueError as error:
            raise invalid(f"Partition key {header} is invalid.") from error
        if not isinstance(key, list) or not len(key) <= len(self.paths):
            raise invalid(f"Partition key {header} is invalid.")
        return key

    def epk(self, key: Sequence[Component]) -> str:
        """The effective partition key: one hash, or with several paths a hash for each value."""
        if self.kind == "MultiHash":
            return "".join(_hash([value]) for value in key)
        return _hash(key)

    def told(self, key: Sequence[Component]) -> dict[str, Any]:
        """The key as a record of a delete tells it, by property."""
        return {
            path.strip("/"): value for path, value in zip(self.paths, key, strict=True) if not isinstance(value, dict)
        }


def evenly(count: int) -> list[str]:
    """The edges of so many intervals of the same width, which together are everything."""
    return [MIN_EPK, *(_text(_WHOLE * index // count) for index in range(1, count)), MAX_EPK]


def middle(low: str, high: str) -> str:
    """The effective partition key half way between two."""
    return _text((_number(low) + _number(high)) // 2)


def _number(epk: str) -> int:
    return _WHOLE if epk == MAX_EPK else int(epk[:32].ljust(32, "0"), 16)


def _text(number: int) -> str:
    return f"{number:032X}"


def _at(item: Any, path: str) -> Component:
    for name in path.strip("/").split("/"):
        if not isinstance(item, dict) or name.strip('"') not in item:
            return {}
        item = item[name.strip('"')]
    if isinstance(item, list) or item == {}:
        return {}
    found: Component = item
    return found


def _hash(key: Sequence[Component]) -> str:
    digest = mmh3.hash_bytes(b"".join(map(_encoded, key)), 0, True)[::-1]
    return bytes([digest[0] & 0x3F, *digest[1:]]).hex().upper()


def _encoded(value: Component) -> bytes:
    match value:
        case bool():
            return b"\x03" if value else b"\x02"
        case None:
            return b"\x01"
        case int() | float():
            return b"\x05" + struct.pack("<d", value)
        case str():
            return b"\x08" + value.encode() + b"\xff"
        case _:
            return b"\x00"
