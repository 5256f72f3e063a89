"""Metrics and health over HTTP, on a port of their own.

In threads, so that a stalled event loop is answered for, and so that no scrape is written by the loop. What they ask of
the gateway is asked on its loop.
"""

import asyncio
import socket
import socketserver
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import CancelledError
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from changefeed_gateway.settings.values import HostPort

MOST_REQUESTS: Final = 16
"""Under way at once; one more is sent away."""
REQUEST_SECONDS: Final = 5.0
"""For a request to come, and for the event loop to answer."""

_Answer = TypeVar("_Answer")

Serving = Callable[[], Coroutine[Any, Any, dict[str, bool]]]
"""Which connections serve now; asked on the gateway's loop."""
Alive = Callable[[], Coroutine[Any, Any, None]]
"""Returns if who serves is alive; asked on the gateway's loop. Raises TimeoutError when somebody does not answer."""


async def turns() -> None:
    """Implements `Alive`: whoever runs this turns."""


class MonitoringServer:
    """Serves `/metrics`, `/livez` and `/readyz` until it is closed. Belongs to the loop that it is made on."""

    def __init__(
        self,
        address: HostPort,
        *,
        serving: Serving,
        metrics: "Callable[[OnLoop], WSGIApplication]",
        alive: Alive = turns,
    ) -> None:
        """Listen. `metrics` makes the application of `/metrics`, which asks the loop by what it is given.

        Raises OSError when the address cannot be listened on.
        """
        self._on_loop = OnLoop(asyncio.get_running_loop())
        self._serving, self._alive = serving, alive
        self._metrics = metrics(self._on_loop)
        self._server = _Server(address)
        self._server.set_app(self._answer)
        self.port = int(self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, name="monitoring", daemon=True)
        self._thread.start()

    async def aclose(self) -> None:
        """Stop listening; idempotent."""
        await asyncio.to_thread(self._server.shutdown)
        self._server.server_close()

    def _answer(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _text(start, HTTPStatus.METHOD_NOT_ALLOWED, "GET or HEAD")
        try:
            match path:
                case "/metrics":
                    return self._metrics(environ, start)
                case "/livez":
                    self._on_loop.ask(self._alive())
                    return _text(start, HTTPStatus.OK, "ok")
                case "/readyz":
                    return self._readiness(parse_qs(environ.get("QUERY_STRING", ""), max_num_fields=100), start)
                case _:
                    return _text(start, HTTPStatus.NOT_FOUND, "/metrics, /livez or /readyz")
        except TimeoutError as error:
            problem = str(error) or f"the event loop has not answered for {REQUEST_SECONDS:g} s"
            return _text(start, HTTPStatus.SERVICE_UNAVAILABLE, problem)
        except ValueError:
            return _text(start, HTTPStatus.BAD_REQUEST, "/readyz, or /readyz?connection=NAME")

    def _readiness(self, query: dict[str, list[str]], start: StartResponse) -> Iterable[bytes]:
        """Of all connections, or of those that are named."""
        serving = self._on_loop.ask(self._serving())
        chosen = query.pop("connection", list(serving))
        if query or not set(chosen) <= set(serving):
            return _text(start, HTTPStatus.NOT_FOUND, "no such connection")
        ready = all(serving[name] for name in chosen)
        lines = [f"{name}: {'serving' if serving[name] else 'not serving'}" for name in sorted(set(chosen))]
        return _text(start, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, "\n".join(lines))


class OnLoop:
    """Asks something on the gateway's loop, from another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def ask(self, question: Coroutine[Any, Any, _Answer]) -> _Answer:
        """The answer; raises TimeoutError when the loop does not give it in time, or has ended."""
        try:
            asked = asyncio.run_coroutine_threadsafe(question, self._loop)
        except RuntimeError:
            question.close()
            raise TimeoutError from None
        try:
            return asked.result(REQUEST_SECONDS)
        except CancelledError:
            raise TimeoutError from None
        finally:
            asked.cancel()


def _text(start: StartResponse, status: HTTPStatus, text: str) -> Iterable[bytes]:
    start(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread a request, and few of them."""

    daemon_threads = True
    request_queue_size = MOST_REQUESTS

    def __init__(self, address: HostPort) -> None:
        self._places = threading.Semaphore(MOST_REQUESTS)
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        super().__init__((address.host, address.port), _Handler)

    def server_bind(self) -> None:
        # http.server asks the name service for the name of the address, which may take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = map(str, self.server_address[:2])  # type: ignore[assignment]
        self.setup_environ()

    def shutdown(self) -> None:
        # Wakes who waits for requests: by himself he looks whether he is to end every half second only.
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        super().shutdown()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked is gone, or sent no HTTP: nobody need hear of it."""


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS

    def handle(self) -> None:
        with suppress(OSError):
            super().handle()

    def address_string(self) -> str:
        return str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:
        """A probe every second is no news."""
