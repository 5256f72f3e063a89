"""A wire-level server with a table, a gateway in front of it that can be killed, and a caller."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import Address
from tests.conformance.client import Client, wire_address
from tests.gateway import QUICK, RunningGateway
from tests.spanner.gateway import make_provider
from tests.spanner.server.behaviour import Behaviour
from tests.spanner.server.schema import StreamDefinition, Table, table
from tests.spanner.server.transaction import Commit
from tests.spanner.server.wire import WireServer

CONNECTION = "subject"
MAIN = "main"
CHANGES = "changes"
THINGS = table("things", "id", id="INT64", text="STRING", number="INT64")
NEW_ROW: Mapping[str, str | bool] = {"value_capture_type": "NEW_ROW"}


class Scene:
    """One table with its change stream, unless the test makes others."""

    def __init__(self, server: WireServer, *, watched: Table = THINGS, **provider: Any) -> None:
        self.server = server
        self.table = watched
        self._options = provider
        self._gateway: RunningGateway | None = None

    async def serve(self, *, limits: Limits = QUICK) -> None:
        """Start a gateway."""
        provider = make_provider(self.server.path(MAIN), self.server.host, **self._options)
        self._gateway = await RunningGateway.start({CONNECTION: provider}, limits=limits)

    async def kill(self) -> None:
        """End the gateway without a word to anybody."""
        if self._gateway is not None:
            await self._gateway.kill()
        self._gateway = None

    async def restart(self) -> None:
        """Kill the gateway and start another."""
        await self.kill()
        await self.serve()

    @property
    def client(self) -> Client:
        """A caller that asks for the table."""
        return self.client_of(self.table.name)

    def client_of(self, collection: str) -> Client:
        """A caller that asks for another table."""
        assert self._gateway is not None
        address = Address(connection=CONNECTION, database="", collection=collection)
        return Client(self._gateway.stub, wire_address(address))

    @property
    def partition(self) -> str:
        """The only partition that takes changes."""
        [token] = self.server.alive(MAIN, CHANGES)
        return token

    def put(self, *rows: Mapping[str, Any], tag: str = "", at: int | None = None) -> Commit:
        """Create or replace rows of the same columns, as one transaction."""
        columns = list(rows[0])
        values = [[row[column] for column in columns] for row in rows]
        mutation = {"insert_or_update": {"table": self.table.name, "columns": columns, "values": values}}
        return self.server.write(MAIN, mutation, tag=tag, at=at)

    def delete(self, *key: object) -> Commit:
        """Delete a row."""
        return self.server.write(MAIN, {"delete": {"table": self.table.name, "key_set": {"keys": [list(key)]}}})


@asynccontextmanager
async def made(
    behaviour: Behaviour | None = None,
    *,
    options: Mapping[str, str | bool] = NEW_ROW,
    watched: Table = THINGS,
    watches: Mapping[str, Any] | None = None,
    postgres: bool = False,
    limits: Limits = QUICK,
    **provider: Any,
) -> AsyncIterator[Scene]:
    """A server with the table and its stream, and a gateway."""
    async with WireServer(behaviour or Behaviour()) as server:
        stream = StreamDefinition(CHANGES, watches, options)
        server.create_database(MAIN, [watched], [stream], postgres=postgres)
        scene = Scene(server, watched=watched, **provider)
        await scene.serve(limits=limits)
        try:
            yield scene
        finally:
            await scene.kill()


def thing(number: int, text: str = "a") -> dict[str, Any]:
    """A row of the table."""
    return {"id": str(number), "text": text}
