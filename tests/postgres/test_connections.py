"""The pool of connections under cancellations."""

import asyncio
from contextlib import aclosing

from changefeed_gateway.providers.postgres.connections import Connection, Connections


async def test_who_is_cancelled_while_a_connection_comes_does_not_go_on(log_database: str) -> None:
    """At every moment between the connection's return and its use: at some of them the pool loses the cancellation."""
    connections = Connections(log_database, max_size=1)
    await connections.open()
    async with aclosing(connections):
        for moment in range(20):
            await _cancel_at(connections, moment)
        assert await connections.fetch("SELECT 1", {}) == [(1,)]


async def _cancel_at(connections: Connections, moment: int) -> None:
    held, free, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hold(_: Connection) -> None:
        held.set()
        await free.wait()

    async def ask_until_cancelled() -> None:
        while not ended.is_set():
            await connections.fetch("SELECT", {})

    holding = asyncio.create_task(connections.run(hold))
    await held.wait()
    asking = asyncio.create_task(ask_until_cancelled())
    await asyncio.sleep(0.01)  # it is in the queue by now; were it not, the moment would only be another one
    free.set()
    for _ in range(moment):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking}, timeout=5)
    ended.set()
    await asyncio.wait({holding, asking})
    assert asking.cancelled()
