"""What INFORMATION_SCHEMA says of tables, a little old where that will do: it answers slowly, and every call asks."""

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import NamedTuple

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.shared import SharedQuestion
from changefeed_gateway.providers.spanner.sdk import Sdk
from changefeed_gateway.providers.spanner.table import Described, Stream, find_stream


class _Known(NamedTuple):
    described: Described
    as_of: int
    """On Spanner's clock, in nanoseconds."""
    at: float
    """When it was asked for, on the monotonic clock."""


class Catalog:
    """Of one database. Methods raise NotFound, FeedNotProvisioned and the errors of the service."""

    def __init__(self, sdk: Sdk, tables: Mapping[str, str | None], age: timedelta) -> None:
        """`tables`: the change streams that the settings name. `age`: how old an answer may be that will do."""
        self._sdk, self._tables, self._age = sdk, tables, age.total_seconds()
        self._known: dict[str, _Known] = {}
        self._questions: SharedQuestion[Described] = SharedQuestion(at_once=4)

    def close(self) -> None:
        """End what is under way; who waits is told so."""
        self._questions.close()

    async def describe(self, table: str, *, since: int = 0) -> Described:
        """A table and its change stream; not as of before a time on Spanner's clock."""
        known = self._known.get(table)
        if known is not None and monotonic() - known.at < self._age and known.as_of >= since:
            return known.described
        return await self.describe_now(table)

    async def describe_now(self, table: str) -> Described:
        """A table and its change stream as they are."""
        return await self._questions.ask(table, partial(self._ask, table))

    def columns_of(self, table: str, opened: Described) -> int:
        """Columns of a table's whole row, as told last while its stream was still the one of an open feed."""
        known = self._known.get(table)
        return (
            known.described.columns if known is not None and known.described.stream == opened.stream else opened.columns
        )

    def name_of(self, stream: Stream) -> str:
        """What the table of a stream was called by who asked for it."""
        return next((name for name, known in self._known.items() if known.described.stream == stream), stream.table)

    async def _ask(self, table: str) -> Described:
        self._known.pop(table, None)
        described, as_of = await find_stream(self._sdk, table, self._tables.get(table))
        self._known[table] = _Known(described, as_of, monotonic())
        return described
