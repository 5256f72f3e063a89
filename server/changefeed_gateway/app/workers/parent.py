"""The parent of several workers: reserves their port, keeps them going, and tells of them as of one gateway."""

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from wsgiref.types import WSGIApplication

import structlog
from structlog.typing import FilteringBoundLogger

from changefeed_gateway.app.first_words import Ready, warn_of
from changefeed_gateway.app.orders import Orders
from changefeed_gateway.app.workers.crew import Crew
from changefeed_gateway.app.workers.port import ReservedPort
from changefeed_gateway.settings import Settings, address_taken
from changefeed_gateway.settings.secrets import token_keys

if TYPE_CHECKING:
    from changefeed_gateway.app.monitoring.http import OnLoop

_log: FilteringBoundLogger = structlog.get_logger(__name__)


async def serve(settings: Settings, *, ready: Ready) -> None:
    """Serve by workers until SIGTERM or SIGINT, then let them drain; a second signal cuts the drain short.

    Raises SettingsError, also when an address is taken, and WorkerRefused when the first worker did not come to serve.
    """
    orders = Orders()
    orders.take_signals()
    warn_of(settings)
    async with AsyncExitStack() as stack:
        keys = token_keys(settings)
        port = _reserved(settings, stack)
        crew = Crew(settings.model_copy(update={"listen": port.address}), keys)
        stack.push_async_callback(crew.aclose)
        monitoring = _monitored(settings, crew, stack)
        starting = asyncio.create_task(crew.start())
        asked = asyncio.create_task(orders.to_drain())
        try:
            await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                ready(str(port.address), monitoring)
            name = await asked
        finally:
            starting.cancel()
            asked.cancel()
        _log.info("draining", signal=name, grace=str(settings.shutdown_grace))
        await crew.drain(settings.shutdown_grace, orders)
    _log.info("stopped")


def _reserved(settings: Settings, stack: AsyncExitStack) -> ReservedPort:
    try:
        port = ReservedPort.of(settings.listen)
    except OSError as error:
        raise address_taken("listen", settings.listen) from error
    stack.callback(port.close)
    return port


def _monitored(settings: Settings, crew: Crew, stack: AsyncExitStack) -> str | None:
    """Show metrics and health of all workers where the settings say; answers host:port."""
    if (address := settings.monitoring.listen) is None:
        return None
    # Here, and no earlier: whoever shows none does not load what writes them.
    from changefeed_gateway.app.monitoring.added_up import AddedUp
    from changefeed_gateway.app.monitoring.http import MonitoringServer
    from changefeed_gateway.app.monitoring.metrics import Workers, metrics_application

    def metrics(on_loop: "OnLoop") -> WSGIApplication:
        return metrics_application(AddedUp(lambda: on_loop.ask(crew.metrics())), Workers(crew.counted))

    try:
        monitoring = MonitoringServer(address, serving=crew.serving, metrics=metrics, alive=crew.alive)
    except OSError as error:
        raise address_taken("monitoring.listen", address) from error
    stack.push_async_callback(monitoring.aclose)
    return str(address._replace(port=monitoring.port))
