"""What the database knows of a feed, found by its name."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final
from uuid import UUID

from psycopg.rows import class_row

from changefeed_gateway.core.errors import (
    FeedNotProvisioned,
    HistoryGap,
    InternalFailure,
    NotFound,
    Reason,
    TransientFailure,
)
from changefeed_gateway.core.model import Address, KeyType
from changefeed_gateway.providers.postgres.connections import Connection, DatabaseId
from changefeed_gateway.providers.postgres.errors import MIGRATE


class ImageMode(Enum):
    """Where the item of a change comes from."""

    CAPTURED = "captured"
    """The trigger stored the row with the change."""
    CURRENT = "current"
    """It is read with the page."""
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedDefinition:
    """One row of changefeed.feeds, and the server it was found on."""

    feed_id: int
    name: str
    image_mode: ImageMode
    image_function: str | None
    """Takes keys, returns key, partition_key and image of what exists now."""
    key_columns: tuple[str, ...]
    key_types: tuple[KeyType, ...]
    doorbell: str
    retention: timedelta
    stopped: str | None
    """Why its changes are not captured any more."""
    incarnation: str
    """Changes whenever stored positions mean something else: a clone, a restore, a re-created database or feed."""
    database: DatabaseId
    created_at: datetime
    standby: bool
    """Ticks come from the primary; none can be made here."""
    snapshots: bool
    """Its items can be read in an order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The columns of `_LOOK_UP`; those of the feed are null when there is none."""

    system_identifier: int
    database_oid: int
    database: str
    standby: bool
    log_oid: int | None
    at_home: bool
    feed_id: int
    name: str
    image_mode: str
    image_function: str | None
    key_columns: list[str]
    key_types: list[str]
    doorbell: str
    retention: timedelta
    stopped: str | None
    incarnation: UUID
    created_at: datetime
    snapshots: bool


_LOOK_UP: Final = """
SELECT c.system_identifier, d.oid::bigint AS database_oid, d.datname AS database, pg_is_in_recovery() AS standby,
       to_regclass('changefeed_log.log_' || f.feed_id)::oid::bigint AS log_oid,
       f.home IS NOT DISTINCT FROM changefeed.home(f.feed_id) AS at_home,
       f.feed_id, f.name, f.image_mode, f.image_function, f.key_columns, f.key_types, f.doorbell, f.retention,
       f.stopped, f.incarnation, f.created_at, to_regproc('changefeed_log.items_' || f.feed_id) IS NOT NULL AS snapshots
FROM pg_control_system() c
JOIN pg_database d ON d.datname = current_database()
LEFT JOIN changefeed.feeds f ON f.name = %s
"""

_TABLE_EXISTS: Final = """
SELECT EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname || '.' || c.relname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f'))
"""


async def look_up(connection: Connection, address: Address) -> tuple[Address, FeedDefinition]:
    """Find the feed of a collection; the address comes back with its database filled in.

    Raises NotFound for another database or an unknown collection, FeedNotProvisioned for a table that nobody watches.
    """
    found = await _find(connection, address.collection)
    if found.log_oid is not None and not found.at_home and not found.standby:
        # P6: restored or copied, it begins anew before anything of it is read.
        await connection.execute("SELECT changefeed.adopt_log(%s::integer)", (found.feed_id,))
        found = await _find(connection, address.collection)
    if address.database not in ("", found.database):
        raise NotFound(
            f"the connection {address.connection!r} is to another database than {address.database!r}: leave the"
            " database empty, or name a connection to it",
            reason=Reason.DATABASE_NOT_FOUND,
        )
    if found.feed_id is None:
        raise await _why_not(connection, address.collection)
    if found.log_oid is None:
        raise FeedNotProvisioned(MIGRATE)
    if not found.at_home:
        raise TransientFailure("the database was restored and its primary has not begun the feed anew: try again")
    full = Address(connection=address.connection, database=found.database, collection=address.collection)
    return full, _definition(found)


def capture_stopped(feed: str, problem: str) -> HistoryGap:
    """What a reader is told who comes to where a feed's capture stopped."""
    return HistoryGap(
        f"capture of {feed} stopped here, and changes are missing: {problem}; `changefeed doctor` says the remedy, then"
        " start from a snapshot, or from now and read the source after that"
    )


async def _find(connection: Connection, collection: str) -> _Found:
    async with connection.cursor(binary=True, row_factory=class_row(_Found)) as cursor:
        found = await (await cursor.execute(_LOOK_UP, (collection,))).fetchone()
    if found is None:
        raise InternalFailure("a database that answers has a row in pg_database")
    return found


async def _why_not(connection: Connection, collection: str) -> FeedNotProvisioned | NotFound:
    row = await (await connection.execute(_TABLE_EXISTS, (collection,))).fetchone()
    if row is not None and row[0]:
        return FeedNotProvisioned(
            f"the table {collection} is not watched: run select changefeed.watch('{collection}') in its database"
        )
    return NotFound(
        f"there is no collection {collection!r}: name a feed of changefeed.feeds, a watched table with its schema"
        " ('public.orders')"
    )


def _definition(found: _Found) -> FeedDefinition:
    place = (found.system_identifier, found.database_oid, found.database, found.feed_id, found.log_oid)
    return FeedDefinition(
        feed_id=found.feed_id,
        name=found.name,
        image_mode=ImageMode(found.image_mode),
        image_function=found.image_function,
        key_columns=tuple(found.key_columns),
        key_types=tuple(map(KeyType, found.key_types)),
        doorbell=found.doorbell,
        retention=found.retention,
        stopped=found.stopped,
        incarnation="/".join(map(str, (*place, found.incarnation))),
        database=DatabaseId(found.system_identifier, found.database_oid),
        created_at=found.created_at,
        standby=found.standby,
        # P5: on a standby a snapshot does not tell which transactions it sees.
        snapshots=found.snapshots and not found.standby,
    )
