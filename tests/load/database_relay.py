"""A network between the gateway and PostgreSQL that cuts connections and goes silent on them."""

import asyncio
from contextlib import suppress

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.listening import stop_accepting

DOORBELL = "changefeed-gateway doorbell"
"""The application name of the gateway's listening connection."""


class _Link:
    """One connection through the relay."""

    def __init__(self, application: str, ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self.application = application
        self.stalled = False
        self._ends = ends

    def cut(self) -> None:
        for end in self._ends:
            end.transport.abort()


class DatabaseRelay:
    """Listens on loopback and passes bytes to PostgreSQL's Unix socket."""

    def __init__(self, dsn: str) -> None:
        self.asked = 0
        """How many packets the gateway sent to PostgreSQL."""
        self.cuts = 0
        self.cut_every = 0
        """So many bytes of answers are followed by a cut in the middle of the next large packet; 0: no cuts."""
        self._dsn = dsn
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._since_cut = 0

    async def start(self) -> str:
        """Listen; answers a connection string that leads through the relay."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        # Without encryption the first packet tells which connection it is.
        return make_conninfo(self._dsn, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable")

    async def stop(self) -> None:
        """Cut everything."""
        if self._server is not None:
            await stop_accepting(self._server.sockets)
            self._server.close()
        for link in self._links:
            link.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stall(self, application: str) -> int:
        """Let nothing more pass on the connections of this name, which stay open; new ones work. Answers how many."""
        chosen = [link for link in self._links if link.application == application and not link.stalled]
        for link in chosen:
            link.stalled = True
        return len(chosen)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        place = conninfo_to_dict(self._dsn)
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(f"{place['host']}/.s.PGSQL.{place['port']}")
        except OSError:
            writer.transport.abort()
            return
        first = await reader.read(65_536)
        far_writer.write(first)
        words = first.split(b"\0")
        named = words.index(b"application_name") if b"application_name" in words else -1
        link = _Link(words[named + 1].decode() if named >= 0 else "", (writer, far_writer))
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pass(link, reader, far_writer, answers=False), self._pass(link, far_reader, writer, answers=True)
            )
        finally:
            link.cut()
            self._links.discard(link)

    async def _pass(
        self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65_536):
                if link.stalled:
                    continue
                if not answers:
                    self.asked += 1
                elif self._cuts(len(data)):
                    sink.write(data[: len(data) // 2])
                    await sink.drain()
                    break
                sink.write(data)
                await sink.drain()
        if not link.stalled:
            link.cut()

    def _cuts(self, size: int) -> bool:
        """Whether the connection is cut in this packet. Counted in bytes, so that pages of every size get through."""
        self._since_cut += size
        cut = 0 < self.cut_every <= self._since_cut and size > 4_000
        if cut:
            self._since_cut = 0
            self.cuts += 1
        return cut
