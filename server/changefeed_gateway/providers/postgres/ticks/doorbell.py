"""Hears PostgreSQL's notifications: a hint that there is news, never the proof that there is none.

Every login of the database may notify, whatever and as much as it likes. So what is heard is never trusted further
than to ask the database: a payload is bounded and has one form, anything else is passed over, and a feed is rung once
for all that came together.
"""

import asyncio
import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Final

import psycopg
import structlog
from psycopg import sql

from changefeed_gateway.core.clock import monotonic
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
            try:
                # A transaction pooler takes the LISTEN and passes nothing on.
                not_heard = "the doorbell is not heard: give a direct connection, or set doorbell to poll"
                await self._expect(connection, await self._send_probe(), not_heard)
                self.listening.set()
                self._ring(None)
                done()
                while True:
                    await self._hear(connection)
                    done()
            finally:
                self.listening.clear()
                await connection.close()

    async def _connect(self) -> Connection:
        options = transport_options(self._dsn, "changefeed-gateway doorbell")
        connection = await psycopg.AsyncConnection.connect(self._dsn, **options)
        try:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _hear(self, connection: Connection) -> None:
        if await self._pass_on(connection, self._probe_interval):
            return
        try:
            probe = await self._send_probe()
        except ChangeFeedError:
            return  # the database is away; the next probe tells whether this connection survived
        await self._expect(connection, probe, "the doorbell has gone deaf: its connection died silently")

    async def _send_probe(self) -> str:
        """Send ourselves a notification: a connection that died silently looks like a quiet one."""
        payload = json.dumps({"probe": secrets.token_hex(8)})

        async def send(other: Connection) -> None:
            await other.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))

        await self._connections.run(send, within=self._probe_timeout)
        return payload

    async def _expect(self, connection: Connection, probe: str, deaf: str) -> None:
        if not await self._pass_on(connection, self._probe_timeout.total_seconds(), until=probe):
            raise TransientFailure(deaf)

    async def _pass_on(self, connection: Connection, seconds: float, until: str = "") -> bool:
        """Ring for what is heard within some seconds, or until a payload; whether there was any, or that one."""
        deadline = monotonic() + seconds
        heard = False
        while (remaining := deadline - monotonic()) > 0 and not (until and heard):
            payloads: list[str] = []
            try:
                # Leaving the generator between two notifications of one packet would lose the second.
                async for notification in connection.notifies(timeout=remaining, stop_after=1):
                    payloads.append(notification.payload)
            except UnicodeDecodeError:
                # In a database of encoding SQL_ASCII anything is text; what came behind it is lost.
                self._pass_over()
                self._ring(None)
                heard = heard or not until
            heard = heard or (until in payloads if until else bool(payloads))
            self._ring_for(payloads)
        return heard

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
