"""The rows of a table as they were at one time, a page at a time, in the order of the primary key.

A strong read fixes the time, and the columns of that time with it; a place in the scan keeps both, so that each page
reads the same rows, whatever is committed and altered meanwhile.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, NamedTuple

from changefeed_gateway.core.cursors import LazyCursors
from changefeed_gateway.core.errors import (
    ChangeFeedError,
    InvalidRequest,
    NotFound,
    ProviderFailure,
    Reason,
    UnsupportedCapability,
)
from changefeed_gateway.core.model import (
    CapabilityName,
    Change,
    Cursor,
    EntireCollection,
    Page,
    PageRead,
    Scan,
    SnapshotProgress,
)
from changefeed_gateway.core.refusals import ForTheCaller
from changefeed_gateway.core.together import gather
from changefeed_gateway.providers.spanner import instants
from changefeed_gateway.providers.spanner.errors import unknown, without_text
from changefeed_gateway.providers.spanner.mapping import ItemMaker
from changefeed_gateway.providers.spanner.partitions import Topology
from changefeed_gateway.providers.spanner.requests import Scalar, rows_as_of
from changefeed_gateway.providers.spanner.rows import Value, plain
from changefeed_gateway.providers.spanner.sdk import Sdk
from changefeed_gateway.providers.spanner.table import (
    Stream,
    catalog_parameters,
    parse_period,
    schema_and_name,
)

_VERSION_RETENTION: Final = timedelta(hours=1)
"""Of a database that does not set `version_retention_period` ("Point-in-time recovery overview")."""
_LIFE: Final = 60.0
"""Seconds that the read of one page may take."""

_GOOGLE: Final = """\
SELECT 'column' AS kind, c.COLUMN_NAME AS name, c.IS_GENERATED AS value
FROM INFORMATION_SCHEMA.COLUMNS AS c WHERE c.TABLE_SCHEMA = @schema AND c.TABLE_NAME = @table
UNION ALL SELECT 'option', o.OPTION_NAME, o.OPTION_VALUE FROM INFORMATION_SCHEMA.DATABASE_OPTIONS AS o"""
_POSTGRES: Final = """\
SELECT 'column' AS kind, c.column_name AS name, c.is_generated AS value
FROM information_schema.columns AS c WHERE c.table_schema = $1 AND c.table_name = $2
UNION ALL SELECT 'option', o.option_name, o.option_value FROM information_schema.database_options AS o"""


class ScanPlace(NamedTuple):
    """Where a scan stands."""

    time: int
    """At which the rows are read, in nanoseconds."""
    kept: int
    """Seconds for which the database keeps the rows of a time."""
    columns: tuple[str, ...]
    """At that time, without those of the key and without generated ones, which no change carries."""
    key: tuple[Scalar, ...] | None = None
    """Of the last row that was read; None before the first."""

    def encode(self) -> Cursor:
        """Write a place."""
        return Cursor(_dump(self).encode())

    @classmethod
    def decode(cls, cursor: Cursor) -> "ScanPlace":
        """Read a place back. Raises InvalidRequest (TOKEN_MALFORMED) for bytes that `encode` cannot make."""
        try:
            time, kept, columns, key = json.loads(cursor)
            return cls(time, kept, tuple(columns), None if key is None else tuple(key))
        except (ValueError, TypeError) as error:
            raise InvalidRequest(
                "the place is not one of a snapshot of this table", reason=Reason.TOKEN_MALFORMED
            ) from error


@dataclass(slots=True)
class _Found:
    """Rows behind a place."""

    changes: list[Change] = field(default_factory=list)
    keys: list[tuple[Scalar, ...]] = field(default_factory=list)
    last: bool = False
    """Nothing lies behind them."""
    calls: int = 1
    _bytes: int = 0

    def take(self, change: Change, key: Sequence[Scalar], most: int) -> bool:
        """Take an item, or tell that there is no room for it: `most` bytes, of which the first is exempt."""
        self._bytes += len(change.item.encode()) if change.item is not None else 0
        if self.changes and self._bytes > most:
            return False
        self.changes.append(change)
        self.keys.append(tuple(key))
        return True


async def scan(sdk: Sdk, topology: Topology, stream: Stream, read: PageRead, start: Scan) -> Page:
    """The rows behind a place. Raises `ForTheCaller`, CheckpointExpired and the errors of the service."""
    if not isinstance(read.scope, EntireCollection):
        raise UnsupportedCapability(
            "a change-stream partition does not say which keys it holds: take a snapshot of the entire collection",
            reason=CapabilityName.SNAPSHOT_PHYSICAL_PARTITION_SCOPE.value,
        )
    if start.after is None:
        place = await _begin(sdk, stream)
        found = await _rows(sdk, stream, place, read) if read.max_changes else _Found(calls=0)
        return _page(place, found, read)
    place = ScanPlace.decode(start.after)

    async def same_stream() -> None:
        # The one that the changes follow in; another one of its name does not reach back that far.
        await topology.at(place.time + 1)

    async def rows() -> _Found | Exception:
        try:
            return await _rows(sdk, stream, place, read)
        except (ChangeFeedError, ForTheCaller) as error:
            return error

    _, found_or_not = await gather([same_stream(), rows()])
    if isinstance(found_or_not, Exception):
        raise found_or_not
    return _page(place, found_or_not or _Found(), read)


async def _begin(sdk: Sdk, stream: Stream) -> ScanPlace:
    await sdk.connect()
    found = await sdk.query(
        _POSTGRES if sdk.postgresql else _GOOGLE,
        catalog_parameters(sdk, *schema_and_name(sdk, stream.table)),
        columns=3,
        doing="spanner.databases.select on INFORMATION_SCHEMA",
    )
    facts = [[cell.string_value for cell in row] for row in found.rows]
    columns = {name: generated for kind, name, generated in facts if kind == "column"}
    options = {name: value for kind, name, value in facts if kind == "option"}
    key = {column.name for column in stream.key}
    if not key <= columns.keys():
        raise NotFound(f"there is no table {stream.table} in the connection's database")
    others = sorted(name for name, generated in columns.items() if generated == "NEVER" and name not in key)
    kept = parse_period(options.get("version_retention_period")) or _VERSION_RETENTION
    return ScanPlace(found.read_time, kept // timedelta(seconds=1), tuple(others))


async def _rows(sdk: Sdk, stream: Stream, place: ScanPlace, read: PageRead) -> _Found:
    retrying = sdk.retries.retrying()
    found: _Found = await retrying(_rows_once, sdk, stream, place, read)
    found.calls = retrying.statistics["attempt_number"]
    return found


async def _rows_once(sdk: Sdk, stream: Stream, place: ScanPlace, read: PageRead) -> _Found:
    whole = not stream.missing_items
    key = [column.name for column in stream.key]
    columns = [*key, *(place.columns if whole and read.items else ())]
    limit = max(1, read.max_changes)
    maker = ItemMaker(stream.key, columns, place.time, whole=whole)
    doing = f"spanner.databases.read on the table {stream.table}"
    ask = rows_as_of(place.time, stream.table, columns, place.key, limit)
    rows = await sdk.begin(ask, life=_LIFE, columns=len(columns), doing=doing)
    found = _Found()
    try:
        while (message := await rows.read(sdk.retries.answer_timeout.total_seconds())) is not None:
            for row in message:
                values = _plain(row, doing)
                if not found.take(maker.make(values, read), values[: len(key)], read.max_bytes):
                    return found
    finally:
        rows.close()
    found.last = len(found.changes) < limit
    return found


def _plain(row: Sequence[Value], doing: str) -> list[Any]:
    failure: ProviderFailure
    try:
        return [plain(value) for value in row]
    except ValueError as error:
        failure, cause = unknown(doing), without_text(error)
    raise failure from cause


def _page(place: ScanPlace, found: _Found, read: PageRead) -> Page:
    changes, keys = (found.changes, found.keys) if read.max_changes else ([], [])
    end = place._replace(key=keys[-1]) if keys else place
    return Page(
        changes=changes,
        cursors=LazyCursors(keys, lambda key: place._replace(key=key).encode()),
        start=place.encode(),
        cursor=end.encode(),
        more_available=True,
        comparable=False,
        expire_time=instants.to_datetime(place.time) + timedelta(seconds=place.kept),
        watermark=instants.exact(place.time + 1),
        provider_calls=found.calls + 1,
        snapshot=SnapshotProgress(items=len(changes), finished=bool(read.max_changes) and found.last),
    )


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
