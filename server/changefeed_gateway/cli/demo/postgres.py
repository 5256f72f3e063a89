"""The embedded PostgreSQL as a stage."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import psycopg

from changefeed_client import BEGINNING
from changefeed_gateway.app import operations
from changefeed_gateway.cli.demo.ledger import Ledger
from changefeed_gateway.cli.demo.mirror import Document
from changefeed_gateway.cli.demo.orders import TABLE, OrdersTable
from changefeed_gateway.cli.demo.workload import Workload
from changefeed_gateway.settings import Settings

_DOCUMENTS: Final = """
    SELECT f.id::text, f.workspace_id::text, f.title,
           ARRAY(SELECT t.tag FROM documents.file_tags t WHERE t.file_id = f.id ORDER BY t.tag),
           (SELECT r.status FROM documents.runs r JOIN documents.file_versions v ON v.id = r.input_file_version_id
            WHERE v.file_id = f.id ORDER BY r.created_at DESC, r.id DESC LIMIT 1)
    FROM documents.files f WHERE f.deleted_at IS NULL AND f.kind = 'document'
"""


class EmbeddedStage:
    """Keeps its data from run to run."""

    database = "PostgreSQL"
    first_position = BEGINNING

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.orders = OrdersTable()
        self._dsn = ""
        self._settings: Settings
        self._workload: Workload

    @asynccontextmanager
    async def opened(self, settings: Settings) -> AsyncIterator[Settings]:
        """Start the server, and make the tables where there are none."""
        self._settings = settings
        async with operations.database(settings, "main") as self._dsn:
            await self.orders.prepare(self._dsn)
            await operations.watch(settings, "main", TABLE)
            self._workload = Workload(self._dsn, self.ledger)
            await self._workload.prepare()
            yield settings

    async def edit(self, stop: asyncio.Event) -> None:
        """Edit documents and orders."""
        await self._workload.run(stop, self.orders.write)

    async def disturb(self, say: Callable[[str], None]) -> None:
        """Restart the server."""
        say("PostgreSQL is restarted under the gateway")
        async with self._workload.held():
            await operations.restart_embedded(self._settings, "main")

    async def touch_all(self) -> None:
        """Write every document as it is."""
        await self._workload.touch_all()

    async def documents(self) -> Mapping[str, Document]:
        """The documents as the source tables have them."""
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
            rows = await connection.execute(_DOCUMENTS)
            return {
                document: Document(workspace, title, tuple(tags), last_run)
                async for document, workspace, title, tags, last_run in rows
            }
