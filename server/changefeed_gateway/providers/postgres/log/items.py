"""The items of a snapshot as they are read from the table."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from changefeed_gateway.core.model import (
    Change,
    ChangeType,
    ItemState,
    Key,
    KeyComponent,
    LogicalPartition,
    Origin,
    PageRead,
    PartitionId,
)
from changefeed_gateway.providers.postgres.connections import Connections
from changefeed_gateway.providers.postgres.feeds import FeedDefinition, ImageMode, capture_stopped
from changefeed_gateway.providers.postgres.mapping import key_values
from changefeed_gateway.providers.postgres.statements import Statements

_FEWEST: Final = 8
_WEIGHT: Final = 0.2
"""How fast the average follows the sizes that are seen."""


class ItemRow(NamedTuple):
    """One row of items.sql."""

    key: str
    partition_key: str
    bucket: int | None
    version: str
    wanted: bool | None
    image_bytes: int | None
    image: str | None
    problem: str | None


class ItemsRead(NamedTuple):
    """What one statement found, in one snapshot of the database; nothing lies behind where there are no rows."""

    snapshot: str
    rows: Sequence[ItemRow]


class ItemReader:
    """Reads the items of one feed."""

    def __init__(self, connections: Connections, statements: Statements, definition: FeedDefinition) -> None:
        self._connections, self._statements, self._definition = connections, statements, definition
        self._average_bytes = 0.0
        self._columns = tuple(zip(definition.key_columns, definition.key_types, strict=True))
        self._event_prefix = f"{hashlib.sha256(definition.incarnation.encode()).hexdigest()[:8]}-"
        self._by_image = definition.image_mode is ImageMode.CURRENT

    async def estimate(self) -> int | None:
        """About how many there are; None where nobody has counted."""
        ((count,),) = await self._connections.fetch(self._statements.estimate, {})
        return None if count is None else int(count)

    async def read(self, after: str | None, size: int, read: PageRead, *, with_bucket: bool) -> ItemsRead:
        """The items behind a key, in the order of its index. Raises HistoryGap where capture has stopped."""
        scope = read.scope
        arguments = {
            "after": after,
            "size": self._likely(size, read),
            "max_bytes": read.max_bytes,
            "max_item_bytes": read.max_item_bytes if read.items else 0,
            "partition_key": scope.partition_key if isinstance(scope, LogicalPartition) else None,
            "with_bucket": with_bucket,
        }
        fetched = await self._connections.fetch(self._statements.items, arguments)
        found = [tuple.__new__(ItemRow, row) for row in fetched]
        # The first, except where a plan puts it elsewhere: the one that is no item.
        head = next(index for index, row in enumerate(found) if row.wanted is None)
        if (problem := found[head].problem) is not None:
            raise capture_stopped(self._definition.name, problem)
        snapshot = found.pop(head).key
        sizes = [row.image_bytes for row in found if row.image_bytes is not None]
        if sizes:
            self._average_bytes += _WEIGHT * (sum(sizes) / len(sizes) - self._average_bytes)
        return ItemsRead(snapshot, found)

    def _likely(self, size: int, read: PageRead) -> int:
        """How many are likely to fit into a page: what does not fit is read again for the next one."""
        if not read.items or self._average_bytes * size <= read.max_bytes:
            return size
        return min(size, max(_FEWEST, int(read.max_bytes / self._average_bytes * 1.1) + 1))

    def changes(self, rows: Sequence[ItemRow], partition_ids: Iterable[PartitionId], read: PageRead) -> list[Change]:
        """The items as they go to a consumer; `partition_ids` has one for each."""
        # A NamedTuple's own constructor costs three times as much.
        new = tuple.__new__
        snapshot, application, included = ChangeType.SNAPSHOT, Origin.APPLICATION, ItemState.INCLUDED
        changes: list[Change] = []
        for row, partition_id in zip(rows, partition_ids, strict=False):
            state = _state(row, read)
            key = new(Key, (row.partition_key, self._components(row.key), ""))
            text = row.image if state is included else None
            event_id = self._event_id(row)
            changes.append(new(Change, (event_id, snapshot, key, state, text, None, partition_id, "", application, "")))
        return changes

    def _components(self, key: str) -> tuple[KeyComponent, ...]:
        if len(self._columns) == 1 and key[:1] != "[":
            return (tuple.__new__(KeyComponent, (self._columns[0][0], key, self._columns[0][1])),)
        values = key_values(key, len(self._columns))
        return tuple(
            KeyComponent(name, value, key_type) for (name, key_type), value in zip(self._columns, values, strict=True)
        )

    def _event_id(self, row: ItemRow) -> str:
        """P3: of what the item is, so that it is the same for as long as the item is."""
        text = f"{row.key}\0{row.version}\0{row.image or ''}" if self._by_image else f"{row.key}\0{row.version}"
        return f"{self._event_prefix}i{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"


def _state(row: ItemRow, read: PageRead) -> ItemState:
    if not read.items:
        return ItemState.OMITTED
    if row.image_bytes is None:
        return ItemState.UNAVAILABLE
    return ItemState.TOO_LARGE if row.image_bytes > read.max_item_bytes else ItemState.INCLUDED
