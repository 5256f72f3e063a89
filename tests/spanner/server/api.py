"""The calls of `google.spanner.v1.Spanner` that a reader needs, and those of a writer of mutations."""

import itertools
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, assert_never

import grpc
from google.cloud.spanner_v1 import (
    BeginTransactionRequest,
    CommitRequest,
    CommitResponse,
    CreateSessionRequest,
    DeleteSessionRequest,
    ExecuteSqlRequest,
    GetSessionRequest,
    ReadRequest,
    Session,
    Transaction,
)
from google.protobuf import empty_pb2, json_format, struct_pb2

from tests.faults import Faults
from tests.spanner.server import encoding, errors, metadata
from tests.spanner.server.account import Account
from tests.spanner.server.calls import Call, Calls
from tests.spanner.server.database import Database
from tests.spanner.server.errors import ServiceError
from tests.spanner.server.faults import Fault, Kind
from tests.spanner.server.reading import Reading, StreamQuery, check_query, parse_query
from tests.spanner.server.rows import read_rows

Context = Any
Messages = AsyncGenerator[bytes, None]

SERVICE = "google.spanner.v1.Spanner"


class SpannerApi:
    """One account's databases, over gRPC."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.calls = Calls()
        self.faults = Faults[Fault]()
        self.own_faults: list[str] = []
        """What went wrong in this server."""
        self._sessions: dict[str, str] = {}
        self._numbers = itertools.count(1)

    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server is given."""
        unary: dict[str, tuple[Any, Callable[[Any], Any]]] = {
            "CreateSession": (CreateSessionRequest, self._create_session),
            "GetSession": (GetSessionRequest, self._get_session),
            "DeleteSession": (DeleteSessionRequest, self._delete_session),
            "BeginTransaction": (BeginTransactionRequest, self._begin_transaction),
            "Commit": (CommitRequest, self._commit),
        }
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(
                self._unary(name, carry_out),
                request_deserializer=kind.pb().FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
            for name, (kind, carry_out) in unary.items()
        }
        handlers["ExecuteStreamingSql"] = grpc.unary_stream_rpc_method_handler(
            self._execute_streaming_sql,
            request_deserializer=ExecuteSqlRequest.pb().FromString,
            response_serializer=None,
        )
        handlers["StreamingRead"] = grpc.unary_stream_rpc_method_handler(
            self._streaming_read,
            request_deserializer=ReadRequest.pb().FromString,
            response_serializer=None,
        )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    # --- Sessions and transactions

    def _create_session(self, request: Any) -> Any:
        self.account.database(request.database)
        name = f"{request.database}/sessions/{next(self._numbers)}"
        self._sessions[name] = request.database
        return Session.pb()(name=name, multiplexed=request.session.multiplexed)

    def _get_session(self, request: Any) -> Any:
        self._database(request.name)
        return Session.pb()(name=request.name)

    def _delete_session(self, request: Any) -> empty_pb2.Empty:
        self._sessions.pop(request.name, None)
        return empty_pb2.Empty()

    def _begin_transaction(self, request: Any) -> Any:
        self._database(request.session)
        return Transaction.pb()(id=str(next(self._numbers)).encode())

    def _commit(self, request: Any) -> Any:
        database = self._database(request.session)
        mutations = [json_format.MessageToDict(m, preserving_proto_field_name=True) for m in request.mutations]
        excluded = request.single_use_transaction.exclude_txn_from_change_streams
        commit = database.commit(mutations, tag=request.request_options.transaction_tag, excluded=excluded)
        response = CommitResponse.pb()()
        response.commit_timestamp.FromNanoseconds(commit.timestamp)
        return response

    def _unary(self, name: str, carry_out: Callable[[Any], Any]) -> Callable[[Any, Context], Awaitable[Any]]:
        async def serve(request: Any, context: Context) -> Any:
            call = Call(name)
            try:
                with self.calls.under_way(call):
                    if (fault := self.faults.take(call)) is not None:
                        await _happen(fault)
                    return carry_out(request)
            except Exception as error:
                await self._refuse(name, error, context)

        return serve

    # --- Queries

    async def _execute_streaming_sql(self, request: Any, context: Context) -> Messages:
        operation = "ExecuteStreamingSql"
        try:
            database = self._database(request.session)
            query = parse_query(request.sql, _texts(request.params), postgres=database.postgres)
            call = _call(query, request.sql)
            operation = call.operation
            with self.calls.under_way(call):
                fault = self.faults.take(call)
                messages = (
                    self._statement(database, request) if query is None else self._records(database, query, request)
                )
                async with aclosing(messages):
                    async for message in _until_fault(messages, fault):
                        yield message
        except Exception as error:
            await self._refuse(operation, error, context)

    async def _statement(self, database: Database, request: Any) -> Messages:
        parameters = json_format.MessageToDict(request.params)
        now = self.account.clock.tick()
        result = metadata.answer(database, request.sql, parameters, now=now)
        yield encoding.head(result.row_type, read_timestamp=now) + encoding.row(*result.values)

    async def _records(self, database: Database, query: StreamQuery, request: Any) -> Messages:
        behaviour = self.account.behaviour
        stream = database.stream(query.stream)
        if not request.transaction.single_use.read_only.strong:
            raise errors.not_strong()
        check_query(query, behaviour)
        reading = Reading(stream, query, clock=self.account.clock, behaviour=behaviour)
        if query.partition is not None and self.calls.readers(query.partition) > behaviour.readers:
            raise errors.too_many_readers()
        kind = encoding.row_type(postgres=database.postgres, name=f"read_json_{query.stream}")
        head = encoding.head(kind)
        async with aclosing(reading.messages()) as batches:
            async for batch in batches:
                message = b"".join([head, *batch, *([encoding.RESUME] if behaviour.resume_tokens else [])])
                head = b""
                pieces = [message] if behaviour.chunk_every is None else encoding.chunks(message, behaviour.chunk_every)
                for piece in pieces:
                    yield piece
        if head:
            yield head

    async def _streaming_read(self, request: Any, context: Context) -> Messages:
        call = Call("StreamingRead")
        try:
            database = self._database(request.session)
            with self.calls.under_way(call):
                fault = self.faults.take(call)
                async with aclosing(self._rows(database, request)) as messages:
                    async for message in _until_fault(messages, fault):
                        yield message
        except Exception as error:
            await self._refuse(call.operation, error, context)

    async def _rows(self, database: Database, request: Any) -> Messages:
        now = self.account.clock.tick()
        for message in read_rows(database, request, now=now, behaviour=self.account.behaviour):
            yield message

    # --- Inside

    def _database(self, session: str) -> Database:
        if (path := self._sessions.get(session)) is None:
            raise errors.not_found(f"Session not found: {session}")
        return self.account.database(path)

    async def _refuse(self, operation: str, error: Exception, context: Context) -> None:
        if not isinstance(error, ServiceError):
            self.own_faults.append("".join(traceback.format_exception(error)))
            error = ServiceError(grpc.StatusCode.INTERNAL, "The server of the tests is at fault.")
        self.calls.errors[operation, error.code.name] += 1
        await context.abort(error.code, error.message)


def _call(query: StreamQuery | None, sql: str) -> Call:
    if query is None:
        return Call("Metadata" if "information_schema" in sql.lower() else "Statement")
    return Call("Initial" if query.partition is None else "Partition", query.partition, query.start, query.end)


async def _until_fault(messages: Messages, fault: Fault | None) -> Messages:
    """Let a fault happen behind so many messages."""
    sent = 0
    if fault is not None and fault.after_messages == 0 and await _happen(fault):
        return
    async for message in messages:
        yield message
        sent += 1
        if fault is not None and fault.after_messages == sent and await _happen(fault):
            return


async def _happen(fault: Fault) -> bool:
    """Do what a fault wants; tells whether the answers end here."""
    match fault.what:
        case ServiceError() as error:
            raise error
        case Kind.STALL:
            await fault.released.wait()
            return False
        case Kind.END:
            return True
        case _:
            assert_never(fault.what)


def _texts(parameters: struct_pb2.Struct) -> dict[str, str | None]:
    return {
        name: value.string_value if value.HasField("string_value") else None
        for name, value in parameters.fields.items()
    }
