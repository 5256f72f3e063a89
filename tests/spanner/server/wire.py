"""The running server, and a test's hands on it.

    things = table("things", "id", id="INT64", text="STRING")
    async with WireServer(Behaviour(partitions=2)) as server:
        server.create_database("main", [things], [StreamDefinition("changes")])
        server.write("main", {"insert": {"table": "things", "columns": ["id", "text"], "values": [["1", "a"]]}})
        first, second = server.alive("main", "changes")
        merged = server.merge("main", "changes", first, second)

Its `host` is what SPANNER_EMULATOR_HOST has; a database has the full name `server.path("main")`. Mutations have the
form of the API's JSON; a writer that uses the SDK may commit mutations as well. Every command is one step, which no
query sees half done.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

import grpc

from tests.faults import ALWAYS
from tests.spanner.server.account import INSTANCE, PROJECT, Account
from tests.spanner.server.api import SpannerApi
from tests.spanner.server.behaviour import Behaviour
from tests.spanner.server.database import Database, Mutation
from tests.spanner.server.errors import ServiceError, access_denied
from tests.spanner.server.faults import Fault, Kind
from tests.spanner.server.schema import StreamDefinition, Table
from tests.spanner.server.stream import ChangeStream
from tests.spanner.server.transaction import Commit


class WireServer:
    """Listens on loopback, in the event loop that enters it; its commands are for that loop alone.

    An async context manager. Leaving it raises AssertionError if the server itself was at fault.
    """

    def __init__(self, behaviour: Behaviour | None = None, *, port: int = 0) -> None:
        self.behaviour = behaviour or Behaviour()
        self.account = Account(self.behaviour)
        self.api = SpannerApi(self.account)
        self.calls = self.api.calls
        self.project = PROJECT
        self.instance = INSTANCE
        self.port = port
        self._server: grpc.aio.Server | None = None

    # --- Life

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.down()
        assert not self.api.own_faults, "\n".join(self.api.own_faults)

    async def up(self) -> None:
        """Listen, on the port of before if there was one."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self.api.handler(),))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def down(self) -> None:
        """End all calls and listen no more; what the databases hold stays."""
        self.clear_faults()
        assert self._server is not None
        await self._server.stop(grace=None)

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    # --- Databases

    def path(self, database: str) -> str:
        """The full name of a database."""
        return self.account.path(database)

    def create_database(
        self,
        name: str,
        tables: Iterable[Table] = (),
        streams: Iterable[StreamDefinition] = (),
        *,
        postgres: bool = False,
    ) -> Database:
        """Make a database, with its tables and change streams."""
        database = self.account.create_database(name, postgres=postgres)
        database.create_table(*tables)
        for stream in streams:
            database.create_stream(stream)
        return database

    def database(self, name: str) -> Database:
        """A database, to change its schema, or to look at while nothing else happens."""
        return self.account.database(self.path(name))

    def drop_database(self, name: str) -> None:
        self.account.drop_database(name)

    # --- Writing

    def write(self, database: str, *mutations: Mutation, tag: str = "", at: int | None = None) -> Commit:
        """Commit one transaction; `at` is its commit timestamp in nanoseconds, such as that of another transaction."""
        return self.database(database).commit(mutations, at=at, tag=tag)

    def write_unseen(self, database: str, *mutations: Mutation) -> Commit:
        """Commit a transaction that asks to be kept out of the change streams that allow this."""
        return self.database(database).commit(mutations, excluded=True)

    def expire(self, database: str, table: str, *keys: Sequence[object]) -> Commit:
        """Delete rows as the service does when their time to live is over."""
        mutation = {"delete": {"table": table, "key_set": {"keys": list(keys)}}}
        return self.database(database).commit([mutation], system=True, expiry=True, tag="RowDeletionPolicy")

    # --- Streams

    def stream(self, database: str, name: str) -> ChangeStream:
        """A change stream, to look at while nothing else happens."""
        return self.database(database).streams[name]

    def alive(self, database: str, stream: str) -> list[str]:
        """Tokens of the partitions that take changes."""
        return [partition.token for partition in self.stream(database, stream).alive()]

    def split(self, database: str, stream: str, token: str, *, parts: int = 2) -> list[str]:
        """End a partition in favour of several."""
        return [child.token for child in self.stream(database, stream).replace([token], parts)]

    def merge(self, database: str, stream: str, *tokens: str) -> str:
        """End partitions, two or more, in favour of one."""
        [child] = self.stream(database, stream).replace(tokens, 1)
        return child.token

    def move(self, database: str, stream: str, token: str) -> str:
        """End a partition in favour of one that goes on."""
        [child] = self.stream(database, stream).replace([token], 1)
        return child.token

    def drop_stream(self, database: str, name: str) -> StreamDefinition:
        """Drop a change stream with its data; its queries end."""
        definition = self.stream(database, name).definition
        self.database(database).drop_stream(name)
        return definition

    def recreate_stream(self, database: str, name: str) -> ChangeStream:
        """Drop a change stream and make it again under its name."""
        return self.database(database).create_stream(self.drop_stream(database, name))

    def omit_child_records(self, database: str, stream: str, token: str, *, times: int = ALWAYS) -> None:
        """Let queries that come to a partition's end finish without saying who goes on."""
        self.stream(database, stream).partition(token).silent_ends = times

    def beat_early(self, database: str, stream: str, token: str, *, times: int) -> None:
        """Let so many bounded queries of a partition begin with a heartbeat of the moment after their start."""
        self.stream(database, stream).partition(token).early_beats = times

    def end_queries(self, database: str, stream: str, token: str) -> None:
        """Let the queries of a partition that run now finish as if it had ended, without a child record."""
        found = self.stream(database, stream)
        found.partition(token).cuts += 1
        found.changed.ring()

    # --- Time

    def now(self) -> int:
        """The server's time, in nanoseconds."""
        return self.account.clock.now()

    def pass_time(self, span: timedelta) -> None:
        """Let time pass, and forget what has become too old. It may go back only while there is no database."""
        assert span >= timedelta(0) or not self.account.databases
        self.account.clock.advance(span)
        for database in self.account.databases.values():
            for stream in database.streams.values():
                stream.trim()
                stream.changed.ring()

    def trim(self, database: str, stream: str, *, slack: timedelta = timedelta(seconds=30)) -> timedelta:
        """Let so much time pass that every change so far of a stream is forgotten, and answer how much.

        The earliest start is then the time of the last change, and stays so until the slack is over.
        """
        found = self.stream(database, stream)
        last = found.history[-1].commit_timestamp if found.history else self.now()
        passed = timedelta(microseconds=(last + found.retention - self.now()) // 1000) - slack
        self.pass_time(passed)
        found.trim(last)
        found.changed.ring()
        return passed

    # --- Faults

    def fail(
        self,
        operation: str,
        error: ServiceError,
        *,
        times: int = 1,
        partition: str | None = None,
        after_messages: int = 0,
    ) -> None:
        """Answer calls of an operation with an error, so many times or ALWAYS, behind so many of their messages.

        An operation is an RPC's name, or "*" for any; an ExecuteStreamingSql is called Initial, Partition, Metadata, or
        Statement for any other.
        """
        self.api.faults.add(Fault(operation, error, times, partition, after_messages))

    def deny(self, database: str, operation: str = "*") -> None:
        """Take the permission to read away."""
        self.fail(operation, access_denied(self.path(database)), times=ALWAYS)

    def stall(
        self, operation: str, *, times: int = ALWAYS, partition: str | None = None, after_messages: int = 0
    ) -> None:
        """Give no answer, or no further one, until the faults are cleared."""
        self.api.faults.add(Fault(operation, Kind.STALL, times, partition, after_messages))

    def end_early(
        self, operation: str, *, times: int = 1, partition: str | None = None, after_messages: int = 0
    ) -> None:
        """End the answers, OK, behind so many messages."""
        self.api.faults.add(Fault(operation, Kind.END, times, partition, after_messages))

    def clear_faults(self) -> None:
        """Let nothing go wrong any more, and answer what was stalled."""
        for fault in self.api.faults.clear():
            fault.released.set()
