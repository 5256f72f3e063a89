"""A gateway in this process."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final
from wsgiref.types import WSGIApplication

import structlog
from structlog.typing import FilteringBoundLogger

from changefeed_gateway.api.identity.renewal import Renewal
from changefeed_gateway.api.operator import Siblings
from changefeed_gateway.api.server import GatewayServer
from changefeed_gateway.api.wire.records import encode_changes
from changefeed_gateway.app.opening import open_provider
from changefeed_gateway.app.opening.contract import extra
from changefeed_gateway.app.security import secured
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.core.router import Router
from changefeed_gateway.core.token import TokenCodec, TokenKey
from changefeed_gateway.settings import Settings, address_taken
from changefeed_gateway.settings.secrets import token_keys

if TYPE_CHECKING:
    from changefeed_gateway.app.monitoring.tracing import Tracing

LAST_GRACE: Final = timedelta(seconds=1)
"""For what is still open when the gateway is taken down without a drain before."""

_log: FilteringBoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A gateway that serves; only `open_gateway` makes one."""

    target: str
    """host:port that it listens on."""
    monitoring: str | None
    """host:port where it shows metrics and health; None where the settings name none."""
    server: GatewayServer
    router: Router


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What a process is told that is one of several behind one port."""

    keys: Sequence[TokenKey]
    """Of the tokens of all of them, whatever the files say by now."""
    siblings: Siblings


@asynccontextmanager
async def open_gateway(settings: Settings, membership: Membership | None = None) -> AsyncIterator[Gateway]:
    """Start everything the settings name, in order, and take it down in the other order.

    One of several processes shows nothing over HTTP: its parent does. Leaving the context leaves little time to what is
    still open: call `GatewayServer.drain` before. Raises SettingsError, also when the address is taken, and
    OperatorError.
    """
    async with AsyncExitStack() as stack:
        tokens = TokenCodec(token_keys(settings) if membership is None else membership.keys)
        providers: dict[str, Provider] = {}
        for name in settings.connections:
            providers[name] = await open_provider(settings, name, stack)
        instance = f"{socket.gethostname()}:{os.getpid()}"
        tracing = _traced(settings, instance, stack)
        router = Router(
            providers=providers,
            tokens=tokens,
            limits=settings.limits.to_limits(),
            encoder=encode_changes,
            trace=None if tracing is None else tracing.question,
        )
        stack.push_async_callback(_in_time, router.aclose)
        checks = {name: partial(router.ping, name) for name in providers}
        security = secured(settings.security, router.scope_of)
        renewal = Renewal()
        renewal.start(*security.renewables)
        stack.push_async_callback(_in_time, renewal.aclose)
        server = GatewayServer(
            router,
            door=security.door,
            checks=checks,
            reuse_port=membership is not None,
            name=instance,
            siblings=None if membership is None else membership.siblings,
            tracing=tracing,
        )
        monitoring = None if membership else await _monitored(settings, router, server, stack)
        credentials = None if security.certificate is None else security.certificate.credentials()
        try:
            port = await server.start(str(settings.listen), credentials)
        except OSError as error:
            raise address_taken("listen", settings.listen) from error
        stack.push_async_callback(_in_time, partial(server.drain, LAST_GRACE))
        target = str(settings.listen._replace(port=port))
        yield Gateway(target=target, monitoring=monitoring, server=server, router=router)


def _traced(settings: Settings, instance: str, stack: AsyncExitStack) -> "Tracing | None":
    """Make and send traces where the settings say."""
    if (endpoint := settings.tracing.endpoint) is None:
        return None
    with extra("tracing"):
        from changefeed_gateway.app.monitoring.tracing import Tracing
    tracing = Tracing(endpoint, share=settings.tracing.share, instance=instance)
    stack.push_async_callback(tracing.aclose)
    return tracing


async def _monitored(settings: Settings, router: Router, server: GatewayServer, stack: AsyncExitStack) -> str | None:
    """Show metrics and health where the settings say; answers host:port."""
    if (address := settings.monitoring.listen) is None:
        return None
    # Here, and no earlier: whoever shows none does not load what writes them.
    from changefeed_gateway.app.monitoring.http import MonitoringServer, OnLoop
    from changefeed_gateway.app.monitoring.loop import LoopWatch
    from changefeed_gateway.app.monitoring.metrics import Workers, metrics_application, process_registry

    async def serving() -> dict[str, bool]:
        return server.serving

    def metrics(on_loop: OnLoop) -> WSGIApplication:
        registry = process_registry(router.observation, router.meter, serving, on_loop)
        return metrics_application(registry, Workers(lambda: (1, 0)))

    try:
        monitoring = MonitoringServer(address, serving=serving, metrics=metrics)
    except OSError as error:
        raise address_taken("monitoring.listen", address) from error
    stack.push_async_callback(monitoring.aclose)
    stack.callback(LoopWatch(router.observation.stalls).close)
    return str(address._replace(port=monitoring.port))


async def _in_time(close: Callable[[], Coroutine[object, object, None]]) -> None:
    """Close something, but let nothing that does not close keep the process."""
    closing = asyncio.create_task(close())
    await asyncio.wait({closing}, timeout=2 * LAST_GRACE.total_seconds())
    if closing.done():
        closing.result()
    else:
        closing.cancel()
        _log.warning("left open: it did not close in time", what=repr(close))
