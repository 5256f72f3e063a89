"""Collections by name: what providers in memory read, and what outlives them as a database does."""

from datetime import UTC, datetime

from changefeed_gateway.providers.memory.collection import Clock, CollectionOptions, MemoryCollection


def system_clock() -> datetime:
    """The time, aware, UTC."""
    return datetime.now(UTC)


class MemoryStore:
    """One database of collections in memory, without persistence."""

    def __init__(self, *, database: str = "main", clock: Clock = system_clock) -> None:
        self.database = database
        self.clock = clock
        self._collections: dict[str, MemoryCollection] = {}

    def create(self, name: str, options: CollectionOptions | None = None) -> MemoryCollection:
        """Create a collection. Raises ValueError when it exists."""
        if name in self._collections:
            raise ValueError(f"collection {name} exists")
        collection = MemoryCollection(options or CollectionOptions(), self.clock)
        self._collections[name] = collection
        return collection

    def drop(self, name: str) -> None:
        """Drop a collection and its history; whoever waits for it is woken. Raises KeyError for an unknown one."""
        self._collections.pop(name).drop()

    def recreate(self, name: str) -> MemoryCollection:
        """Drop a collection and create it again, empty, with the same options: a new incarnation."""
        options = self._collections[name].options
        self.drop(name)
        return self.create(name, options)

    def find(self, name: str) -> MemoryCollection | None:
        """The collection of that name, if there is one."""
        return self._collections.get(name)
