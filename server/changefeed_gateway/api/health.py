"""Health by grpc.health.v1: overall under the empty name, each connection under its own.

Of our own, because the servicer of grpcio-health-checking writes to watchers while it holds the lock that every change
of status needs, and keeps its watchers waiting through a shutdown.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial
from typing import Final

import grpc
import structlog
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from structlog.typing import FilteringBoundLogger

from changefeed_gateway.api.call import Call
from changefeed_gateway.api.interceptors import CallGuard
from changefeed_gateway.core.errors import ChangeFeedError, NotFound, Reason
from changefeed_gateway.core.policy import Principal
from changefeed_gateway.core.supervision import Done, Supervisor

SERVICE_NAME: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
OVERALL: Final = ""

HealthCheck = Callable[[], Awaitable[None]]
"""Asks one connection whether it can serve; raises if it cannot."""

_log: FilteringBoundLogger = structlog.get_logger("changefeed_gateway.health")

_UNKNOWN: Final[int] = health_pb2.HealthCheckResponse.UNKNOWN
_SERVING: Final[int] = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final[int] = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN: Final[int] = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """What each name's status is, told to whoever asks or watches."""

    def __init__(self, connections: Iterable[str], knows: Callable[[Principal, str], bool] = lambda *_: True) -> None:
        """Begin with nothing known of the connections; `knows` says which of them a caller may hear of."""
        self._knows = knows
        self._statuses: dict[str, int] = {OVERALL: _SERVING} | dict.fromkeys(connections, _UNKNOWN)
        self._changed = asyncio.Event()
        self._draining = False
        self._closed = False

    def set_serving(self, connection: str, serving: bool) -> None:
        """Set a connection's status; without effect once `begin_drain` was called."""
        status = _SERVING if serving else _NOT_SERVING
        if self._draining or self._statuses[connection] == status:
            return
        self._statuses[connection] = status
        self._tell()

    @property
    def serving(self) -> dict[str, bool]:
        """Which connections serve now."""
        return {name: status == _SERVING for name, status in self._statuses.items() if name != OVERALL}

    def begin_drain(self) -> None:
        """Make every status NOT_SERVING, for good."""
        self._draining = True
        self._statuses = dict.fromkeys(self._statuses, _NOT_SERVING)
        self._tell()

    def close(self) -> None:
        """End every watch in good order; a server with open watches does not stop before its grace has passed."""
        self._closed = True
        self._tell()

    def generic_handler(self, guard: CallGuard) -> grpc.GenericRpcHandler:
        """The method table of `grpc.health.v1.Health`."""
        request, everything = health_pb2.HealthCheckRequest.FromString, health_pb2.HealthListRequest.FromString  # type: ignore[attr-defined]
        table = {
            "Check": guard.bystander("Check", request, self.check, is_health=True),
            "List": guard.bystander("List", everything, self.list, is_health=True),
            "Watch": guard.bystander("Watch", request, self.watch, is_health=True),
        }
        return grpc.method_handlers_generic_handler(SERVICE_NAME, table)

    async def check(self, request: health_pb2.HealthCheckRequest, call: Call) -> AsyncGenerator[bytes]:
        """Answer the status of one name."""
        status = self._status(request.service, call.principal)
        if status is None:
            raise NotFound("no such name; names are the connections, and empty", reason=Reason.CONNECTION_NOT_FOUND)
        yield _answer(status)

    async def list(self, request: Message, call: Call) -> AsyncGenerator[bytes]:
        """Answer the status of every name."""
        answer = health_pb2.HealthListResponse()  # type: ignore[attr-defined]  # newer than the published types
        for name in self._statuses:
            if (status := self._status(name, call.principal)) is not None:
                answer.statuses[name].status = status
        yield answer.SerializeToString()

    async def watch(self, request: health_pb2.HealthCheckRequest, call: Call) -> AsyncGenerator[bytes]:
        """Answer the status of one name now and whenever it changes."""
        sent = None
        while True:
            changed = self._changed
            status = self._status(request.service, call.principal)
            status = _SERVICE_UNKNOWN if status is None else status
            if status != sent:
                yield _answer(status)
                sent = status
            if self._closed:
                return
            if changed is self._changed:
                await changed.wait()

    def _status(self, name: str, principal: Principal) -> int | None:
        """As far as a caller may know: a connection where it has no right is none."""
        return self._statuses.get(name) if name == OVERALL or self._knows(principal, name) else None

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _answer(status: int) -> bytes:
    return health_pb2.HealthCheckResponse(status=status).SerializeToString()


class HealthMonitor:
    """Keeps the status of connections by asking each at intervals."""

    def __init__(
        self,
        health: Health,
        checks: Mapping[str, HealthCheck],
        *,
        interval: timedelta,
        timeout: timedelta,
    ) -> None:
        self._health = health
        self._checks = dict(checks)
        self._interval = interval
        self._timeout = timeout
        self._supervisor = Supervisor()

    def start(self) -> None:
        """Check until closed; connections do not wait for one another."""
        for connection, check in self._checks.items():
            question = _Question(check, self._timeout)
            self._supervisor.keep(f"health of {connection}", partial(self._watch, connection, question))

    async def aclose(self) -> None:
        """Check no more; idempotent."""
        await self._supervisor.aclose()

    async def _watch(self, connection: str, question: "_Question", done: Done) -> None:
        was_serving = True
        while True:
            problem = await question.ask()
            self._health.set_serving(connection, problem is None)
            if was_serving and problem is not None:
                _log.warning("connection not serving", connection=connection, problem=problem)
            elif not was_serving and problem is None:
                _log.info("connection serving again", connection=connection)
            was_serving = problem is None
            done()
            await asyncio.sleep(self._interval.total_seconds())


class _Question:
    """Asks one connection whether it can serve, once at a time: a check may outlive its timeout and its end."""

    def __init__(self, check: HealthCheck, timeout: timedelta) -> None:
        self._check = check
        self._timeout = timeout.total_seconds()
        self._asking: asyncio.Future[None] | None = None

    async def ask(self) -> str | None:
        """What is wrong; None if the connection can serve."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._check())
            # Nobody asks it any more that answers too late.
            self._asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        asking = self._asking
        try:
            # Not awaited itself: a driver may swallow a cancellation (asyncio.wait_for before Python 3.12 does).
            await asyncio.wait({asking}, timeout=self._timeout)
            if not asking.done():
                return f"no answer in {self._timeout:g} s"
        finally:
            asking.cancel()
        if asking.cancelled():
            return "the check was cancelled"
        match asking.exception():
            case None:
                return None
            case ChangeFeedError() as error:
                return f"{error.reason}: {error}"
            case error:
                # What others raise may repeat what they were given.
                return type(error).__name__
