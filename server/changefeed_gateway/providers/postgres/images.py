"""The items of a page: those that did not come with their rows, within the page's bytes."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from changefeed_gateway.core.model import ItemState, LogicalPartition, PageRead
from changefeed_gateway.providers.postgres.connections import Connections
from changefeed_gateway.providers.postgres.feeds import ImageMode
from changefeed_gateway.providers.postgres.mapping import (
    IMAGE,
    IMAGE_BYTES,
    KEY,
    OP,
    SEQ,
    CurrentImage,
    Items,
    Row,
    captured_items,
    current_items,
    items_left_out,
    rows_within,
)
from changefeed_gateway.providers.postgres.statements import Statements
from changefeed_gateway.providers.postgres.window import expired

_WEIGHT: Final = 0.2
"""How fast the average follows the sizes that are seen."""
_FEWEST: Final = 8


class Illustrated(NamedTuple):
    """As many of the first rows as fit into a page, each with its item."""

    rows: Sequence[Row]
    items: Items


class ImageReader:
    """Finds the items of one feed's changes."""

    def __init__(self, connections: Connections, statements: Statements, mode: ImageMode) -> None:
        self._connections = connections
        self._statements = statements
        self._mode = mode
        self._average_bytes = 0.0

    def rows_for(self, read: PageRead) -> int:
        """How many rows are likely to fit into a page: what does not fit is read again for the next one."""
        if not read.items or self._average_bytes * read.max_changes <= read.max_bytes:
            return read.max_changes
        likely = int(read.max_bytes / self._average_bytes * 1.1) + 1
        return min(read.max_changes, max(_FEWEST, likely))

    async def illustrate(self, rows: Sequence[Row], read: PageRead) -> Illustrated:
        """Give each row its item; the rows that do not fit into the page's bytes are left off."""
        if not read.items:
            return Illustrated(rows, items_left_out(rows, ItemState.OMITTED))
        match self._mode:
            case ImageMode.NONE:
                return Illustrated(rows, items_left_out(rows, ItemState.UNAVAILABLE))
            case ImageMode.CAPTURED:
                return await self._captured(rows, read)
            case ImageMode.CURRENT:
                return await self._current(rows, read)

    async def _captured(self, rows: Sequence[Row], read: PageRead) -> Illustrated:
        sizes = [row[IMAGE_BYTES] or 0 for row in rows]
        rows = rows[: self._cut(sizes, read)]
        wanted = [row[SEQ] for row in rows if row[IMAGE] is None and 0 < (row[IMAGE_BYTES] or 0) <= read.max_item_bytes]
        fetched: dict[int, str] = {}
        if wanted:
            fetched = dict(await self._connections.fetch(self._statements.images, {"seqs": wanted}))
            if len(fetched) < len(wanted):
                raise expired()
        return Illustrated(rows, captured_items(rows, fetched, read.max_item_bytes))

    async def _current(self, rows: Sequence[Row], read: PageRead) -> Illustrated:
        keys = list(dict.fromkeys(row[KEY] for row in rows if row[OP] == "upsert"))
        images: dict[str, CurrentImage] = {}
        if keys:
            arguments = {
                "keys": keys,
                "max_bytes": read.max_bytes,
                "max_item_bytes": read.max_item_bytes,
            }
            found = await self._connections.fetch(self._statements.current_images, arguments)
            images = {key: CurrentImage(*rest) for key, *rest in found}
        sizes = [image.image_bytes if (image := images.get(row[KEY])) else 0 for row in rows]
        scope = read.scope
        logical = scope.partition_key if isinstance(scope, LogicalPartition) else None
        rows = rows[: self._cut(sizes, read)]
        return Illustrated(*current_items(rows, images, read.max_item_bytes, logical_partition=logical))

    def _cut(self, sizes: Sequence[int], read: PageRead) -> int:
        total = sum(sizes)
        if sizes:
            self._average_bytes += _WEIGHT * (total / len(sizes) - self._average_bytes)
        if total <= read.max_bytes:
            return len(sizes)
        return rows_within(sizes, read.max_bytes, read.max_item_bytes)
