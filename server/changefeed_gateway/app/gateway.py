"""A gateway that serves until it is told to end."""

import asyncio
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
from structlog.typing import FilteringBoundLogger

from changefeed_gateway.api.identity.renewal import Renewal
from changefeed_gateway.api.server import GatewayServer
from changefeed_gateway.api.wire.records import encode_changes
from changefeed_gateway.app.opening import is_private, open_provider
from changefeed_gateway.app.opening.contract import extra
from changefeed_gateway.app.security import secured
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.core.router import Router
from changefeed_gateway.core.token import TokenCodec
from changefeed_gateway.settings import Settings, SettingsError, SettingsProblem
from changefeed_gateway.settings.secrets import kept_key_file, token_keys
from changefeed_gateway.settings.values import HostPort

if TYPE_CHECKING:
    from changefeed_gateway.app.monitoring.tracing import Tracing

_LAST_GRACE: Final = timedelta(seconds=1)
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


@asynccontextmanager
async def open_gateway(settings: Settings) -> AsyncIterator[Gateway]:
    """Start everything the settings name, in order, and take it down in the other order.

    Leaving the context leaves little time to what is still open: call `GatewayServer.drain` before. Raises
    SettingsError, also when the address is taken, and OperatorError.
    """
    async with AsyncExitStack() as stack:
        tokens = TokenCodec(token_keys(settings))
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
        server = GatewayServer(router, door=security.door, checks=checks, name=instance, tracing=tracing)
        monitoring = await _monitored(settings, router, server, stack)
        credentials = None if security.certificate is None else security.certificate.credentials()
        try:
            port = await server.start(str(settings.listen), credentials)
        except OSError as error:
            raise _taken("listen", settings.listen) from error
        stack.push_async_callback(_in_time, partial(server.drain, _LAST_GRACE))
        target = str(settings.listen._replace(port=port))
        yield Gateway(target=target, monitoring=monitoring, server=server)


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
    from changefeed_gateway.app.monitoring.http import MonitoringServer
    from changefeed_gateway.app.monitoring.loop import LoopWatch
    from changefeed_gateway.app.monitoring.metrics import metrics_application

    def serving() -> dict[str, bool]:
        return server.serving

    metrics = partial(metrics_application, router.observation, router.meter, serving)
    try:
        monitoring = MonitoringServer(address, serving=serving, metrics=metrics)
    except OSError as error:
        raise _taken("monitoring.listen", address) from error
    stack.push_async_callback(monitoring.aclose)
    stack.callback(LoopWatch(router.observation.stalls).close)
    return str(address._replace(port=monitoring.port))


def _taken(path: str, address: HostPort) -> SettingsError:
    allowed = "an address of this machine that no other process listens on"
    return SettingsError([SettingsProblem(path=path, given=str(address), allowed=allowed)])


async def serve(settings: Settings, *, ready: Callable[[Gateway], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal cuts the drain short. `ready` is called once."""
    signals = _Signals()
    if not settings.tokens.keys:
        _warn_of_lone_key(settings)
    _warn_of_open_doors(settings)
    async with open_gateway(settings) as gateway:
        _collect_seldom()
        ready(gateway)
        name = await signals.next()
        _log.info("draining", signal=name, grace=str(settings.shutdown_grace))
        draining = asyncio.create_task(gateway.server.drain(settings.shutdown_grace))
        impatient = asyncio.create_task(signals.next())
        await asyncio.wait(
            {draining, impatient},
            timeout=(settings.shutdown_grace + _LAST_GRACE).total_seconds(),
            return_when=asyncio.FIRST_COMPLETED,
        )
        impatient.cancel()
    _log.info("stopped")


def _warn_of_lone_key(settings: Settings) -> None:
    shared = not all(is_private(settings, name) for name in settings.connections)
    _log.warning(
        "tokens.keys names none: every saved token ends with the key that this gateway keeps"
        + (", and replicas need the same one" if shared else ""),
        file=str(kept_key_file(settings).absolute()),
    )


def _warn_of_open_doors(settings: Settings) -> None:
    security = settings.security
    if not settings.listen.is_loopback and security.tls is None:
        _log.warning("plaintext beyond this machine: the network sees documents and tokens, and can change them")
    if not settings.listen.is_loopback and not security.asks_who_calls:
        _log.warning("nobody is asked who they are: whoever reaches the port reads everything")
    if security.asks_who_calls and not security.policy:
        _log.warning("security.policy is empty: nobody may anything")


def _collect_seldom() -> None:
    """Look for cyclic garbage less often: a page makes thousands of tuples and no cycles.

    With the default thresholds a tenth to a fifth of the processor time of a drain went into looking, with these 0.4 %;
    with five times more a look took 50 ms of the event loop. Calls that are refused make no cycles either: 2000 of them
    with huge tokens took 25 MB in all (docs/benchmarks.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


async def _in_time(close: Callable[[], Coroutine[object, object, None]]) -> None:
    """Close something, but let nothing that does not close keep the process."""
    closing = asyncio.create_task(close())
    await asyncio.wait({closing}, timeout=2 * _LAST_GRACE.total_seconds())
    if closing.done():
        closing.result()
    else:
        closing.cancel()
        _log.warning("left open: it did not close in time", what=repr(close))


class _Signals:
    """Signals that ask for an end, in the order they come. Made inside the loop that it serves."""

    def __init__(self) -> None:
        self._came: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._came.put_nowait, number.name)

    async def next(self) -> str:
        """Wait for a signal and answer its name."""
        return await self._came.get()
