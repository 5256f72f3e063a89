"""Cloud Spanner as a backend: the emulator, whose partitions churn, in both dialects, and the wire-level server."""

import itertools
import json
import random
from datetime import timedelta

from google.cloud.spanner_admin_database_v1 import DatabaseDialect

from changefeed.v1 import change_event_pb2
from changefeed_gateway.core.model import Address, CapabilityName, ItemState
from changefeed_gateway.core.provider import Provider
from tests.conformance.backend import Hook, Item
from tests.spanner.emulator import GOOGLE_SQL, POSTGRESQL, Emulator
from tests.spanner.gateway import make_provider
from tests.spanner.server.behaviour import Behaviour
from tests.spanner.server.database import Database
from tests.spanner.server.errors import throttled, unavailable
from tests.spanner.server.schema import Column, StreamDefinition, Table
from tests.spanner.server.wire import WireServer
from tests.spanner.writing import Writer, delete, put

_NUMBERS = itertools.count(1)
COLUMNS = ("part", "name", "content")
MAIN = "main"

GOOGLE_TABLE = """\
CREATE TABLE {table} (part STRING(MAX) NOT NULL, name STRING(MAX) NOT NULL, content STRING(MAX))
PRIMARY KEY (part, name)"""
GOOGLE_STREAM = "CREATE CHANGE STREAM {stream} FOR {table} OPTIONS (value_capture_type = 'NEW_ROW')"
POSTGRES_TABLE = """\
CREATE TABLE {table} (part varchar NOT NULL, name varchar NOT NULL, content varchar, PRIMARY KEY (part, name))"""
POSTGRES_STREAM = "CREATE CHANGE STREAM {stream} FOR {table} WITH (value_capture_type = 'NEW_ROW')"


class EmulatorBackend:
    """A database of its own for each test, with tables of the key `part`, `name`; the content is a text."""

    hooks: frozenset[Hook] = frozenset()
    provider_id = "spanner"
    capabilities = frozenset(CapabilityName) - {
        CapabilityName.LOGICAL_PARTITION_SCOPE,
        CapabilityName.SNAPSHOT_PHYSICAL_PARTITION_SCOPE,
        CapabilityName.SNAPSHOT_LOGICAL_PARTITION_SCOPE,
    }
    item_state = ItemState.INCLUDED
    largest_content = 2_500_000
    time_granularity = timedelta(0)
    moves_keys = True
    dialect: DatabaseDialect = GOOGLE_SQL
    table, stream = GOOGLE_TABLE, GOOGLE_STREAM

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._database = f"conformance-{next(_NUMBERS)}"

    async def start(self) -> None:
        statements = [*self._made("things"), self.table.format(table="silent")]
        path = await self._emulator.create_database(self._database, statements, dialect=self.dialect)
        self._writer = Writer(self._emulator.host, path)

    async def stop(self) -> None:
        await self._writer.close()
        await self._emulator.drop_database(self._database)

    async def connect(self) -> Provider:
        provider = make_provider(self._emulator.path(self._database), self._emulator.host)
        await provider.start()
        return provider

    def address(self, connection: str) -> Address:
        return Address(connection=connection, database="", collection="things")

    def unprovisioned(self, connection: str) -> Address:
        return Address(connection=connection, database="", collection="silent")

    async def neighbour(self, connection: str) -> Address:
        await self._emulator.change_schema(self._database, *self._made("neighbours"))
        return Address(connection=connection, database="", collection="neighbours")

    async def put(self, item: Item, content: str) -> None:
        await self._writer.commit(put("things", COLUMNS, (item.partition, item.name, content)))

    async def delete(self, item: Item) -> None:
        await self._writer.commit(delete("things", item))

    async def recreate(self) -> None:
        dropped = ("DROP CHANGE STREAM things_stream", "DROP TABLE things")
        await self._emulator.change_schema(self._database, *dropped, *self._made("things"))

    def item_of(self, key: change_event_pb2.Key) -> Item:
        partition, name = key.components
        return Item(partition.value, name.value)

    def content_of(self, item_json: str) -> str:
        return str(json.loads(item_json)["content"])

    async def split(self, partition_id: str) -> None:
        raise NotImplementedError("the emulator splits when it wants to")

    async def merge(self, first: str, second: str) -> None:
        raise NotImplementedError("the emulator merges when it wants to")

    async def trim(self) -> timedelta:
        raise NotImplementedError("the emulator cannot be made to trim")

    async def trouble(self, dice: random.Random) -> None:
        raise NotImplementedError("the emulator cannot be made to refuse")

    def _made(self, table: str) -> tuple[str, str]:
        return self.table.format(table=table), self.stream.format(stream=f"{table}_stream", table=table)


class PostgresEmulatorBackend(EmulatorBackend):
    """The same in PostgreSQL's dialect."""

    dialect = POSTGRESQL
    table, stream = POSTGRES_TABLE, POSTGRES_STREAM


class SpannerWireBackend:
    """A wire-level server of the test's own, which splits, merges and trims on command."""

    hooks = frozenset(Hook)
    provider_id = "spanner"
    capabilities = EmulatorBackend.capabilities
    item_state = ItemState.INCLUDED
    largest_content = 2_500_000
    time_granularity = timedelta(0)

    def __init__(self) -> None:
        self._server = WireServer(Behaviour(partitions=3))

    async def start(self) -> None:
        await self._server.up()
        self._server.create_database(MAIN)
        self._make("things")
        self._database.create_table(_table("silent"))

    async def stop(self) -> None:
        await self._server.down()
        assert not self._server.api.own_faults

    async def connect(self) -> Provider:
        provider = make_provider(self._server.path(MAIN), self._server.host)
        await provider.start()
        return provider

    def address(self, connection: str) -> Address:
        return Address(connection=connection, database="", collection="things")

    def unprovisioned(self, connection: str) -> Address:
        return Address(connection=connection, database="", collection="silent")

    async def neighbour(self, connection: str) -> Address:
        self._make("neighbours")
        return Address(connection=connection, database="", collection="neighbours")

    async def put(self, item: Item, content: str) -> None:
        row = [item.partition, item.name, content]
        self._server.write(MAIN, {"insert_or_update": {"table": "things", "columns": COLUMNS, "values": [row]}})

    async def delete(self, item: Item) -> None:
        self._server.write(MAIN, {"delete": {"table": "things", "key_set": {"keys": [list(item)]}}})

    async def recreate(self) -> None:
        self._server.drop_stream(MAIN, "things_stream")
        self._database.drop_table("things")
        self._make("things")

    def item_of(self, key: change_event_pb2.Key) -> Item:
        partition, name = key.components
        return Item(partition.value, name.value)

    def content_of(self, item_json: str) -> str:
        return str(json.loads(item_json)["content"])

    async def split(self, partition_id: str) -> None:
        self._server.split(MAIN, "things_stream", partition_id)

    async def merge(self, first: str, second: str) -> None:
        self._server.merge(MAIN, "things_stream", first, second)

    async def trim(self) -> timedelta:
        self._server.trim(MAIN, "things_stream")
        # Time went on for everybody.
        return timedelta(0)

    async def trouble(self, dice: random.Random) -> None:
        error = dice.choice((throttled(), unavailable()))
        self._server.fail("*", error, times=dice.choice((1, 2, 8)), after_messages=dice.choice((0, 0, 1)))

    @property
    def _database(self) -> Database:
        return self._server.database(MAIN)

    def _make(self, name: str) -> None:
        self._database.create_table(_table(name))
        options = {"value_capture_type": "NEW_ROW"}
        self._database.create_stream(StreamDefinition(f"{name}_stream", watches={name: None}, options=options))


def _table(called: str) -> Table:
    columns = {"part": "STRING", "name": "STRING", "content": "STRING"}
    return Table(called, tuple(Column(name, kind) for name, kind in columns.items()), ("part", "name"))
