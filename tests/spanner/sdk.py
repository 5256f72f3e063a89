"""Bare calls of the unmodified SDK, on the emulator and the wire-level server alike: a test sees what was said."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
from google.api_core.exceptions import Aborted
from google.cloud.spanner_v1 import ExecuteSqlRequest, SpannerAsyncClient
from google.cloud.spanner_v1.services.spanner.transports import SpannerGrpcAsyncIOTransport
from google.protobuf import json_format

from tests.spanner.server.clock import parse, rfc3339

TIMEOUT = 30
"""Seconds that a call may take."""

Record = dict[str, Any]
"""A record by the names of its fields, the same in both dialects: one of data_change_record, heartbeat_record and
child_partitions_record. Counts are numbers, times are RFC 3339 in UTC with a Z, keys and values are objects."""


class BareDatabase:
    """One database through one session. A time is RFC 3339 text."""

    def __init__(self, host: str, path: str, *, postgres: bool) -> None:
        self.path = path
        self.postgres = postgres
        self.session = ""
        self._channel = grpc.aio.insecure_channel(host)
        self.client = SpannerAsyncClient(transport=SpannerGrpcAsyncIOTransport(channel=self._channel))

    async def open(self) -> None:
        """Make the session."""
        request = {"database": self.path, "session": {"multiplexed": True}}
        self.session = (await self.client.create_session(request=request, timeout=TIMEOUT)).name

    async def close(self) -> None:
        await self._channel.close()

    async def commit(self, *mutations: Mapping[str, Any], tag: str = "") -> str:
        """Carry mutations out as one transaction; gives its commit timestamp."""
        request = {
            "session": self.session,
            "single_use_transaction": {"read_write": {}},
            "mutations": list(mutations),
            "request_options": {"transaction_tag": tag},
        }
        while True:
            try:
                response = await self.client.commit(request=request, timeout=TIMEOUT)
            except Aborted:
                # The emulator has one transaction at a time, and its churn needs some.
                continue
            return rfc3339(response._pb.commit_timestamp.ToNanoseconds())

    async def rows(self, sql: str, **parameters: str | None) -> list[dict[str, Any]]:
        """All rows of a statement, by the names of their columns."""
        return [row async for row in self._rows(sql, parameters, dict.fromkeys(parameters, "STRING"))]

    async def now(self) -> str:
        """The time by the database's clock."""
        [row] = await self.rows("SELECT CURRENT_TIMESTAMP" if self.postgres else "SELECT CURRENT_TIMESTAMP()")
        return rfc3339(parse(*row.values()))

    async def query(
        self, stream: str, start: str, end: str | None = None, token: str | None = None, *, heartbeat: int = 1000
    ) -> list[Record]:
        """What a query of a change stream says until it ends."""
        return [record async for record in self.records(stream, start, end, token, heartbeat=heartbeat)]

    async def records(
        self, stream: str, start: str | None, end: str | None = None, token: str | None = None, *, heartbeat: int = 1000
    ) -> AsyncGenerator[Record, None]:
        """What a query of a change stream says, as it comes."""
        arguments = {"p1": start, "p2": end, "p3": token, "p4": str(heartbeat)}
        kinds = {"p1": "TIMESTAMP", "p2": "TIMESTAMP", "p3": "STRING", "p4": "INT64"}
        sql = f"SELECT ChangeRecord FROM READ_{stream}(@p1, @p2, @p3, @p4, NULL)"
        if self.postgres:
            sql = f'SELECT * FROM "spanner"."read_json_{stream}"($1, $2, $3, $4, null)'
        async with aclosing(self._rows(sql, arguments, kinds)) as rows:
            async for row in rows:
                [cell] = row.values()
                for record in [cell] if self.postgres else cell:
                    yield _plain(record)

    async def messages(
        self, sql: str, parameters: Mapping[str, str | None], kinds: Mapping[str, str]
    ) -> AsyncGenerator[Any, None]:
        """The messages of a statement, raw, as they come."""
        request = ExecuteSqlRequest(
            session=self.session,
            sql=sql,
            params=dict(parameters),
            param_types={name: {"code": kind} for name, kind in kinds.items()},
            transaction={"single_use": {"read_only": {"strong": True, "return_read_timestamp": True}}},
        )
        call: Any = await self.client.execute_streaming_sql(request=request, timeout=TIMEOUT)
        try:
            async for message in call:
                yield message._pb
        finally:
            call.cancel()

    async def _rows(
        self, sql: str, parameters: Mapping[str, str | None], kinds: Mapping[str, str]
    ) -> AsyncGenerator[dict[str, Any], None]:
        fields: list[Any] = []
        cells: list[Any] = []
        unfinished = None
        async with aclosing(self.messages(sql, parameters, kinds)) as messages:
            async for message in messages:
                fields = list(message.metadata.row_type.fields) or fields
                values = [json_format.MessageToDict(value) for value in message.values]
                if unfinished is not None:
                    values[0] = _joined(unfinished, values[0])
                unfinished = values.pop() if message.chunked_value else None
                cells += values
                while fields and len(cells) >= len(fields):
                    row, cells = cells[: len(fields)], cells[len(fields) :]
                    yield {f.name: _decoded(f.type_, value) for f, value in zip(fields, row, strict=True)}
        assert not cells
        assert unfinished is None


@asynccontextmanager
async def bare_database(host: str, path: str, *, postgres: bool) -> AsyncIterator[BareDatabase]:
    """An open database."""
    database = BareDatabase(host, path, postgres=postgres)
    try:
        await database.open()
        yield database
    finally:
        await database.close()


def mutation(operation: str, table: str, *rows: Mapping[str, Any]) -> dict[str, Any]:
    """Write rows that have the same columns: insert, update, insert_or_update, or replace."""
    columns = list(rows[0])
    return {operation: {"table": table, "columns": columns, "values": [[row[c] for c in columns] for row in rows]}}


def deletion(table: str, *keys: list[Any]) -> dict[str, Any]:
    """Delete rows by their keys."""
    return {"delete": {"table": table, "key_set": {"keys": list(keys)}}}


def _joined(first: Any, rest: Any) -> Any:
    """Join the two parts of a value that came in two messages."""
    if isinstance(first, str):
        return first + rest
    if not first or not rest:
        return [*first, *rest]
    if isinstance(first[-1], str | list):
        return [*first[:-1], _joined(first[-1], rest[0]), *rest[1:]]
    return [*first, *rest]


def _decoded(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    match kind.code:
        case 8:  # ARRAY
            return [_decoded(kind.array_element_type, item) for item in value]
        case 9:  # STRUCT
            fields = kind.struct_type.fields
            return {field.name: _decoded(field.type_, item) for field, item in zip(fields, value, strict=True)}
        case 2:  # INT64
            return int(value)
        case 11:  # JSON
            return json.loads(value)
        case _:
            return value


def _plain(record: Record) -> Record:
    """The one record of a row, with its times in one form."""
    [(kind, content)] = [(name, body) for name, body in record.items() if body]
    content = content[0] if isinstance(content, list) else content
    times = ("commit_timestamp", "timestamp", "start_timestamp")
    return {kind: {n: rfc3339(parse(v)) if n in times else v for n, v in content.items()}}
