"""Stands between a gateway and its server, and breaks what passes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.listening import stop_accepting


class Link:
    """One connection through the relay; `name` is what the client calls itself."""

    def __init__(self, name: str, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.name = name
        self.swallow = False
        """What the server says is lost, and neither side notices."""
        self.gone = asyncio.Event()
        self._ends = (client, server)

    def cut(self) -> None:
        """Both sides find it closed."""
        for end in self._ends:
            end.transport.abort()


class Relay:
    """A Unix socket that leads to another one."""

    def __init__(self, dsn: str, directory: Path) -> None:
        parts = conninfo_to_dict(dsn)
        self._target = Path(str(parts["host"])) / f".s.PGSQL.{parts['port']}"
        self._path = directory / self._target.name
        self.dsn = make_conninfo(dsn, host=str(directory))
        self._links: list[Link] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def links(self, name: str = "") -> Iterator[Link]:
        """Open connections whose client's name contains a word."""
        return (link for link in list(self._links) if name in link.name)

    async def serve(self) -> asyncio.Server:
        return await asyncio.start_unix_server(self._accept, self._path)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            first = await from_client.read(4096)
            from_server, to_server = await asyncio.open_unix_connection(self._target)
            to_server.write(first)
            link = Link(_application_name(first), to_client, to_server)
            self._links.append(link)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pump(from_client, to_server, None))
                    both.create_task(self._pump(from_server, to_client, link))
            finally:
                self._links.remove(link)
                link.gone.set()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link | None) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if link is None or not link.swallow:
                    writer.write(data)
                    await writer.drain()
        writer.close()

    async def aclose(self) -> None:
        for link in self.links():
            link.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)


def _application_name(startup: bytes) -> str:
    fields = startup[8:].split(b"\0")
    return dict(zip(fields[::2], fields[1::2], strict=False)).get(b"application_name", b"").decode()


@asynccontextmanager
async def open_relay(dsn: str) -> AsyncIterator[Relay]:
    with TemporaryDirectory(prefix="relay-") as directory:
        relay = Relay(dsn, Path(directory))
        server = await relay.serve()
        try:
            yield relay
        finally:
            await stop_accepting(server.sockets)
            server.close()
            await relay.aclose()
