"""PostgreSQL as a backend: a watched table, and the documents feed."""

import json
import random
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

from changefeed.v1 import change_event_pb2
from changefeed_gateway.core.model import Address, CapabilityName, ItemState
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.providers.postgres.provider import PostgresProvider
from changefeed_gateway.providers.postgres.retention import run as retention
from tests.conformance.backend import Hook, Item
from tests.databases import DOCUMENTS, LOG, PostgresForTests, settle
from tests.postgres.history import outdate

MIGRATIONS = Path(__file__).parents[3] / "migrations"

SILENT = "create table public.silent (name text primary key);"

NEIGHBOURS = """
    create table public.neighbours (name text primary key);
    select changefeed.watch('public.neighbours');
"""

THINGS = """
    create table public.things (
        partition text not null, name text not null, content text not null, primary key (partition, name)
    );
    select changefeed.watch('public.things', partition_key => array ['partition']);
"""

_PREPARED: dict[tuple[PostgresForTests, type], str] = {}


class _PostgresBackend:
    """A database of its own with what both backends share."""

    hooks = frozenset(Hook)
    provider_id = "postgres"
    capabilities = frozenset(CapabilityName) - {CapabilityName.SNAPSHOT_PHYSICAL_PARTITION_SCOPE}
    time_granularity = timedelta(0)
    largest_content = 10_000_000
    collection = ""
    template = LOG
    preparation = SILENT

    def __init__(self, server: PostgresForTests) -> None:
        self._server = server
        self._dsn = ""
        self._connection: psycopg.AsyncConnection[TupleRow] | None = None
        self._providers: list[PostgresProvider] = []

    async def start(self) -> None:
        self._dsn = await self._server.fresh(await self._prepared())
        self._connection = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True)

    async def stop(self) -> None:
        await self._sql.close()
        await self._server.drop(self._dsn)

    async def connect(self) -> Provider:
        self._providers.append(PostgresProvider(self._dsn))
        return self._providers[-1]

    def address(self, connection: str) -> Address:
        return Address(connection=connection, database="", collection=self.collection)

    def unprovisioned(self, connection: str) -> Address:
        return Address(connection=connection, database="", collection="public.silent")

    async def neighbour(self, connection: str) -> Address:
        await self._execute_script(NEIGHBOURS)
        return Address(connection=connection, database="", collection="public.neighbours")

    async def split(self, partition_id: str) -> None:
        await self._sql.execute("select changefeed.split_partition(%s, %s)", (self.collection, partition_id))

    async def merge(self, first: str, second: str) -> None:
        await self._sql.execute("select changefeed.merge_partitions(%s, %s, %s)", (self.collection, first, second))

    async def trim(self) -> timedelta:
        cursor = await self._sql.execute("select feed_id from changefeed.feeds where name = %s", (self.collection,))
        [(feed_id,)] = await cursor.fetchall()
        moved = await outdate(self._sql, feed_id)
        # A tick never changes, and days have passed only for who reads it from now on.
        for provider in self._providers:
            provider.forget()
        assert [feed.problem for feed in await retention.run(self._dsn)] == [""]
        return moved

    async def trouble(self, dice: random.Random) -> None:
        await self._sql.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )

    @property
    def _sql(self) -> psycopg.AsyncConnection[TupleRow]:
        assert self._connection is not None
        return self._connection

    async def _execute_script(self, script: str) -> None:
        # Without parameters several statements go in one message, as psql sends a file.
        await self._sql.execute(script.encode())

    async def _prepared(self) -> str:
        """Name of a database that holds everything; every test copies it."""
        key = self._server, type(self)
        if key not in _PREPARED:
            dsn = await self._server.fresh(self.template)
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
                await connection.execute(self.preparation.encode())
            await settle(dsn)
            _PREPARED[key] = str(conninfo_to_dict(dsn)["dbname"])
        return _PREPARED[key]


class WatchedTableBackend(_PostgresBackend):
    """A plain table with a composite key; its images are captured."""

    item_state = ItemState.INCLUDED
    collection = "public.things"
    preparation = SILENT + THINGS

    async def put(self, item: Item, content: str) -> None:
        await self._sql.execute(
            "insert into public.things values (%s, %s, %s)"
            " on conflict (partition, name) do update set content = excluded.content",
            (*item, content),
        )

    async def delete(self, item: Item) -> None:
        await self._sql.execute("delete from public.things where partition = %s and name = %s", item)

    async def recreate(self) -> None:
        await self._execute_script("select changefeed.unwatch('public.things'); drop table public.things;" + THINGS)

    def item_of(self, key: change_event_pb2.Key) -> Item:
        partition, name = key.components
        return Item(partition.value, name.value)

    def content_of(self, item_json: str) -> str:
        return str(json.loads(item_json)["content"])


class DocumentsBackend(_PostgresBackend):
    """The documents feed: a partition is a workspace, an item a document, its content the title."""

    item_state = ItemState.INCLUDED_CURRENT
    collection = "documents"
    template = DOCUMENTS

    def __init__(self, server: PostgresForTests) -> None:
        super().__init__(server)
        self._workspaces: dict[str, str] = {}
        self._documents: dict[Item, str] = {}

    async def put(self, item: Item, content: str) -> None:
        workspace = await self._workspace(item.partition)
        if (document := self._documents.get(item)) is None:
            document = self._documents[item] = str(uuid4())
            await self._sql.execute(
                "insert into documents.files (id, workspace_id, title) values (%s, %s, %s)",
                (document, workspace, content),
            )
        else:
            await self._sql.execute(
                "update documents.files set title = %s, deleted_at = null where id = %s", (content, document)
            )

    async def delete(self, item: Item) -> None:
        await self._sql.execute("update documents.files set deleted_at = now() where id = %s", (self._documents[item],))

    async def recreate(self) -> None:
        await self._execute_script(
            "drop schema documents cascade;"
            "select changefeed.drop_feed(feed_id) from changefeed.feeds where name = 'documents';"
        )
        for part in ("tables", "functions"):
            for script in sorted((MIGRATIONS / "documents" / part).glob("*.sql")):
                await self._execute_script(script.read_text())
        self._workspaces.clear()
        self._documents.clear()

    def item_of(self, key: change_event_pb2.Key) -> Item:
        [document] = key.components
        return next(item for item, known in self._documents.items() if known == document.value)

    def content_of(self, item_json: str) -> str:
        return str(json.loads(item_json)["title"])

    async def _workspace(self, name: str) -> str:
        if name not in self._workspaces:
            self._workspaces[name] = str(uuid4())
            await self._sql.execute(
                "insert into documents.workspaces (id, name) values (%s, %s)", (self._workspaces[name], name)
            )
        return self._workspaces[name]
