"""Examines a database that feeds are captured in: is everything there, and does it work?"""

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow, class_row

from changefeed_gateway.core.errors import ProviderAuthenticationFailed, ProviderAuthorizationFailed
from changefeed_gateway.core.finding import Finding
from changefeed_gateway.core.provider import Examination
from changefeed_gateway.providers.postgres.connections import keep_to_own_names
from changefeed_gateway.providers.postgres.errors import translate
from changefeed_gateway.providers.postgres.operations import doctor_server, doctor_ticks
from changefeed_gateway.providers.postgres.operations.migration_files import MigrationError, MigrationSet
from changefeed_gateway.providers.postgres.operations.migrations import MigrationState, migration_status
from changefeed_gateway.providers.postgres.retention import run as retention

_FEWEST_DAYS: Final = 1
_PROBE_SECONDS: Final = 3.0
_CONNECT_SECONDS: Final = 5


async def examine(dsn: str) -> Examination:
    """Look at everything, in the order in which things depend on one another; stops where nothing more can be seen."""
    try:
        connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, connect_timeout=_CONNECT_SECONDS)
    except psycopg.Error as error:
        yield Finding(
            subject="database",
            healthy=False,
            detail=str(error).strip().splitlines()[0],
            remedy=_to_connect(error, dsn),
        )
        return
    async with connection:
        await keep_to_own_names(connection)
        async for finding in _examine(connection, dsn):
            yield finding


def _to_connect(error: psycopg.Error, dsn: str) -> str:
    """What lets a login connect that was refused."""
    match translate(error):
        case ProviderAuthorizationFailed():
            given = conninfo_to_dict(dsn)
            database, user = (sql.Identifier(str(given.get(name) or "?")).as_string() for name in ("dbname", "user"))
            return f"GRANT CONNECT ON DATABASE {database} TO {user}"
        case ProviderAuthenticationFailed():
            return "check the dsn's user and password, and what the server's pg_hba.conf lets in"
        case _:
            return "check that the server runs and that the connection's dsn is right"


async def _examine(connection: psycopg.AsyncConnection[TupleRow], dsn: str) -> AsyncIterator[Finding]:
    primary = await _server(connection)
    yield primary
    if (role := await doctor_server.role(connection)) is not None:
        yield role
        if not role.healthy:
            return
    installed = True
    async for finding in _migrations(dsn):
        installed = installed and finding.healthy
        yield finding
    if installed:
        async for finding in doctor_server.readable(connection):
            yield finding
        async for finding in _feeds(connection):
            yield finding
        async for finding in doctor_server.sequences(connection):
            yield finding
        if primary.healthy:
            async for finding in _retention(dsn):
                yield finding
    yield await doctor_server.replication_role(connection)
    async for finding in doctor_server.transactions(connection):
        yield finding
    if primary.healthy:
        yield await _doorbell(connection, dsn)


async def _server(connection: psycopg.AsyncConnection[TupleRow]) -> Finding:
    cursor = await connection.execute("SELECT current_setting('server_version'), pg_is_in_recovery()")
    version, standby = await cursor.fetchone() or ("", True)
    return Finding(
        subject="database",
        healthy=not standby,
        detail=f"PostgreSQL {version}{', a standby' if standby else ''}",
        remedy="connect to the primary: a standby can make no ticks" if standby else "",
    )


async def _migrations(dsn: str) -> AsyncIterator[Finding]:
    try:
        statuses = await migration_status(dsn)
    except MigrationError as error:
        yield Finding(subject="migrations", healthy=False, detail=str(error), remedy="see the message")
        return
    for chosen in MigrationSet:
        states = [status for status in statuses if status.migration.set is chosen]
        edited = [s.migration.file for s in states if s.state is MigrationState.EDITED]
        pending = [s.migration.file for s in states if s.state is MigrationState.PENDING]
        if edited:
            yield Finding(
                subject=f"migrations of {chosen.value}",
                healthy=False,
                detail=f"edited after they were applied: {', '.join(edited)}",
                remedy="restore the files; put the change into a new one",
            )
        elif pending and (chosen is MigrationSet.LOG or len(pending) < len(states)):
            option = "" if chosen is MigrationSet.LOG else " --documents"
            yield Finding(
                subject=f"migrations of {chosen.value}",
                healthy=False,
                detail=f"{len(pending)} pending",
                remedy=f"run changefeed migrate{option}",
            )
        else:
            detail = "not installed" if pending else f"{len(states)} applied"
            yield Finding(subject=f"migrations of {chosen.value}", healthy=True, detail=detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Feed:
    id: int
    name: str
    capture: str
    state: str
    problem: str | None
    remedy: str | None


_FEEDS: Final = "SELECT feed_id AS id, name, capture, state, problem, remedy FROM changefeed.feed_states()"


async def _feeds(connection: psycopg.AsyncConnection[TupleRow]) -> AsyncIterator[Finding]:
    cursor = connection.cursor(row_factory=class_row(_Feed))
    feeds = await (await cursor.execute(_FEEDS)).fetchall()
    if not feeds:
        yield Finding(
            subject="feeds",
            healthy=False,
            detail="there is none",
            remedy="run changefeed watch TABLE, or changefeed migrate --documents",
        )
    for feed in feeds:
        yield _capture(feed)
        yield await doctor_ticks.ticks(connection, feed.id, feed.name)


def _capture(feed: _Feed) -> Finding:
    return Finding(
        subject=f"capture of {feed.name}",
        healthy=feed.state == "capturing",
        detail=f"{feed.state}: {feed.problem}" if feed.problem else f"{feed.state}, once a {feed.capture}",
        remedy=feed.remedy or "",
    )


async def _retention(dsn: str) -> AsyncIterator[Finding]:
    for feed in await retention.examine(dsn):
        ahead = feed.days_ahead
        yield Finding(
            subject=f"days of {feed.feed}",
            healthy=ahead >= _FEWEST_DAYS,
            detail=f"{ahead} made ahead",
            remedy="" if ahead >= _FEWEST_DAYS else "run changefeed retention run, or let the gateway do it",
        )
        alarms = [obstacle for obstacle in feed.obstacles if obstacle.alarm]
        for obstacle in alarms:
            subject = f"retention of {feed.feed}"
            detail = f"{obstacle.day} {obstacle.reason}"
            yield Finding(subject=subject, healthy=False, detail=detail, remedy=obstacle.remedy)
        if not alarms:
            last = f"{feed.last_run:%Y-%m-%d %H:%M%z}" if feed.last_run else "never"
            healthy = not feed.last_problem
            yield Finding(
                subject=f"retention of {feed.feed}",
                healthy=healthy,
                detail=f"last run {last}{'' if healthy else ': ' + feed.last_problem}",
                remedy="" if healthy else "see the message; changefeed retention status shows more",
            )


async def _doorbell(connection: psycopg.AsyncConnection[TupleRow], dsn: str) -> Finding:
    """Ring a bell of our own and hear it over another connection, as the gateway does."""
    channel = f"changefeed_probe_{uuid.uuid4().hex[:12]}"
    heard = False
    try:
        async with await psycopg.AsyncConnection.connect(
            dsn, autocommit=True, connect_timeout=_CONNECT_SECONDS
        ) as listener:
            await listener.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            await connection.execute("SELECT pg_notify(%s, '')", (channel,))
            async for _ in listener.notifies(timeout=_PROBE_SECONDS, stop_after=1):
                heard = True
    except (TimeoutError, psycopg.Error):
        heard = False
    return Finding(
        subject="doorbell",
        healthy=heard,
        detail="heard" if heard else "not heard",
        remedy=""
        if heard
        else "LISTEN does not work over this connection: give the gateway a direct one, or set its doorbell to poll",
    )
