"""The items of a page: those that did not come with their rows, within the page's bytes."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from changefeed_gateway.core.errors import TransientFailure
from changefeed_gateway.core.model import EntireCollection, ItemState, PageRead
from changefeed_gateway.providers.postgres.connections import Connections
from changefeed_gateway.providers.postgres.feeds import ImageMode
from changefeed_gateway.providers.postgres.mapping import (
    CHANGED_AT,
    IMAGE,
    IMAGE_BYTES,
    KEY,
    OP,
    PARTITION_KEY,
    SEQ,
    UPSERT,
    Items,
    Row,
    time_of,
)
from changefeed_gateway.providers.postgres.statements import Statements

_WEIGHT: Final = 0.2
"""How fast the average follows the sizes that are seen."""
_FEWEST: Final = 8


class CurrentImage(NamedTuple):
    """What the source holds under a key now."""

    partition_key: bytes
    image_bytes: int
    image: bytes | None
    """None where it is larger than an item may be, or lies beyond the page's bytes."""


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
        wanted = [row for row in rows if row[IMAGE] is None and 0 < (row[IMAGE_BYTES] or 0) <= read.max_item_bytes]
        fetched: dict[int, bytes] = {}
        if wanted:
            times = [row[CHANGED_AT] for row in wanted]
            arguments = {
                "seqs": [row[SEQ] for row in wanted],
                "first": time_of(min(times)),
                "last": time_of(max(times)),
            }
            fetched = dict(await self._connections.fetch(self._statements.images, arguments, as_sent=True))
            if len(fetched) < len(wanted):
                # Dropped, or dated anew: whoever asks for the page again finds out.
                raise TransientFailure("changes moved while their items were read: try again")
        return Illustrated(rows, captured_items(rows, fetched, read.max_item_bytes))

    async def _current(self, rows: Sequence[Row], read: PageRead) -> Illustrated:
        keys = list(dict.fromkeys(row[KEY] for row in rows if row[OP] == UPSERT))
        images: dict[bytes, CurrentImage] = {}
        if keys:
            arguments = {
                "keys": [key.decode() for key in keys],
                "max_bytes": read.max_bytes,
                "max_item_bytes": read.max_item_bytes,
            }
            found = await self._connections.fetch(self._statements.current_images, arguments, as_sent=True)
            images = {key: CurrentImage(*rest) for key, *rest in found}
        sizes = [image.image_bytes if (image := images.get(row[KEY])) else 0 for row in rows]
        of_a_part = not isinstance(read.scope, EntireCollection)
        rows = rows[: self._cut(sizes, read)]
        return Illustrated(*current_items(rows, images, read.max_item_bytes, of_a_part=of_a_part))

    def _cut(self, sizes: Sequence[int], read: PageRead) -> int:
        total = sum(sizes)
        if sizes:
            self._average_bytes += _WEIGHT * (total / len(sizes) - self._average_bytes)
        if total <= read.max_bytes:
            return len(sizes)
        return rows_within(sizes, read.max_bytes, read.max_item_bytes)


def items_left_out(rows: Sequence[Row], state: ItemState) -> Items:
    """No item for any change: OMITTED or UNAVAILABLE where there could be one."""
    states = [state if row[OP] == UPSERT else ItemState.NOT_APPLICABLE for row in rows]
    return Items(states, [None] * len(rows))


def captured_items(rows: Sequence[Row], fetched: Mapping[int, bytes], max_item_bytes: int) -> Items:
    """The items that the triggers stored; `fetched` holds those that did not come with their rows, by seq."""
    texts = [row[IMAGE] for row in rows]
    included = ItemState.INCLUDED
    states = [included] * len(rows)
    for index, row in enumerate(rows):
        image_bytes = row[IMAGE_BYTES]
        if image_bytes is None:
            states[index] = ItemState.UNAVAILABLE if row[OP] == UPSERT else ItemState.NOT_APPLICABLE
        elif image_bytes > max_item_bytes:
            states[index], texts[index] = ItemState.TOO_LARGE, None
        elif texts[index] is None:
            texts[index] = fetched[row[SEQ]]
    return Items(states, texts)


def current_items(
    rows: Sequence[Row],
    images: Mapping[bytes, CurrentImage],
    max_item_bytes: int,
    *,
    of_a_part: bool,
) -> tuple[list[Row], Items]:
    """The items as they are now, and the rows with the partition key under which the item lives now.

    P2: a reader of a part of the collection gets no item that has moved to another logical partition: its changes come
    there, in their order, and what is shown here could be older than what another reader has been told of it.
    """
    moved = list(rows)
    states = [ItemState.NOT_APPLICABLE] * len(rows)
    texts: list[bytes | None] = [None] * len(rows)
    for index, row in enumerate(rows):
        image = images.get(row[KEY]) if row[OP] == UPSERT else None
        if image is None or (of_a_part and image.partition_key != row[PARTITION_KEY]):
            continue
        moved[index] = _moved(row, image.partition_key)
        if image.image_bytes > max_item_bytes:
            states[index] = ItemState.TOO_LARGE
        else:
            states[index], texts[index] = ItemState.INCLUDED_CURRENT, image.image
    return moved, Items(states, texts)


def _moved(row: Row, partition_key: bytes) -> Row:
    if row[PARTITION_KEY] == partition_key:
        return row
    seq, xid, changed_at, op, created, _, key, image, image_bytes, bucket, annotations = row
    return seq, xid, changed_at, op, created, partition_key, key, image, image_bytes, bucket, annotations


def rows_within(sizes: Sequence[int], max_bytes: int, max_item_bytes: int) -> int:
    """How many of the first rows fit, by the bytes of their items; an item that is left out weighs nothing.

    The first row always fits.
    """
    total = 0
    for index, size in enumerate(sizes):
        if size <= max_item_bytes:
            total += size
            if total > max_bytes and index:
                return index
    return len(sizes)
