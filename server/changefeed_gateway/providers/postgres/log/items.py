"""The items of a snapshot as they are read from the table, field by field: a page has thousands."""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Any, Final, NamedTuple

from changefeed_gateway.core.columns import Columns, KeyShape
from changefeed_gateway.core.model import ChangeType, ItemState, LogicalPartition, Origin, PageRead, PartitionId
from changefeed_gateway.providers.postgres.connections import Connections
from changefeed_gateway.providers.postgres.feeds import FeedDefinition, ImageMode, capture_stopped
from changefeed_gateway.providers.postgres.mapping import key_values
from changefeed_gateway.providers.postgres.statements import Statements

_FEWEST: Final = 8
_FIRST: Final = 100
"""Items that are asked for while nothing is known of their size: all that are asked for become texts, whatever fits."""
_WEIGHT: Final = 0.2
"""How fast the average follows the sizes that are seen."""

_Row = tuple[bytes, bytes, int | None, bytes | None, bool | None, int | None, bytes | None, bytes | None]
"""One row of items.sql, its texts as they come: key, partition key, bucket, version, wanted, bytes, image, problem."""
_KEY: Final = 0
_VERSION: Final = 3
_WANTED: Final = 4
_PROBLEM: Final = 7


class ItemsRead(NamedTuple):
    """What one statement found, in one snapshot of the database: the items of the scope, one sequence a field."""

    snapshot: str
    numbers: int | None
    """A number that no change exceeds which the snapshot sees; None where the database does not say one."""
    last: str | None
    """The last key that was read, of the scope or not; None: nothing lies behind."""
    keys: Sequence[bytes] = ()
    partition_keys: Sequence[bytes] = ()
    buckets: Sequence[int | None] = ()
    versions: Sequence[bytes] = ()
    sizes: Sequence[int | None] = ()
    images: Sequence[bytes | None] = ()


class ItemReader:
    """Reads the items of one feed."""

    def __init__(self, connections: Connections, statements: Statements, definition: FeedDefinition) -> None:
        self._connections, self._statements, self._definition = connections, statements, definition
        self._average_bytes = 0.0
        self._most = _FIRST
        """Twice as many after each answer, and a quarter where there was none: items beyond may be much larger."""
        self._shape: KeyShape = tuple(zip(definition.key_columns, definition.key_types, strict=True))
        self._event_prefix = f"{hashlib.sha256(definition.incarnation.encode()).hexdigest()[:8]}-i".encode()
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
            "size": min(self._likely(size, read), self._most),
            "max_bytes": read.max_bytes,
            "max_item_bytes": read.max_item_bytes if read.items else 0,
            "partition_key": scope.partition_key if isinstance(scope, LogicalPartition) else None,
            "with_bucket": with_bucket,
        }
        rows = await self._ask(arguments)
        # The first, except where a plan puts it elsewhere: the one that is no item.
        head = rows.pop(next(index for index, row in enumerate(rows) if row[_WANTED] is None))
        if (problem := head[_PROBLEM]) is not None:
            raise capture_stopped(self._definition.name, problem.decode())
        found = _of_rows(head, rows)
        sizes = [size for size in found.sizes if size is not None]
        if sizes:
            self._average_bytes += _WEIGHT * (sum(sizes) / len(sizes) - self._average_bytes)
        return found

    async def _ask(self, arguments: dict[str, Any]) -> list[_Row]:
        size: int = arguments["size"]
        try:
            rows = await self._connections.fetch(self._statements.items, arguments, as_sent=True)
        except BaseException:
            # Whoever's deadline ended was cancelled, and comes again.
            self._most = max(_FEWEST, size // 4)
            raise
        self._most = max(self._most, 2 * size)
        return rows

    def _likely(self, size: int, read: PageRead) -> int:
        """How many are likely to fit into a page: what does not fit is read again for the next one."""
        if not read.items or self._average_bytes * size <= read.max_bytes:
            return size
        return min(size, max(_FEWEST, int(read.max_bytes / self._average_bytes * 1.1) + 1))

    def changes(self, items: ItemsRead, partition_ids: Iterable[PartitionId], read: PageRead) -> Columns:
        """The items as they go to a consumer; `partition_ids` has one for each."""
        keys, count = items.keys, len(items.keys)
        states, images = _shown(items, read)
        return Columns(
            event_ids=self._event_ids(items),
            change_types=[ChangeType.SNAPSHOT] * count,
            partition_keys=items.partition_keys,
            sort_keys=[b""] * count,
            key_shapes=[self._shape] * count,
            key_values=key_values(keys, self._shape),
            item_states=states,
            items=images,
            commit_times=[None] * count,
            partition_ids=list(partition_ids),
            sequences=[b""] * count,
            origins=[Origin.APPLICATION] * count,
            annotations=[b""] * count,
        )

    def _event_ids(self, items: ItemsRead) -> list[bytes]:
        """P3: of what the item is, so that it is the same for as long as the item is."""
        texts = list(map(b"%b\0%b".__mod__, zip(items.keys, items.versions, strict=True)))
        if self._by_image:
            texts = [b"%b\0%b" % (text, image or b"") for text, image in zip(texts, items.images, strict=True)]
        hashed, size = hashlib.blake2b, 12
        digests = b"".join([hashed(text, digest_size=size).digest() for text in texts]).hex().encode()
        prefix, width = self._event_prefix, 2 * size
        return [prefix + digests[at : at + width] for at in range(0, len(digests), width)]


def _of_rows(head: _Row, rows: Sequence[_Row]) -> ItemsRead:
    snapshot = head[_KEY].decode()
    # Its functions may be those of an earlier version.
    numbers = int(number) if (number := head[_VERSION]) is not None else None
    if not rows:
        return ItemsRead(snapshot, numbers, None)
    last = rows[-1][_KEY].decode()
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
    wanted = columns.pop(_WANTED)
    if not all(wanted):
        columns = [list(compress(column, wanted)) for column in columns]
    keys, partition_keys, buckets, versions, sizes, images, _ = columns
    return ItemsRead(snapshot, numbers, last, keys, partition_keys, buckets, versions, sizes, images)


def _shown(items: ItemsRead, read: PageRead) -> tuple[Sequence[ItemState], Sequence[bytes | None]]:
    """Whether each item is there, and its text where it is."""
    count = len(items.keys)
    if not read.items:
        return [ItemState.OMITTED] * count, [None] * count
    if None not in items.images:
        return [ItemState.INCLUDED] * count, items.images
    # A size without an image is that of one that is larger than an item may be.
    states = [
        ItemState.UNAVAILABLE if size is None else ItemState.TOO_LARGE if image is None else ItemState.INCLUDED
        for size, image in zip(items.sizes, items.images, strict=True)
    ]
    return states, items.images
