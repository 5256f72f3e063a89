"""A request as far as the protocol concerns it, and an answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from tests.cosmos.server.calls import Call
from tests.cosmos.server.change import json_text
from tests.cosmos.server.errors import invalid


@dataclass(frozen=True)
class Answer:
    """What goes back, but for the headers that every answer has."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def answer(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer in JSON."""
    return Answer(status, json_text(body).encode(), headers or {})


@dataclass(frozen=True)
class Request:
    """Names in the path are those of resources: `dbs`, a database, `colls`, a container, `docs`, an item."""

    method: str
    path: tuple[str, ...]
    headers: Mapping[str, str]
    """Their case does not matter."""
    content: bytes

    @classmethod
    def parse(cls, method: str, raw_path: str, headers: Mapping[str, str], content: bytes) -> "Request":
        """Read what came over the wire."""
        return cls(method, tuple(unquote(part) for part in raw_path.strip("/").split("/") if part), headers, content)

    @property
    def resource_type(self) -> str:
        """The kind of what is asked for, such as `docs`."""
        return self.path[-1 if self.is_feed else -2] if self.path else ""

    @property
    def is_feed(self) -> bool:
        """Whether it concerns all resources of a kind."""
        return len(self.path) % 2 == 1

    @property
    def resource_link(self) -> str:
        """What is asked for, or for a feed its parent."""
        return "/".join(self.path[:-1] if self.is_feed else self.path)

    @property
    def owner(self) -> tuple[str, ...]:
        """The path of what holds the resource."""
        return self.path[:-1] if self.is_feed else self.path[:-2]

    def flag(self, name: str) -> bool:
        """Whether a header says true."""
        return self.headers.get(name, "").lower() == "true"

    def json(self) -> Any:
        """The content. Raises BadRequest."""
        try:
            return json.loads(self.content)
        except ValueError as error:
            raise invalid("The request payload is invalid.") from error

    def call(self) -> Call:
        """What is counted, and what a fault may happen to."""
        range_id = self.headers.get("x-ms-documentdb-partitionkeyrangeid", "").rpartition(",")[2]
        return Call(self._operation(), range_id, self.path[3] if len(self.path) > 3 else "")

    def _operation(self) -> str:
        if not self.path:
            return "GetAccount"
        if self.resource_type == "docs" and self.is_feed:
            return self._items_operation()
        verbs = {"GET": "Read", "PUT": "Replace", "POST": "Create", "DELETE": "Delete"}
        kinds = {"dbs": "Database", "colls": "Container", "pkranges": "PartitionKeyRange", "docs": "Item"}
        verb = verbs.get(self.method, self.method)
        kind = kinds.get(self.resource_type, self.resource_type)
        if self.is_feed and self.method == "GET":
            return f"{verb}{kind}s"
        return f"{verb}{kind}"

    def _items_operation(self) -> str:
        if self.method == "GET":
            return "ReadChangeFeed" if "A-IM" in self.headers else "ReadItems"
        if self.flag("x-ms-cosmos-is-query-plan-request"):
            return "PlanQuery"
        if self.flag("x-ms-documentdb-isquery"):
            return "Query"
        if self.flag("x-ms-cosmos-is-batch-request"):
            return "Batch"
        return "UpsertItem" if self.flag("x-ms-documentdb-is-upsert") else "CreateItem"
