"""Collections in memory."""

from contextlib import AsyncExitStack

from changefeed_gateway.core.finding import Finding
from changefeed_gateway.core.provider import Examination, Provider
from changefeed_gateway.settings import MemoryConnection, Settings


class MemoryOpening:
    """Implements `Opening`: there is nothing that could be missing, and nothing refuses."""

    async def open(
        self, name: str, connection: MemoryConnection, settings: Settings, stack: AsyncExitStack
    ) -> Provider:
        """Make the collections, empty."""
        from changefeed_gateway.providers.memory.provider import MemoryProvider
        from changefeed_gateway.providers.memory.store import MemoryStore

        store = MemoryStore()
        for collection in connection.collections:
            store.create(collection)
        return MemoryProvider(store)

    async def examine(self, name: str, connection: MemoryConnection, settings: Settings) -> Examination:
        """Say what it is: who reads the report may take it for a database."""
        yield Finding(
            subject="collections",
            healthy=True,
            detail=f"in memory, gone with the process: {', '.join(connection.collections) or 'none'}",
        )

    def is_own(self, error: Exception) -> bool:
        """Nothing refuses."""
        return False

    def is_private(self, connection: MemoryConnection) -> bool:
        """Its memory is this process's."""
        return True
