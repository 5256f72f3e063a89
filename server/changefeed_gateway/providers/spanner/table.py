"""What a database says of a table and the change streams that watch it."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, NamedTuple

from changefeed_gateway.core.errors import FeedNotProvisioned, NotFound
from changefeed_gateway.core.model import Capability, CapabilityName, ItemState, KeyType, PortabilityWarning
from changefeed_gateway.providers.spanner.mapping import WHOLE_ROWS, KeyColumn
from changefeed_gateway.providers.spanner.requests import Parameter
from changefeed_gateway.providers.spanner.sdk import Found, Sdk

DEFAULT_RETENTION: Final = timedelta(days=7)
"""Of a stream that does not set `retention_period` ("Change streams overview: data retention")."""
DEFAULT_CAPTURE: Final = "OLD_AND_NEW_VALUES"
MUTABLE: Final = "MUTABLE_KEY_RANGE"

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PERIOD: Final = re.compile(r"(\d{1,9})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_EXCLUDED: Final = {
    "exclude_insert": "inserts",
    "exclude_update": "updates",
    "exclude_delete": "deletes",
    "exclude_ttl_deletes": "deletes by time to live",
}
_YES: Final = ("YES", "TRUE", "true", "t")
_KEY_TYPES: Final = (
    ("INT64", KeyType.NUMBER),
    ("NUMERIC", KeyType.NUMBER),
    ("FLOAT", KeyType.NUMBER),
    ("BIGINT", KeyType.NUMBER),
    ("INTEGER", KeyType.NUMBER),
    ("DOUBLE PRECISION", KeyType.NUMBER),
    ("REAL", KeyType.NUMBER),
    ("BOOL", KeyType.BOOLEAN),
    ("BYTES", KeyType.BINARY),
    ("BYTEA", KeyType.BINARY),
)
"""By how the type's name begins; every other one is read as a string."""

_GOOGLE: Final = """\
SELECT 'table' AS kind, t.TABLE_NAME AS name, '' AS detail, '' AS value
FROM INFORMATION_SCHEMA.TABLES AS t WHERE t.TABLE_SCHEMA = @schema AND t.TABLE_NAME = @table
UNION ALL SELECT 'column', c.COLUMN_NAME, '', c.IS_GENERATED
FROM INFORMATION_SCHEMA.COLUMNS AS c WHERE c.TABLE_SCHEMA = @schema AND c.TABLE_NAME = @table
UNION ALL SELECT 'key', k.COLUMN_NAME, CAST(k.ORDINAL_POSITION AS STRING), k.SPANNER_TYPE
FROM INFORMATION_SCHEMA.INDEX_COLUMNS AS k
WHERE k.TABLE_SCHEMA = @schema AND k.TABLE_NAME = @table AND k.INDEX_TYPE = 'PRIMARY_KEY'
UNION ALL SELECT 'stream', s.CHANGE_STREAM_NAME, CAST(s.`ALL` AS STRING), ''
FROM INFORMATION_SCHEMA.CHANGE_STREAMS AS s
UNION ALL SELECT 'watch', w.CHANGE_STREAM_NAME, CAST(w.ALL_COLUMNS AS STRING), ''
FROM INFORMATION_SCHEMA.CHANGE_STREAM_TABLES AS w WHERE w.TABLE_SCHEMA = @schema AND w.TABLE_NAME = @table
UNION ALL SELECT 'option', o.CHANGE_STREAM_NAME, o.OPTION_NAME, o.OPTION_VALUE
FROM INFORMATION_SCHEMA.CHANGE_STREAM_OPTIONS AS o"""
_POSTGRES: Final = """\
SELECT 'table' AS kind, t.table_name AS name, '' AS detail, '' AS value
FROM information_schema.tables AS t WHERE t.table_schema = $1 AND t.table_name = $2
UNION ALL SELECT 'column', c.column_name, '', c.is_generated
FROM information_schema.columns AS c WHERE c.table_schema = $1 AND c.table_name = $2
UNION ALL SELECT 'key', k.column_name, k.ordinal_position::text, k.spanner_type
FROM information_schema.index_columns AS k
WHERE k.table_schema = $1 AND k.table_name = $2 AND k.index_type = 'PRIMARY_KEY'
UNION ALL SELECT 'stream', s.change_stream_name, s."all"::text, ''
FROM information_schema.change_streams AS s
UNION ALL SELECT 'watch', w.change_stream_name, w.all_columns::text, ''
FROM information_schema.change_stream_tables AS w WHERE w.table_schema = $1 AND w.table_name = $2
UNION ALL SELECT 'option', o.change_stream_name, o.option_name, o.option_value
FROM information_schema.change_stream_options AS o"""


class Stream(NamedTuple):
    """The change stream of one table."""

    name: str
    table: str
    """As its records name it."""
    key: tuple[KeyColumn, ...]
    capture: str
    """The value capture type in force."""
    whole: bool
    """It watches every column of the table."""
    retention: timedelta
    excluded: tuple[str, ...]
    """What it leaves out, in words."""
    transactions_may_opt_out: bool

    @property
    def item_state(self) -> ItemState:
        """What its records carry of an item."""
        return ItemState.UNAVAILABLE if self.missing_items else ItemState.INCLUDED

    @property
    def missing_items(self) -> str:
        """Why its records do not hold whole rows; empty when they do."""
        if self.capture not in WHOLE_ROWS:
            return (
                f"the change stream's value_capture_type is {self.capture}: only NEW_ROW and NEW_ROW_AND_OLD_VALUES"
                " carry the whole row"
            )
        return "" if self.whole else "the change stream watches only some of the table's columns"


class Described(NamedTuple):
    """What the catalog says of a table."""

    stream: Stream
    columns: int
    """Of a whole row as changes carry it: all but generated ones."""


@dataclass
class _Catalog:
    exists: bool = False
    columns: int = 0
    key: dict[int, KeyColumn] = field(default_factory=dict)
    streams: dict[str, bool] = field(default_factory=dict)
    """Whether each watches everything."""
    watching: dict[str, bool] = field(default_factory=dict)
    """Of those that name the table: whether they watch all of its columns."""
    options: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))


async def find_stream(sdk: Sdk, table: str, chosen: str | None) -> tuple[Described, int]:
    """Ask the database for a table and its change stream; `chosen`: its name, where the settings give one.

    Tells also as of when that is so, in nanoseconds of Spanner's clock. Raises NotFound, FeedNotProvisioned and the
    errors of the service.
    """
    await sdk.connect()
    schema, name = schema_and_name(sdk, table)
    if not _NAME.fullmatch(name) or (schema and not _NAME.fullmatch(schema)):
        raise NotFound(f"{table!r} is no name that a table can have")
    found = await sdk.query(
        _POSTGRES if sdk.postgresql else _GOOGLE,
        catalog_parameters(sdk, schema, name),
        columns=4,
        doing="spanner.databases.select on INFORMATION_SCHEMA",
    )
    catalog = _read(found)
    if not catalog.exists:
        raise NotFound(f"there is no table {table} in the connection's database")
    record_table = name if schema == _default_schema(sdk) else table
    stream = _stream(catalog, table, record_table, _choose(catalog, table, chosen))
    return Described(stream, catalog.columns), found.read_time


def schema_and_name(sdk: Sdk, table: str) -> tuple[str, str]:
    """Both parts of a table's name, once the dialect is known."""
    schema, _, name = table.rpartition(".")
    return schema or _default_schema(sdk), name


def catalog_parameters(sdk: Sdk, schema: str, name: str) -> dict[str, Parameter]:
    """What a statement on INFORMATION_SCHEMA calls them."""
    first, second = ("p1", "p2") if sdk.postgresql else ("schema", "table")
    return {first: Parameter(schema), second: Parameter(name)}


def _default_schema(sdk: Sdk) -> str:
    return "public" if sdk.postgresql else ""


def _read(found: Found) -> _Catalog:
    catalog = _Catalog()
    for row in found.rows:
        kind, name, detail, value = (cell.string_value for cell in row)
        match kind:
            case "table":
                catalog.exists = True
            case "column":
                catalog.columns += value == "NEVER"
            case "key":
                catalog.key[int(detail)] = KeyColumn(name, _key_type(value))
            case "stream":
                catalog.streams[name] = detail in _YES
            case "watch":
                catalog.watching[name] = detail in _YES
            case _:
                catalog.options[name][detail] = value
    return catalog


def _choose(catalog: _Catalog, table: str, chosen: str | None) -> str:
    watching = sorted({*catalog.watching, *(name for name, everything in catalog.streams.items() if everything)})
    if chosen is not None:
        if chosen in watching:
            return chosen
        there = "does not watch the table" if chosen in catalog.streams else "is not there"
        raise FeedNotProvisioned(
            f"the change stream {chosen}, which the settings name for the table {table}, {there}:"
            f" CREATE CHANGE STREAM {chosen} FOR {table}, or name another one"
        )
    # One of the new mode cannot be read, so it is no choice where there is another.
    readable = [name for name in watching if not _is_mutable(catalog, name)] or watching
    if not readable:
        raise FeedNotProvisioned(
            f"no change stream watches the table {table}: CREATE CHANGE STREAM <name> FOR {table} OPTIONS"
            " (value_capture_type = 'NEW_ROW')"
        )
    if len(readable) > 1:
        raise FeedNotProvisioned(
            f"several change streams watch the table {table} ({', '.join(readable)}): name one under tables in the"
            " connection's settings"
        )
    return readable[0]


def _is_mutable(catalog: _Catalog, name: str) -> bool:
    return catalog.options[name].get("partition_mode", "") == MUTABLE


def _stream(catalog: _Catalog, table: str, record_table: str, name: str) -> Stream:
    if not _NAME.fullmatch(name):
        raise FeedNotProvisioned(f"the change stream of the table {table} has a name that cannot be asked for")
    if _is_mutable(catalog, name):
        raise FeedNotProvisioned(
            f"the change stream {name} has the partition mode {MUTABLE}, which the gateway does not read: make one"
            " without the option partition_mode"
        )
    options = catalog.options[name]
    return Stream(
        name=name,
        table=record_table,
        key=tuple(catalog.key[place] for place in sorted(catalog.key)),
        # Only what was set has a row: absence means the default.
        capture=options.get("value_capture_type", DEFAULT_CAPTURE),
        whole=catalog.watching.get(name, catalog.streams.get(name, False)),
        retention=parse_period(options.get("retention_period")) or DEFAULT_RETENTION,
        excluded=tuple(words for option, words in _EXCLUDED.items() if options.get(option) in _YES),
        transactions_may_opt_out=options.get("allow_txn_exclusion") in _YES,
    )


def parse_period(text: str | None) -> timedelta | None:
    """A length of time in Spanner's words, such as 36h; None for anything else."""
    found = _PERIOD.fullmatch(text or "")
    return timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else None


def _key_type(spanner_type: str) -> KeyType:
    upper = spanner_type.upper()
    return next((kind for begin, kind in _KEY_TYPES if upper.startswith(begin)), KeyType.STRING)


# --- What it can do


def capabilities(stream: Stream) -> tuple[Capability, ...]:
    """What a table's change stream can do."""
    kept = f"the last {stream.retention}, or since the change stream was made"
    missing = dict.fromkeys(
        (
            CapabilityName.LOGICAL_PARTITION_SCOPE,
            CapabilityName.SNAPSHOT_PHYSICAL_PARTITION_SCOPE,
            CapabilityName.SNAPSHOT_LOGICAL_PARTITION_SCOPE,
        ),
        "a change-stream partition holds many keys, and its token does not say which",
    )
    details: Mapping[CapabilityName, str] = {
        CapabilityName.CHANGE_FEED: f"the change stream {stream.name}" + "".join(f"; {w}" for w in omissions(stream)),
        CapabilityName.BEGINNING: kept,
        CapabilityName.POINT_IN_TIME: f"within {kept}",
        CapabilityName.NEW_ITEM_STATE: "the row as the change left it",
        CapabilityName.SNAPSHOT: "exact: the rows as they were at the moment with which the changes begin, which the"
        " database keeps for its version_retention_period",
        CapabilityName.DELETES: "without those by time to live"
        if _EXCLUDED["exclude_ttl_deletes"] in stream.excluded
        else "",
    }
    if _EXCLUDED["exclude_delete"] in stream.excluded:
        missing[CapabilityName.DELETES] = "the change stream was made with exclude_delete"
    if stream.missing_items:
        missing[CapabilityName.NEW_ITEM_STATE] = stream.missing_items
    return tuple(
        Capability(name=name, supported=name not in missing, detail=missing.get(name, details.get(name, "")))
        for name in CapabilityName
    )


def omissions(stream: Stream) -> Sequence[str]:
    """What of the table's changes never reaches the stream."""
    found = [f"it leaves out {', '.join(stream.excluded)}"] if stream.excluded else []
    if not stream.whole:
        found.append("changes of columns that it does not watch make no event")
    if stream.transactions_may_opt_out:
        found.append("a transaction may leave itself out (allow_txn_exclusion)")
    return found


def warnings(stream: Stream) -> tuple[PortabilityWarning, ...]:
    """Where the stream differs from what portable code expects."""
    return tuple(
        PortabilityWarning(code="CHANGES_LEFT_OUT", message=f"of the change stream {stream.name}: {words}")
        for words in omissions(stream)
    )
