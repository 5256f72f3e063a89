"""A server of grpc.aio that one call cannot end: docs/decisions/0023-calls-are-taken-by-a-loop-that-may-fail.md."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Never

import grpc
import structlog
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # not in the published types
from structlog.typing import FilteringBoundLogger

_SERVER: Final = "AioServer"
"""The class of cygrpc behind a `grpc.aio.Server`."""
_WINDOW_SECONDS: Final = 1.0
"""Of which one line of the log tells: a caller can make thousands of such calls a second."""

_log: FilteringBoundLogger = structlog.get_logger("changefeed_gateway.calls")


def _shows_no_metadata(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Invalid encoding on")


# What it cannot decode of a caller's metadata it shows, with a traceback each time: a token perhaps, and without bound.
logging.getLogger("grpc._cython.cygrpc").addFilter(_shows_no_metadata)


def make_server(options: Sequence[tuple[str, int]]) -> grpc.aio.Server:
    """A server as of `grpc.aio.server`, which goes on when a call comes whose method is no text."""
    setattr(cygrpc, _SERVER, _Listener)
    try:
        return grpc.aio.server(options=options)
    finally:
        setattr(cygrpc, _SERVER, _AioServer)


_AioServer: Any = getattr(cygrpc, _SERVER)


class _Endable(_AioServer):  # type: ignore[misc]  # cygrpc has no types
    """What waits for calls in it ends when it is shut down."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ended = asyncio.Event()

    async def wait_for_end(self) -> Never:
        """As a wait for a call that is shut down in the core: raises what gRPC's loop expects."""
        await self.ended.wait()
        raise cygrpc._RequestCallError("the server has ended")

    async def _start_shutting_down(self) -> None:
        self.ended.set()
        with suppress(UnicodeDecodeError):  # how its loop has ended, if it has by itself
            await super()._start_shutting_down()


class _Listener(_Endable):
    """Has the port, the connections and the calls. Its own loop takes none: a dispatcher's does, and another's next."""

    def __init__(self, loop: Any, *arguments: Any) -> None:
        self._event_loop = loop
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._dispatcher: _Dispatcher | None = None
        self._dropped = 0
        self._tasks: set[asyncio.Task[None]] = set()
        super().__init__(loop, *arguments)

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._handlers.extend(handlers)

    async def start(self) -> None:
        await super().start()
        await self._dispatch()

    async def shutdown(self, grace: float | None) -> None:
        await super().shutdown(grace)
        if self._dispatcher is not None:
            await self._dispatcher.shutdown(None)

    def go_on(self, failed: "_Dispatcher") -> None:
        """Take the calls that follow by a loop of their own."""
        if not self._dropped:
            self._event_loop.call_later(_WINDOW_SECONDS, self._tell)
        self._dropped += 1
        for work in (self._dispatch(), failed.shutdown(None)):
            task = self._event_loop.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _tell(self) -> None:
        _log.warning("calls were dropped whose method is no text", count=self._dropped)
        self._dropped = 0

    async def _dispatch(self) -> None:
        if self.is_running():
            self._dispatcher = _Dispatcher(self._event_loop, self, self._handlers)
            await self._dispatcher.start()

    async def _request_call(self) -> object:
        await self.wait_for_end()


class _Dispatcher(_Endable):
    """Takes a listener's calls and hands them to the handlers, until one comes that it cannot read the method of."""

    def __init__(self, loop: Any, listener: _Listener, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        super().__init__(loop, None, tuple(handlers), None, (), None)
        self._listener = listener

    async def _request_call(self) -> object:
        if self._listener.is_running():
            try:
                return await _AioServer._request_call(self._listener)
            except cygrpc._RequestCallError:
                if self._listener.is_running():
                    raise
        await self.wait_for_end()

    def _serving_task_crash_handler(self, task: "asyncio.Task[object]") -> None:
        if task.cancelled() or not self._listener.is_running():
            return
        if isinstance(task.exception(), UnicodeDecodeError):
            self._listener.go_on(self)
        else:
            self._listener._serving_task_crash_handler(task)
