"""The protocol: JSON over HTTP, faults included."""

import asyncio
import threading
import traceback
from collections.abc import Callable, Mapping
from itertools import count
from typing import assert_never

from aiohttp import web

from tests.cosmos.server.account import Account
from tests.cosmos.server.calls import Call, Calls
from tests.cosmos.server.container_api import container_operations
from tests.cosmos.server.errors import ServiceError, invalid, other_container
from tests.cosmos.server.faults import Fault, Kind
from tests.cosmos.server.feed_api import FeedApi
from tests.cosmos.server.item_api import item_operations
from tests.cosmos.server.message import Answer, Request, answer
from tests.cosmos.server.query_api import query_operations
from tests.cosmos.server.signature import check_authorization
from tests.faults import Faults
from tests.http_server import cut, dropped

Operation = Callable[[Request], Answer]


class Endpoint:
    """Answers requests one at a time, but for those that a fault holds up."""

    def __init__(self, account: Account, turn: threading.RLock, *, key: str, readonly_key: str) -> None:
        self.account = account
        self.key = key
        self.readonly_key = readonly_key
        self.tokens: set[str] = set()
        """Entra's, which this account accepts."""
        self.locations: dict[str, str] = {}
        """The URL of each region, that of the writes first."""
        self.calls = Calls()
        self.faults = Faults[Fault]()
        self.feed = FeedApi(account)
        self.own_faults: list[str] = []
        """What went wrong in this server."""
        self._turn = turn
        self._activities = count(1)
        self._operations: Mapping[str, Operation] = {
            **container_operations(account, lambda: self.locations),
            **item_operations(account),
            **query_operations(account),
            "ReadChangeFeed": self.feed.read,
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request, or do to it what a fault wants."""
        asked = Request.parse(request.method, request.rel_url.raw_path, request.headers, await request.read())
        call = asked.call()._replace(region=self._region_of(request))
        try:
            return await self._serve(request, asked, call)
        except ServiceError as error:
            return self._refuse(call, error)
        except Exception:
            self.own_faults.append(traceback.format_exc())
            return self._respond(Answer(500))

    async def _serve(self, request: web.Request, asked: Request, call: Call) -> web.StreamResponse:
        with self.calls.under_way(call):
            if call.operation == "ReadChangeFeed":
                await asyncio.sleep(self.account.behaviour.thinking.total_seconds())
            with self._turn:
                fault = self.faults.take(call)
            if fault is None:
                return self._carry_out(asked, call)
            match fault.what:
                case ServiceError() as error:
                    raise error
                case Kind.DROP:
                    return dropped(request)
                case Kind.CUT:
                    return await cut(request, self._carry_out(asked, call))
                case Kind.LOST:
                    self._carry_out(asked, call)
                    return dropped(request)
                case Kind.STALL:
                    await fault.released.wait()
                    return self._carry_out(asked, call)
                case _:
                    assert_never(fault.what)

    def _carry_out(self, asked: Request, call: Call) -> web.Response:
        with self._turn:
            check_authorization(asked, self.key, self.readonly_key, self.tokens)
            if call.operation not in self._operations:
                raise invalid(f"this server does not know {call.operation}")
            self._check_container(asked)
            owner = self.account.owner_headers(asked.owner)
            done = self._operations[call.operation](asked)
            return self._respond(Answer(done.status, done.body, {**owner, **done.headers}))

    def _region_of(self, request: web.Request) -> str:
        assert request.transport is not None
        address, port = request.transport.get_extra_info("sockname")
        return next(name for name, url in self.locations.items() if url == f"http://{address}:{port}")

    def _check_container(self, asked: Request) -> None:
        intended = asked.headers.get("x-ms-cosmos-intended-collection-rid")
        if intended and self.account.container(asked.path[1], asked.path[3]).rid != intended:
            raise other_container()

    def _refuse(self, call: Call, error: ServiceError) -> web.Response:
        with self._turn:
            self.calls.errors[call.operation, error.status, error.sub_status] += 1
        headers = {"x-ms-substatus": str(error.sub_status)} if error.sub_status else {}
        if error.retry_after_ms:
            headers["x-ms-retry-after-ms"] = str(error.retry_after_ms)
        told = {"code": error.code, "message": error.message}
        if error.additional_info:
            told["additionalErrorInfo"] = error.additional_info
        body = answer(told, error.status)
        return self._respond(Answer(error.status, body.body, headers))

    def _respond(self, what: Answer) -> web.Response:
        charge = self.account.behaviour.request_charge
        self.calls.charged(charge)
        headers = {
            "Date": self.account.clock.http_date(),
            "x-ms-activity-id": f"00000000-0000-0000-0000-{next(self._activities):012d}",
            "x-ms-request-charge": str(charge),
            "x-ms-serviceversion": "version=2.14.0.0",
            "x-ms-gatewayversion": "version=2.14.0",
            **what.headers,
        }
        if what.status in (204, 304):
            return web.Response(status=what.status, headers=headers)
        return web.Response(body=what.body, status=what.status, headers=headers, content_type="application/json")
