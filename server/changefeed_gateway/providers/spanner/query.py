"""One query of a change stream: its statement, and its records as they come."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from google.cloud.spanner_v1.types import TypeCode

from changefeed_gateway.providers.spanner import instants
from changefeed_gateway.providers.spanner.cursor import Position
from changefeed_gateway.providers.spanner.errors import unknown, without_text
from changefeed_gateway.providers.spanner.records import (
    Children,
    DataRecord,
    Descendant,
    Heartbeat,
    Record,
    google_records,
    postgres_records,
)
from changefeed_gateway.providers.spanner.requests import Parameter
from changefeed_gateway.providers.spanner.rows import Value
from changefeed_gateway.providers.spanner.sdk import RowStream, Sdk

_NAMES: Final = ("start", "end", "token", "heartbeat")


class StreamQueries:
    """Opens the queries of one change stream."""

    def __init__(self, sdk: Sdk, stream: str, heartbeat: int) -> None:
        """`stream`: a name that needs no quoting. `heartbeat`: milliseconds."""
        self.sdk = sdk
        self.heartbeat = heartbeat / 1_000
        """Seconds within which a query says something."""
        self._stream = stream
        self._milliseconds = heartbeat

    async def open(self, token: str | None, start: int, end: int | None, *, life: float) -> "StreamQuery":
        """Read a partition from a time, both ends included; without a token: ask which partitions there are then.

        `end` None: for ever. `life`: seconds after which the query ends by itself. Raises as the service refuses.
        """
        values = (
            Parameter(instants.text(start), int(TypeCode.TIMESTAMP)),
            Parameter(None if end is None else instants.text(end), int(TypeCode.TIMESTAMP)),
            Parameter(token),
            Parameter(str(self._milliseconds), int(TypeCode.INT64)),
        )
        if self.sdk.postgresql:
            # A name from the catalog, of letters, digits and _ alone: a function's name cannot be a parameter.
            sql = f'SELECT * FROM "spanner"."read_json_{self._stream}"($1, $2, $3, $4, null)'  # noqa: S608
            parameters = {f"p{place}": value for place, value in enumerate(values, 1)}
        else:
            sql = f"SELECT ChangeRecord FROM READ_{self._stream}(@start, @end, @token, @heartbeat, NULL)"  # noqa: S608
            parameters = dict(zip(_NAMES, values, strict=True))
        doing = f"spanner.databases.select on the change stream {self._stream}"
        rows = await self.sdk.open(sql, parameters, life=life, doing=doing)
        return StreamQuery(rows, postgresql=self.sdk.postgresql, doing=doing)


class Ending(NamedTuple):
    """What a query said that was read to its end."""

    children: tuple[Descendant, ...] = ()
    """The partitions that it named."""
    heard: int = 0
    """Time of the heartbeat that was its last word; 0 where it was none."""
    data: bool = False
    """It brought changes, beyond those that were known."""


class StreamQuery:
    """A query under way."""

    def __init__(self, rows: RowStream, *, postgresql: bool, doing: str) -> None:
        self._rows, self._doing = rows, doing
        self._read = postgres_records if postgresql else google_records

    async def records(self, patience: float) -> Sequence[Record] | None:
        """The records of the next message, maybe none; None at the end. `patience`: seconds."""
        rows = await self._rows.read(patience)
        if rows is None:
            return None
        try:
            return list(self._records(rows))
        except (ValueError, IndexError, KeyError, TypeError) as error:
            failure, cause = unknown(self._doing), without_text(error)
        self.close()
        raise failure from cause

    async def ending(self, patience: float, *, beyond: Position | None = None) -> Ending:
        """Read it to its end, without its changes; the first that lies `beyond` a position will do."""
        children: list[Descendant] = []
        heard, data = 0, False
        while not (data and beyond) and (records := await self.records(patience)) is not None:
            for record in records:
                if isinstance(record, Children):
                    children += record.partitions
                heard = record.time if isinstance(record, Heartbeat) else 0
                data = data or (isinstance(record, DataRecord) and not (beyond and _passed(beyond, record)))
        return Ending(tuple(dict.fromkeys(children)), heard, data)

    def _records(self, rows: Sequence[Sequence[Value]]) -> Iterator[Record]:
        for row in rows:
            yield from self._read(row)

    def close(self) -> None:
        """End it; idempotent."""
        self._rows.close()


def _passed(position: Position, record: DataRecord) -> bool:
    return position.passed(record.time, record.transaction, record.record)
