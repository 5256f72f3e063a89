"""The wire-level server for each test, and a place on both backends for tests of what both can do."""

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.spanner.emulator import GOOGLE_SQL, POSTGRESQL, Emulator
from tests.spanner.sdk import BareDatabase, Record, bare_database
from tests.spanner.server.behaviour import Behaviour
from tests.spanner.server.schema import StreamDefinition, table
from tests.spanner.server.wire import WireServer

THINGS = table("things", "id", id="INT64", text="STRING", number="INT64")
CHANGES = StreamDefinition("changes")
MAIN = "main"

_NUMBERS = itertools.count(1)


@pytest.fixture(params=[False, True], ids=["googlesql", "postgresql"])
def postgres(request: pytest.FixtureRequest) -> bool:
    """The dialect."""
    return bool(request.param)


@pytest.fixture
async def wire_server() -> AsyncIterator[WireServer]:
    """A server with the table `things` and the change stream `changes`, in the database `main`."""
    async with WireServer(Behaviour()) as server:
        server.create_database(MAIN, [THINGS], [CHANGES])
        yield server


@pytest.fixture
async def wire_database(wire_server: WireServer) -> AsyncIterator[BareDatabase]:
    async with bare_database(wire_server.host, wire_server.path(MAIN), postgres=False) as database:
        yield database


@dataclass(frozen=True)
class Place:
    """A database with `things` and `changes`, on one of the backends."""

    database: BareDatabase
    start: str
    """A time before the first change."""
    backend: WireServer | Emulator
    name: str
    """The name of the database there."""

    async def first_partition(self) -> str:
        """A partition of the beginning."""
        first, *_ = await self.database.query("changes", self.start)
        [child] = first["child_partitions_record"]["child_partitions"]
        return str(child["token"])

    async def ended_partition(self) -> tuple[str, Record]:
        """A partition of the beginning that has ended, and the child record that its query ends with.

        On the server it ends now; on the emulator it must be one that churns.
        """
        token = await self.first_partition()
        if isinstance(self.backend, WireServer):
            self.backend.split(self.name, "changes", token)
        *_, last = await self.database.query("changes", self.start, None, token)
        return token, last["child_partitions_record"]

    async def drop_stream(self) -> None:
        if isinstance(self.backend, WireServer):
            self.backend.drop_stream(self.name, "changes")
        else:
            await self.backend.change_schema(self.name, "DROP CHANGE STREAM changes")

    async def create_stream(self) -> None:
        if isinstance(self.backend, WireServer):
            self.backend.database(self.name).create_stream(CHANGES)
        else:
            await self.backend.change_schema(self.name, CHANGES.ddl(postgres=self.database.postgres))


@pytest.fixture(params=["server", "emulator"])
def quiet_backend(request: pytest.FixtureRequest) -> Emulator | None:
    """The emulator, whose partitions stay; None for a wire-level server of the test's own."""
    # Not async: only so may it ask for a fixture that is.
    return request.getfixturevalue("spanner_emulator") if request.param == "emulator" else None


@pytest.fixture(params=["server", "emulator"])
def churning_backend(request: pytest.FixtureRequest) -> Emulator | None:
    """The emulator, whose partitions come and go; None for a wire-level server of the test's own."""
    return request.getfixturevalue("churning_spanner_emulator") if request.param == "emulator" else None


@pytest.fixture
async def place(quiet_backend: Emulator | None, postgres: bool) -> AsyncIterator[Place]:
    """On both backends, in both dialects."""
    async with _place(quiet_backend, postgres=postgres) as place:
        yield place


@pytest.fixture
async def churning_place(churning_backend: Emulator | None, postgres: bool) -> AsyncIterator[Place]:
    """A place whose partitions end: at once on the server, soon on the emulator."""
    async with _place(churning_backend, postgres=postgres) as place:
        yield place


@asynccontextmanager
async def _place(emulator: Emulator | None, *, postgres: bool) -> AsyncIterator[Place]:
    name = f"place-{next(_NUMBERS)}"
    async with AsyncExitStack() as stack:
        backend: Emulator | WireServer
        if emulator is None:
            backend = await stack.enter_async_context(WireServer(Behaviour()))
            backend.create_database(name, [THINGS], [CHANGES], postgres=postgres)
        else:
            backend = emulator
            ddl = [made.ddl(postgres=postgres) for made in (THINGS, CHANGES)]
            await backend.create_database(name, ddl, dialect=POSTGRESQL if postgres else GOOGLE_SQL)
            stack.push_async_callback(backend.drop_database, name)
        opened = bare_database(backend.host, backend.path(name), postgres=postgres)
        database = await stack.enter_async_context(opened)
        yield Place(database, await database.now(), backend, name)
