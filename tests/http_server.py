"""An HTTP server on loopback in a thread of its own, and how its connections break."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from aiohttp import web

from tests.listening import stop_accepting

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PATIENCE = 20
"""Seconds for it to start or end."""


class HttpServer:
    """Blocking clients and event loops can use it alike. Port 0 takes a free one, the same at each address."""

    def __init__(
        self, handler: Handler, *, name: str, port: int = 0, addresses: Sequence[str] = ("127.0.0.1",)
    ) -> None:
        self.port = port
        self._handler = handler
        self._addresses = addresses
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._runner: web.AppRunner | None = None
        self._sockets: list[socket.socket] = []

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        self._run(self._listen())

    def stop(self) -> None:
        """End all requests and listen no more."""
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call_soon(self, step: Callable[[], object]) -> None:
        """Do something in its thread."""
        self._loop.call_soon_threadsafe(step)

    async def _listen(self) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handler)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        for address in self._addresses:
            listening = socket.create_server((address, self.port), backlog=128)
            self._sockets.append(listening)
            self.port = listening.getsockname()[1]
            await web.SockSite(self._runner, listening).start()

    async def _end(self) -> None:
        assert self._runner is not None
        await stop_accepting(self._sockets)
        server = self._runner.server
        assert server is not None
        transports = [connection.transport for connection in server.connections]
        await self._runner.cleanup()
        for transport in transports:
            if transport is not None:
                transport.abort()  # one with an answer that nobody reads would stay
        await asyncio.sleep(0)

    def _run(self, step: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result(timeout=PATIENCE)


def dropped(request: web.Request) -> web.StreamResponse:
    """Close the connection without an answer, unless who asked has hung up."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def cut(request: web.Request, whole: web.Response) -> web.StreamResponse:
    """Close the connection in the middle of an answer, or before one that has no body."""
    if not isinstance(whole.body, bytes):
        return dropped(request)
    response = web.StreamResponse(headers=whole.headers)
    response.content_length = len(whole.body)
    await response.prepare(request)
    await response.write(whole.body[: len(whole.body) // 2])
    return dropped(request)
