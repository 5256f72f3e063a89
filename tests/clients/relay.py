"""A TCP relay that does what networks do: it cuts connections, delays what passes, or goes silent with them open."""

import asyncio
from contextlib import suppress

from tests.listening import stop_accepting


class Relay:
    """Passes bytes between its own port and a target."""

    def __init__(self, target: str) -> None:
        self.target = target
        """Where new connections lead; a target that does not listen cuts them."""
        self.delay = 0.0
        """Seconds that everything is kept back, each way."""
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stalled: set[asyncio.StreamWriter] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def stall(self) -> None:
        """Let nothing more pass on the connections that are open; new ones work."""
        self._stalled |= self._writers

    def cut(self) -> None:
        """Reset the connections that are open; new ones work."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def stop(self) -> None:
        if self._server is not None:
            await stop_accepting(self._server.sockets)
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self.target.rsplit(":", 1)
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        self.connections += 1
        self._writers |= {writer, far_writer}
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pass(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65_536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if sink not in self._stalled:
                    sink.write(data)
                    await sink.drain()
        if sink not in self._stalled:
            sink.transport.abort()
