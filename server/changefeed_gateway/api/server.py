"""The gRPC server: options, services, start, drain."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

import grpc

# Imported for the reflection service: a client that prints an error looks its details' types up there.
from google.rpc import error_details_pb2 as error_details_pb2
from grpc_reflection.v1alpha import reflection

from changefeed.v1.operator_service_pb2 import ListStreamsRequest
from changefeed_gateway.api import health, operator
from changefeed_gateway.api.completions import taken_at_once
from changefeed_gateway.api.connections import HostShare, most_connections, most_of_one_host
from changefeed_gateway.api.dispatch import make_server
from changefeed_gateway.api.health import Health, HealthCheck, HealthMonitor
from changefeed_gateway.api.identity.door import Door
from changefeed_gateway.api.interceptors import LAST_WORDS, MAX_BYSTANDERS, CallGuard
from changefeed_gateway.api.operator import OperatorService, Siblings
from changefeed_gateway.api.reflection import reflection_handlers
from changefeed_gateway.api.service import SERVICE_NAME, ChangeFeedService
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.observation import CallTracing
from changefeed_gateway.core.policy import Principal
from changefeed_gateway.core.router import Router
from changefeed_gateway.core.token import MAX_TOKEN_CHARS

MAX_REQUEST_BYTES: Final = MAX_TOKEN_CHARS + 65_536
"""Room beside the longest token: one that is a little too long gets our answer, not the transport's."""

CHECK_INTERVAL: Final = timedelta(seconds=1)
"""Between two checks of a connection; with the time for one it leaves health wrong for less than five seconds."""
CHECK_TIMEOUT: Final = timedelta(seconds=2.5)

MAX_METADATA_BYTES: Final = 16_384
"""All metadata of a call together, its bearer token included."""

_CONNECTIONS_AT_ONCE: Final = 4
"""How many may come full of calls before the event loop has looked at one of them."""
_LONGEST_WAIT_SECONDS: Final = 3_600
"""For the event loop to look at a call; gRPC's own 30 are over on a machine that has no time left, and callers have
deadlines."""

_REFLECTED: Final = (
    SERVICE_NAME,
    operator.SERVICE_NAME,
    health.SERVICE_NAME,
    reflection.SERVICE_NAME,
)


class GatewayServer:
    """The service with health and reflection on one port."""

    def __init__(
        self,
        router: Router,
        *,
        door: Door | None = None,
        checks: Mapping[str, HealthCheck] | None = None,
        check_interval: timedelta = CHECK_INTERVAL,
        check_timeout: timedelta = CHECK_TIMEOUT,
        last_words: timedelta = LAST_WORDS,
        reuse_port: bool = False,
        name: str = "",
        siblings: Siblings | None = None,
        tracing: CallTracing | None = None,
        options: Sequence[tuple[str, int]] = (),
    ) -> None:
        """Build the server.

        Args:
            router: The core; `begin_drain` is called here, `aclose` is the caller's to call.
            door: Who calls, and what they may; without one everybody may everything.
            checks: How to ask connections whether they can serve; those without a check have status SERVING.
            check_interval: Time between two checks of a connection.
            check_timeout: How long a check may take before it counts as failed.
            last_words: How long a client may take to read the end of its call; then the call is reset, and what it was
                sent is no longer held.
            reuse_port: Lets several processes listen on the same port. Otherwise a taken port is an error.
            name: This process among replicas, as it is told to operators.
            siblings: The other processes that listen on the same port, for what is told of all of them.
            tracing: Makes the spans of calls.
            options: More channel arguments, which win over those set here.
        """
        self._router = router
        self._options = _server_options(router.limits, reuse_port=reuse_port) | dict(options)
        door = door or Door(scope_of=router.scope_of)
        self._guard = CallGuard(
            router.limits, door, last_words=last_words, observation=router.observation, tracing=tracing
        )
        self._operator = OperatorService(router.streams, name, siblings)
        self._health = Health(router.connections, door.knows)
        checks = checks or {}
        for connection in set(router.connections) - checks.keys():
            self._health.set_serving(connection, True)
        self._health_monitor = HealthMonitor(self._health, checks, interval=check_interval, timeout=check_timeout)
        self._server: grpc.aio.Server | None = None
        self._host_share: HostShare | None = None
        self._draining = False

    async def start(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Listen on "host:port" (port 0: any free one) and serve; return the port.

        Raises OSError when the address cannot be listened on.
        """
        with taken_at_once():
            server = make_server(list(self._options.items()))
        server.add_generic_rpc_handlers((ChangeFeedService(self._router, self._guard).generic_handler(),))
        server.add_generic_rpc_handlers((self._operator.generic_handler(self._guard),))
        server.add_generic_rpc_handlers((self._health.generic_handler(self._guard),))
        server.add_generic_rpc_handlers(tuple(reflection_handlers(_REFLECTED, self._guard)))
        port = _listen(server, address, credentials)
        self._server = server
        await server.start()
        self._host_share = HostShare(port, most_of_one_host(self._router.limits))
        if not self._draining:
            self._health_monitor.start()
            self._host_share.start()
        return port

    @property
    def serving(self) -> dict[str, bool]:
        """Which connections serve now; none does once the drain has begun."""
        return self._health.serving

    async def streams(self, principal: Principal, request: bytes) -> bytes:
        """What this process answers a caller to a ListStreamsRequest that came to a sibling.

        Raises AuthorizationFailed, InvalidRequest.
        """
        return await self._operator.page(principal, ListStreamsRequest.FromString(request))

    async def drain(self, grace: timedelta, *, notice: timedelta = timedelta(0)) -> None:
        """Stop serving in good order.

        Health turns NOT_SERVING first, and `notice` gives balancers time to see it. Then every stream is asked to
        close and every long poll to answer, and new calls are refused. What has not ended after `grace` is cut.
        Calling it again with a shorter grace shortens it.
        """
        self._draining = True
        self._health.begin_drain()
        await self._end_tasks()
        await asyncio.sleep(notice.total_seconds())
        self._router.begin_drain()
        self._guard.begin_drain()
        if self._server is None:
            return
        stopping = asyncio.create_task(self._server.stop(grace.total_seconds()))
        with suppress(TimeoutError):
            async with asyncio.timeout(grace.total_seconds()):
                await self._guard.idle()
        self._health.close()
        await stopping
        self._guard.close()

    async def abort(self) -> None:
        """Cut everything at once, as a crash would: nobody is told."""
        self._draining = True
        await self._end_tasks()
        if self._server is not None:
            await self._server.stop(None)
        self._guard.close()

    async def _end_tasks(self) -> None:
        await self._health_monitor.aclose()
        if self._host_share is not None:
            await self._host_share.aclose()

    async def wait_for_termination(self) -> None:
        """Wait until the server has stopped."""
        if self._server is not None:
            await self._server.wait_for_termination()


def _server_options(limits: Limits, *, reuse_port: bool) -> dict[str, int]:
    """Channel arguments of gRPC."""
    # Streams end themselves at max_stream_age; the connection's age is a backstop and must not cut them earlier.
    grace = limits.max_stream_age + timedelta(minutes=1)
    admitted = 2 * (limits.max_streams + limits.max_calls) + MAX_BYSTANDERS
    return {
        "grpc.so_reuseport": int(reuse_port),
        "grpc.max_receive_message_length": MAX_REQUEST_BYTES,
        # Above our own limits, so that a call too many is refused with a reason instead of waiting in the client.
        "grpc.max_concurrent_streams": admitted,
        # The same for calls that have arrived and wait for the event loop: above its limits gRPC answers CANCELLED.
        "grpc.server.max_pending_requests": _CONNECTIONS_AT_ONCE * admitted,
        "grpc.server.max_pending_requests_hard_limit": _CONNECTIONS_AT_ONCE * admitted,
        "grpc.server_max_unrequested_time_in_server": _LONGEST_WAIT_SECONDS,
        "grpc.max_allowed_incoming_connections": most_connections(limits),
        # A connection that does not say what it wants is gone before it is missed.
        "grpc.server_handshake_timeout_ms": 10_000,
        "grpc.max_metadata_size": MAX_METADATA_BYTES,
        "grpc.keepalive_time_ms": 30_000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.min_ping_interval_without_data_ms": 10_000,
        "grpc.max_connection_idle_ms": 15 * 60_000,
        # gRPC spreads it by a tenth to either side.
        "grpc.max_connection_age_ms": int(limits.max_connection_age / timedelta(milliseconds=1)),
        "grpc.max_connection_age_grace_ms": int(grace / timedelta(milliseconds=1)),
    }


def _listen(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
