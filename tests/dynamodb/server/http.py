"""The protocol: JSON 1.0 over HTTP, faults included."""

import asyncio
import json
import threading
import traceback
import zlib
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, assert_never

from aiohttp import web

from tests.dynamodb.server.account import Account
from tests.dynamodb.server.calls import Call, Calls
from tests.dynamodb.server.errors import ServiceError
from tests.dynamodb.server.faults import Fault, Kind
from tests.dynamodb.server.iterators import ShardIterator
from tests.dynamodb.server.shapes import TARGETS, check_answer, check_error, check_request
from tests.dynamodb.server.stream_api import StreamApi
from tests.dynamodb.server.table_api import table_operations
from tests.faults import Faults
from tests.http_server import cut, dropped

CONTENT_TYPE = "application/x-amz-json-1.0"

_PREFIXES = {"ValidationException": "com.amazon.coral.validate", "AccessDeniedException": "com.amazon.coral.service"}

Operation = Callable[[Mapping[str, Any]], dict[str, Any] | bytes]


class Endpoint:
    """Answers the requests of both services, one at a time but for those that a fault holds up."""

    def __init__(self, account: Account, turn: threading.RLock) -> None:
        self.account = account
        self.calls = Calls()
        self.faults = Faults[Fault]()
        self.streams = StreamApi(account)
        self.own_faults: list[str] = []
        """What went wrong in this server, such as an answer that the model does not allow."""
        self._turn = turn
        self._request_ids = count(1)
        self._operations: dict[str, Mapping[str, Operation]] = {
            "dynamodb": table_operations(account),
            "dynamodbstreams": self.streams.operations(),
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request, or do to it what a fault wants."""
        version, _, operation = request.headers.get("X-Amz-Target", "").partition(".")
        service = TARGETS.get(version, "")
        try:
            if operation not in self._operations.get(service, {}):
                raise ServiceError("UnknownOperationException", f"{version}.{operation}")
            parameters = json.loads(await request.read())
            check_request(service, operation, parameters)
            return await self._serve(request, service, operation, parameters)
        except ServiceError as error:
            return self._refuse(service, operation, error)
        except Exception:
            self.own_faults.append(traceback.format_exc())
            return self._answer(b"{}", 500)

    async def _serve(
        self, request: web.Request, service: str, operation: str, parameters: Mapping[str, Any]
    ) -> web.StreamResponse:
        call = _call(operation, parameters)
        with self.calls.under_way(call, self.account.behaviour.readers):
            if operation == "GetRecords":
                await asyncio.sleep(self.account.behaviour.thinking.total_seconds())
            with self._turn:
                fault = self.faults.take(call)
            if fault is None:
                return self._carry_out(service, operation, parameters)
            match fault.what:
                case ServiceError() as error:
                    raise error
                case Kind.DROP:
                    return dropped(request)
                case Kind.CUT:
                    return await cut(request, self._carry_out(service, operation, parameters))
                case Kind.STALL:
                    await fault.released.wait()
                    return self._carry_out(service, operation, parameters)
                case _:
                    assert_never(fault.what)

    def _carry_out(self, service: str, operation: str, parameters: Mapping[str, Any]) -> web.Response:
        with self._turn:
            answer = self._operations[service][operation](parameters)
        if not isinstance(answer, bytes):
            check_answer(service, operation, answer)
            answer = json.dumps(answer).encode()
        return self._answer(answer, 200)

    def _refuse(self, service: str, operation: str, error: ServiceError) -> web.Response:
        if operation in self._operations.get(service, {}):
            try:
                check_error(service, operation, error)
            except AssertionError:
                self.own_faults.append(traceback.format_exc())
        with self._turn:
            self.calls.errors[operation, error.code] += 1
        prefix = _PREFIXES.get(error.code, "com.amazonaws.dynamodb.v20120810")
        body = {"__type": f"{prefix}#{error.code}", "message": error.message}
        return self._answer(json.dumps(body).encode(), error.status)

    def _answer(self, body: bytes, status: int) -> web.Response:
        headers = {
            "Date": self.account.clock.http_date(),
            "Server": "Server",
            "x-amzn-RequestId": f"WIRE{next(self._request_ids):048d}",
            "x-amz-crc32": str(zlib.crc32(body)),
        }
        return web.Response(body=body, status=status, headers=headers, content_type=CONTENT_TYPE)


def _call(operation: str, parameters: Mapping[str, Any]) -> Call:
    if operation == "GetRecords":
        iterator = ShardIterator.decode(parameters["ShardIterator"])
        return Call(operation, iterator.shard_id, iterator.reader)
    return Call(operation, str(parameters.get("ShardId", "")))
