"""Everything that one account holds: databases and their containers, and the time."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

from tests.cosmos.server.behaviour import Behaviour
from tests.cosmos.server.clock import Clock
from tests.cosmos.server.container import Container
from tests.cosmos.server.errors import conflict, not_found
from tests.cosmos.server.partition_key import Definition
from tests.cosmos.server.rids import container_rid, database_rid


@dataclass
class Database:
    """Containers under one name."""

    name: str
    rid: str
    created: float
    containers: dict[str, Container] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """The database as a client reads it."""
        return {
            "id": self.name,
            "_rid": self.rid,
            "_self": f"dbs/{self.rid}/",
            "_etag": f'"{self.rid}"',
            "_colls": "colls/",
            "_users": "users/",
            "_ts": int(self.created),
        }


class Account:
    """Not safe for threads: whoever shares it takes turns."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.clock = Clock()
        self.databases: dict[str, Database] = {}
        self._rids = itertools.count(1)

    def database(self, name: str) -> Database:
        """A database by its name or rid. Raises NotFound."""
        return _found(self.databases.values(), name)

    def container(self, database: str, name: str) -> Container:
        """A container by its name or rid. Raises NotFound."""
        return _found(self.database(database).containers.values(), name)

    def owner_headers(self, path: tuple[str, ...]) -> dict[str, str]:
        """How an answer names the database or container that it concerns. Raises NotFound."""
        match path:
            case ("dbs", database):
                home = self.database(database)
                return _owner(f"dbs/{home.name}", home.rid)
            case ("dbs", database, "colls", name):
                container = self.container(database, name)
                return _owner(f"dbs/{self.database(database).name}/colls/{container.name}", container.rid)
            case _:
                return {}

    def create_database(self, name: str) -> Database:
        """Make a database. Raises Conflict."""
        if name in self.databases:
            raise conflict()
        self.databases[name] = Database(name, database_rid(next(self._rids)), self.clock.now())
        return self.databases[name]

    def delete_database(self, name: str) -> None:
        """Remove a database with all that it holds. Raises NotFound."""
        del self.databases[self.database(name).name]

    def create_container(
        self, database: str, name: str, definition: Definition, *, ranges: int | None = None, ttl: int | None = None
    ) -> Container:
        """Make a container. Raises Conflict."""
        home = self.database(database)
        if name in home.containers:
            raise conflict()
        rid = container_rid(home.rid, next(self._rids))
        made = Container(
            name=name,
            rid=rid,
            link=f"dbs/{home.rid}/colls/{rid}/",
            definition=definition,
            ranges=ranges or self.behaviour.ranges,
            now=self.clock.now,
            default_ttl=ttl,
        )
        home.containers[name] = made
        return made

    def delete_container(self, database: str, name: str) -> Container:
        """Remove a container. Raises NotFound."""
        return self.database(database).containers.pop(self.container(database, name).name)


def _owner(path: str, rid: str) -> dict[str, str]:
    return {"x-ms-alt-content-path": quote(path), "x-ms-content-path": rid}


_Kept = TypeVar("_Kept", Database, Container)


def _found(kept: Iterable[_Kept], name: str) -> _Kept:
    for one in kept:
        if name in (one.name, one.rid):
            return one
    raise not_found(1003)
