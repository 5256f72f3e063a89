"""Health by grpc.health.v1: overall under the empty name, each connection under its own.

A servicer of our own, because that of grpcio-health-checking writes to watchers while it holds the lock that every
change of status needs, and keeps its watchers waiting through a shutdown.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from typing import Final

import grpc
import structlog
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.typing import FilteringBoundLogger

OVERALL: Final = ""
MAX_WATCHERS: Final = 1_000

HealthCheck = Callable[[], Awaitable[None]]
"""Asks one connection whether it can serve; raises if it cannot."""

_Context = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]
_log: FilteringBoundLogger = structlog.get_logger("changefeed_gateway.health")

_UNKNOWN: Final[int] = health_pb2.HealthCheckResponse.UNKNOWN
_SERVING: Final[int] = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final[int] = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN: Final[int] = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):
    """What each name's status is, told to whoever asks or watches."""

    def __init__(self, connections: Iterable[str]) -> None:
        self._statuses: dict[str, int] = {OVERALL: _SERVING} | dict.fromkeys(connections, _UNKNOWN)
        self._changed = asyncio.Event()
        self._watchers = 0
        self._draining = False
        self._closed = False

    def set_serving(self, connection: str, serving: bool) -> None:
        """Set a connection's status; without effect once `begin_drain` was called."""
        status = _SERVING if serving else _NOT_SERVING
        if self._draining or self._statuses[connection] == status:
            return
        self._statuses[connection] = status
        self._tell()

    def begin_drain(self) -> None:
        """Make every status NOT_SERVING, for good."""
        self._draining = True
        self._statuses = dict.fromkeys(self._statuses, _NOT_SERVING)
        self._tell()

    def close(self) -> None:
        """End every watch in good order; a server with open watches does not stop before its grace has passed."""
        self._closed = True
        self._tell()

    async def Check(  # noqa: D102
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> health_pb2.HealthCheckResponse:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such name; names are the connections, and empty")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(  # noqa: D102
        self, request: Message, context: _Context
    ) -> "health_pb2.HealthListResponse":  # type: ignore[name-defined]  # newer than the published types
        answer = health_pb2.HealthListResponse()  # type: ignore[attr-defined]
        for name, status in self._statuses.items():
            answer.statuses[name].status = status
        return answer

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: _Context) -> None:  # noqa: D102
        if self._watchers >= MAX_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watches; use Check")
        self._watchers += 1
        try:
            sent = None
            while True:
                changed = self._changed
                status = self._statuses.get(request.service, _SERVICE_UNKNOWN)
                if status != sent:
                    await context.write(health_pb2.HealthCheckResponse(status=status))
                    sent = status
                if self._closed:
                    return
                await changed.wait()
        finally:
            self._watchers -= 1

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


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

    async def run(self) -> None:
        """Check until cancelled; connections do not wait for one another."""
        async with asyncio.TaskGroup() as group:
            for connection, check in self._checks.items():
                group.create_task(self._watch(connection, check), name=f"health of {connection}")

    async def _watch(self, connection: str, check: HealthCheck) -> None:
        was_serving = True
        while True:
            problem = await self._ask(check)
            self._health.set_serving(connection, problem is None)
            if was_serving and problem is not None:
                _log.warning("connection not serving", connection=connection, problem=problem)
            elif not was_serving and problem is None:
                _log.info("connection serving again", connection=connection)
            was_serving = problem is None
            await asyncio.sleep(self._interval.total_seconds())

    async def _ask(self, check: HealthCheck) -> str | None:
        try:
            async with asyncio.timeout(self._timeout.total_seconds()):
                await check()
        except TimeoutError:
            return f"no answer in {self._timeout.total_seconds():g} s"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None
