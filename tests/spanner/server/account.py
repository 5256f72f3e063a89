"""Everything that one project holds: an instance, its databases, and the time."""

from tests.spanner.server import errors
from tests.spanner.server.behaviour import Behaviour
from tests.spanner.server.clock import Clock
from tests.spanner.server.database import Database

PROJECT = "test-project"
INSTANCE = "test-instance"


class Account:
    """Not safe for threads: one event loop uses it."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.clock = Clock()
        self.databases: dict[str, Database] = {}

    def path(self, name: str) -> str:
        """The full name of a database."""
        return f"projects/{PROJECT}/instances/{INSTANCE}/databases/{name}"

    def create_database(self, name: str, *, postgres: bool) -> Database:
        path = self.path(name)
        assert path not in self.databases
        self.databases[path] = Database(path, postgres=postgres, clock=self.clock, behaviour=self.behaviour)
        return self.databases[path]

    def drop_database(self, name: str) -> None:
        database = self.databases.pop(self.path(name))
        for stream in list(database.streams):
            database.drop_stream(stream)

    def database(self, path: str) -> Database:
        """A database by its full name. Raises NOT_FOUND."""
        if (database := self.databases.get(path)) is not None:
            return database
        instance = path.partition("/databases/")[0]
        if instance != f"projects/{PROJECT}/instances/{INSTANCE}":
            raise errors.not_found(f"Instance not found: {instance}")
        raise errors.not_found(f"Database not found: {path}")
