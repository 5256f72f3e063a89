"""Hears PostgreSQL's notifications: a hint that there is news, never the proof that there is none."""

import asyncio
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final

import psycopg
import structlog
from psycopg import sql
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from changefeed_gateway.core.errors import ChangeFeedError
from changefeed_gateway.providers.postgres.connections import (
    Connection,
    Connections,
    transport_options,
)

CHANNEL: Final = "changefeed"

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class _Deaf(Exception):
    """A connection did not hear what was sent to it."""


class Doorbell:
    """One listening connection, replaced when it is lost or has gone deaf.

    `ring` is called with the id of the feed that has news, and with None when any feed may have: the connection is
    new, and what was rung before was not heard.
    """

    def __init__(
        self,
        dsn: str,
        connections: Connections,
        ring: Callable[[int | None], None],
        *,
        probe_interval: timedelta = timedelta(seconds=15),
        probe_timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        """After `probe_interval` of silence the connection is tried out by a notification of our own."""
        self.listening = asyncio.Event()
        """Set while a connection listens that has heard a notification of our own."""
        self._dsn = dsn
        self._connections = connections
        self._ring = ring
        self._probe_interval = probe_interval.total_seconds()
        self._probe_timeout = probe_timeout.total_seconds()
        self._task: asyncio.Task[None] | None = None
        self._warned = False

    def start(self) -> None:
        """Begin to listen; idempotent."""
        if self._task is None:
            self._task = asyncio.create_task(self._listen_for_ever())

    async def aclose(self) -> None:
        """Stop listening; idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _listen_for_ever(self) -> None:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((psycopg.Error, OSError)),
            wait=wait_exponential_jitter(multiplier=0.05, max=5.0, jitter=0.2),
        )
        while True:
            connection: Connection = await retrying(self._connect)
            try:
                await self._try_out(connection)
                self.listening.set()
                self._ring(None)
                await self._hear(connection)
            except (psycopg.Error, OSError, _Deaf) as error:
                _log.info("doorbell lost, listening again", reason=type(error).__name__)
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

    async def _try_out(self, connection: Connection) -> None:
        """A transaction pooler takes the LISTEN and passes nothing on."""
        try:
            await self._probe(connection)
        except _Deaf:
            if not self._warned:
                _log.warning("the doorbell is not heard: give a direct connection, or set doorbell to poll")
            self._warned = True
            raise
        self._warned = False

    async def _hear(self, connection: Connection) -> None:
        while True:
            if not await self._pass_on(connection, self._probe_interval):
                await self._probe(connection)

    async def _probe(self, connection: Connection) -> None:
        """Send ourselves a notification: a connection that died silently looks like a quiet one."""
        payload = json.dumps({"probe": secrets.token_hex(8)})

        async def send(other: Connection) -> None:
            await other.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))

        try:
            await self._connections.run(send)
        except ChangeFeedError:
            return  # the database is away; the next probe tells whether this connection survived
        if not await self._pass_on(connection, self._probe_timeout, until=payload):
            raise _Deaf

    async def _pass_on(self, connection: Connection, seconds: float, until: str = "") -> bool:
        """Ring for what is heard within some seconds, or until a payload; whether there was any, or that one."""
        deadline = _now() + seconds
        heard = False
        while (remaining := deadline - _now()) > 0 and not (until and heard):
            # Leaving the generator between two notifications of one packet would lose the second.
            async for notification in connection.notifies(timeout=remaining, stop_after=1):
                heard = heard or not until or notification.payload == until
                self._ring_for(notification.payload)
        return heard

    def _ring_for(self, payload: str) -> None:
        # Anybody may notify: what is not ours is passed over.
        with suppress(ValueError, TypeError, KeyError):
            self._ring(int(json.loads(payload)["feed"]))


def _now() -> float:
    return asyncio.get_running_loop().time()
