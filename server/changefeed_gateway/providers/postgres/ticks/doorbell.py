"""Hears PostgreSQL's notifications: a hint that there is news, never the proof that there is none.

Every login of the database may notify, whatever and as much as it likes. So what is heard is never trusted further
than to ask the database: a payload is bounded and has one form, anything else is passed over, and a feed is rung once
for all that came together.
"""

import asyncio
import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import psycopg
import structlog
from psycopg import sql

from changefeed_gateway.core.errors import ChangeFeedError, TransientFailure
from changefeed_gateway.core.supervision import Done
from changefeed_gateway.providers.postgres.connections import (
    Connection,
    Connections,
    transport_options,
)

CHANNEL: Final = "changefeed"

_LONGEST_PAYLOAD: Final = 8_000
"""Characters; PostgreSQL allows no more bytes."""

_RING: Final = re.compile(
    r'\{\s*"feed"\s*:\s*([0-9]{1,10})\s*'
    r'(?:,\s*"seq"\s*:\s*[0-9]{1,19}\s*,\s*"partition_key"\s*:\s*(?:null|"(?:[^"\\]|\\.)*")\s*'
    r'(?:,\s*"bell"\s*:\s*([0-9]{1,18})\s*)?)?\}',
    re.ASCII,
)
"""What the change log sends (`changefeed.ring`). No parser of JSON: its numbers and depth have no bound."""

_PROBE: Final = re.compile(r'\{"probe": "[0-9a-f]{16}"\}')
"""What gateways send themselves."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Ear:
    """Takes in what a connection is notified of as soon as it has come: in one turn of the event loop, by no task."""

    def __init__(self, connection: Connection, take_in: Callable[[Sequence[bytes], str], None]) -> None:
        """`take_in` is called with the payloads of what came together, and their encoding."""
        self.heard = 0
        """Notifications so far."""
        self._pgconn, self._encoding = connection.pgconn, connection.info.encoding
        self._take_in = take_in
        self._expected: tuple[bytes, asyncio.Future[None]] | None = None
        self._loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[Exception] = self._loop.create_future()
        self._socket: int | None = connection.fileno()
        self._loop.add_reader(self._socket, self._listen)

    def expect(self, payload: bytes) -> "asyncio.Future[None]":
        """Something for `wait` to wait for: a payload, from now on."""
        self._expected = payload, self._loop.create_future()
        return self._expected[1]

    async def wait(self, seconds: float, expected: "asyncio.Future[None] | None" = None) -> bool:
        """Wait for what is expected; whether it came in time. Raises what ended the connection, or the taking in."""
        awaited: set[asyncio.Future[Any]] = {self._failed}
        if expected is not None:
            awaited.add(expected)
        await asyncio.wait(awaited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            raise self._failed.result()
        return expected is not None and expected.done()

    def close(self) -> None:
        """Before the connection is closed: the number of its socket will be another one's."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket = None

    def _listen(self) -> None:
        try:
            self._pgconn.consume_input()
            payloads: list[bytes] = []
            while (notification := self._pgconn.notifies()) is not None:
                payloads.append(notification.extra)
            if payloads:
                self.heard += len(payloads)
                self._take_in(payloads, self._encoding)
        except Exception as error:
            # libpq may have closed the socket.
            self.close()
            self._failed.set_result(error)
            return
        if self._expected is not None and self._expected[0] in payloads:
            self._expected[1].set_result(None)
            self._expected = None


class Doorbell:
    """One listening connection, replaced when it is lost or has gone deaf.

    `ring` is called with the ids of the feeds that have news and the highest value of each one's bell (0: none was
    told), and with None when any feed may have: the connection is new, and what was rung before was not heard.
    """

    def __init__(
        self,
        dsn: str,
        connections: Connections,
        ring: Callable[[Mapping[int, int] | None], None],
        *,
        probe_interval: timedelta = timedelta(seconds=15),
        probe_timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        """After `probe_interval` of silence the connection is tried out by a notification of our own."""
        self.listening = asyncio.Event()
        """Set while a connection listens that has heard a notification of our own."""
        self.rings = 0
        """Rings so far, several that came together counted once."""
        self.passed_over = 0
        """Notifications so far that were not the change log's."""
        self._dsn = dsn
        self._connections = connections
        self._ring = ring
        self._probe_interval = probe_interval.total_seconds()
        self._probe_timeout = probe_timeout

    async def run(self, done: Done) -> None:
        """Listen until the connection is lost, or is found deaf. Raises ChangeFeedError."""
        with self._connections.outage.watched():
            connection = await self._connect()
            ear = Ear(connection, self._take_in)
            try:
                if not await self._hears_probe(ear):
                    # A transaction pooler takes the LISTEN and passes nothing on.
                    raise TransientFailure(
                        "the doorbell is not heard: give a direct connection, or set doorbell to poll"
                    )
                self.listening.set()
                self._ring(None)
                done()
                while True:
                    await self._hear(ear)
                    done()
            finally:
                self.listening.clear()
                ear.close()
                await connection.close()

    async def _connect(self) -> Connection:
        # Passed on as it is: in another encoding the server refuses what is no text, and with it what comes behind.
        options = transport_options(self._dsn, "changefeed-gateway doorbell") | {"client_encoding": "sql_ascii"}
        connection = await psycopg.AsyncConnection.connect(self._dsn, **options)
        try:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _hear(self, ear: Ear) -> None:
        before = ear.heard
        await ear.wait(self._probe_interval)
        if ear.heard > before:
            return
        try:
            heard = await self._hears_probe(ear)
        except ChangeFeedError:
            return  # the database is away; the next probe tells whether this connection survived
        if not heard:
            raise TransientFailure("the doorbell has gone deaf: its connection died silently")

    async def _hears_probe(self, ear: Ear) -> bool:
        """Send ourselves a notification: a connection that died silently looks like a quiet one."""
        payload = json.dumps({"probe": secrets.token_hex(8)})
        expected = ear.expect(payload.encode())

        async def send(other: Connection) -> None:
            await other.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))

        await self._connections.run(send, within=self._probe_timeout)
        return await ear.wait(self._probe_timeout.total_seconds(), expected)

    def _take_in(self, payloads: Iterable[bytes], encoding: str) -> None:
        texts: list[str] = []
        for payload in payloads:
            try:
                texts.append(payload.decode(encoding))
            except UnicodeDecodeError:
                # In a database of encoding SQL_ASCII anything is text.
                self._pass_over()
        self._ring_for(texts)

    def _ring_for(self, payloads: Iterable[str]) -> None:
        bells: dict[int, int] = {}
        for payload in payloads:
            if len(payload) <= _LONGEST_PAYLOAD and (ring := _RING.fullmatch(payload)):
                feed_id = int(ring[1])
                bells[feed_id] = max(bells.get(feed_id, 0), int(ring[2] or 0))
            elif not _PROBE.fullmatch(payload):
                self._pass_over()
        if bells:
            self.rings += 1
            self._ring(bells)

    def _pass_over(self) -> None:
        self.passed_over += 1
        if self.passed_over == 1:
            _log.warning("somebody else notifies on the doorbell's channel: passed over", channel=CHANNEL)
