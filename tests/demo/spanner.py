"""The official emulator of Cloud Spanner as a stage of the demo."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from changefeed_gateway.cli.demo.mirror import Document, parsed
from changefeed_gateway.settings import Settings, SpannerConnection
from tests.demo.editors import InMemory, Item
from tests.spanner.emulator import running_emulator
from tests.spanner.sdk import BareDatabase, bare_database, deletion, mutation

_TABLE = "documents"
_STREAM = "documents_changes"
_SCHEMA = (
    f"CREATE TABLE {_TABLE} (workspace STRING(64) NOT NULL, id STRING(36) NOT NULL, title STRING(MAX),"
    " tags ARRAY<STRING(64)>, last_run JSON, revision INT64) PRIMARY KEY (workspace, id)",
    f"CREATE CHANGE STREAM {_STREAM} FOR {_TABLE} OPTIONS (value_capture_type = 'NEW_ROW')",
)


class SpannerEmulator(InMemory):
    """In memory: each run begins anew."""

    database = "the Cloud Spanner emulator"

    def __init__(self) -> None:
        super().__init__()
        self._database: BareDatabase
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def opened(self, settings: Settings) -> AsyncIterator[Settings]:
        """Start it and make the table with its change stream."""
        async with running_emulator(churn=False) as emulator:
            path = await emulator.create_database("demo", _SCHEMA)
            connection = SpannerConnection(
                provider="spanner",
                project=emulator.project,
                instance=emulator.instance,
                database="demo",
                tables={_TABLE: _STREAM},
                emulator_host=emulator.host,
            )
            async with bare_database(emulator.host, path, postgres=False) as self._database:
                yield settings.model_copy(update={"connections": {"main": connection}})

    async def put(self, item: Item) -> None:
        """Create or replace a row."""
        run = item["last_run"]
        row = item | {"last_run": None if run is None else json.dumps(run), "revision": str(item["revision"])}
        await self._commit(mutation("replace", _TABLE, row))

    async def delete(self, item: Item) -> None:
        """Delete a row."""
        await self._commit(deletion(_TABLE, [item["workspace"], item["id"]]))

    async def _commit(self, change: Mapping[str, Any]) -> None:
        # The emulator carries out one transaction at a time, and aborts the others.
        async with self._turn:
            await self._database.commit(change)

    async def documents(self) -> Mapping[str, Document]:
        """All rows."""
        rows = await self._database.rows(f"SELECT * FROM {_TABLE}")
        return {row["id"]: parsed(row) for row in rows}
