"""Writes to a Spanner database, as an application makes them."""

from collections.abc import Sequence
from typing import Any

import grpc
from google.cloud.spanner_v1.services.spanner import SpannerAsyncClient
from google.cloud.spanner_v1.services.spanner.transports import SpannerGrpcAsyncIOTransport
from google.cloud.spanner_v1.types import CommitResponse, ExecuteSqlRequest, Mutation


class Writer:
    """One application with a session of its own."""

    def __init__(self, host: str, database: str) -> None:
        self._database = database
        self._channel = grpc.aio.insecure_channel(host)
        self._client = SpannerAsyncClient(transport=SpannerGrpcAsyncIOTransport(channel=self._channel))
        self._session = ""

    async def close(self) -> None:
        await self._channel.close()

    async def commit(self, *mutations: Mutation, tag: str = "") -> CommitResponse:
        """Commit mutations as one transaction."""
        request = {
            "session": await self._open(),
            "single_use_transaction": {"read_write": {}},
            "mutations": list(mutations),
            "request_options": {"transaction_tag": tag},
        }
        return await self._client.commit(request=request)

    async def run(self, *statements: str) -> None:
        """Run DML as one transaction."""
        session = await self._open()
        begun = await self._client.begin_transaction(request={"session": session, "options": {"read_write": {}}})
        for number, sql in enumerate(statements, 1):
            request = ExecuteSqlRequest(session=session, sql=sql, seqno=number, transaction={"id": begun.id})
            await self._client.execute_sql(request=request)
        await self._client.commit(request={"session": session, "transaction_id": begun.id})

    async def _open(self) -> str:
        if not self._session:
            self._session = (await self._client.create_session(request={"database": self._database})).name
        return self._session


def insert(table: str, columns: Sequence[str], *rows: Sequence[Any]) -> Mutation:
    return Mutation(insert=_write(table, columns, rows))


def update(table: str, columns: Sequence[str], *rows: Sequence[Any]) -> Mutation:
    return Mutation(update=_write(table, columns, rows))


def put(table: str, columns: Sequence[str], *rows: Sequence[Any]) -> Mutation:
    return Mutation(insert_or_update=_write(table, columns, rows))


def delete(table: str, *keys: Sequence[Any]) -> Mutation:
    return Mutation(delete=Mutation.Delete(table=table, key_set={"keys": [list(key) for key in keys]}))


def _write(table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Mutation.Write:
    return Mutation.Write(table=table, columns=list(columns), values=[list(row) for row in rows])
