"""Serving in this process until it is told to end."""

import asyncio
import gc

import structlog
from structlog.typing import FilteringBoundLogger

from changefeed_gateway.app.first_words import Ready, warn_of
from changefeed_gateway.app.gateway import LAST_GRACE, Gateway, open_gateway
from changefeed_gateway.app.orders import Orders
from changefeed_gateway.settings import Settings

_log: FilteringBoundLogger = structlog.get_logger(__name__)


async def serve(settings: Settings, *, ready: Ready) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal cuts the drain short."""
    orders = Orders()
    orders.take_signals()
    warn_of(settings)
    collect_seldom()
    async with open_gateway(settings) as gateway:
        ready(gateway.target, gateway.monitoring)
        name = await orders.to_drain()
        _log.info("draining", signal=name, grace=str(settings.shutdown_grace))
        await drained(gateway, settings, orders)
    _log.info("stopped")


async def drained(gateway: Gateway, settings: Settings, orders: Orders) -> None:
    """Drain, within the grace of the settings or until the end is ordered; whoever leaves the gateway cuts the rest."""
    draining = asyncio.create_task(gateway.server.drain(settings.shutdown_grace))
    ending = asyncio.create_task(orders.to_end())
    await asyncio.wait(
        {draining, ending},
        timeout=(settings.shutdown_grace + LAST_GRACE).total_seconds(),
        return_when=asyncio.FIRST_COMPLETED,
    )
    ending.cancel()


def collect_seldom() -> None:
    """Look for cyclic garbage less often: a page makes thousands of tuples and no cycles.

    With the default thresholds a tenth to a fifth of the processor time of a drain went into looking, with these 0.4 %;
    with five times more a look took 50 ms of the event loop. Calls that are refused make no cycles either: 2000 of them
    with huge tokens took 25 MB in all (docs/benchmarks.md).
    """
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
