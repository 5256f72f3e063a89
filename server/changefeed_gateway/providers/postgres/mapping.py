"""From rows of the log to changes. Pure, and the hottest code of this provider: a page makes thousands of them."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from changefeed_gateway.core.columns import Columns, KeyShape, nanoseconds_of
from changefeed_gateway.core.model import ChangeType, ItemState, KeyType, Origin, PartitionId

Row = tuple[int, str, datetime, str, bool, str, str, str | None, int | None, int, str | None]
"""seq, xid, changed_at, op, created, partition_key, key, image (None where it is fetched apart), its bytes, bucket,
annotations."""

SEQ: Final = 0
XID: Final = 1
CHANGED_AT: Final = 2
OP: Final = 3
PARTITION_KEY: Final = 5
KEY: Final = 6
IMAGE: Final = 7
IMAGE_BYTES: Final = 8
BUCKET: Final = 9


_CREATE: Final = ChangeType.CREATE
_UPDATE: Final = ChangeType.UPDATE
_OTHERS: Final = {"delete": ChangeType.DELETE, "truncate": ChangeType.TRUNCATE}


class Items(NamedTuple):
    """What each of some changes carries: two columns, because a tuple a row would cost more than the text."""

    states: Sequence[ItemState]
    texts: Sequence[str | None]
    """JSON text exactly in the INCLUDED states."""


class ChangeMaker:
    """Makes the changes of one feed."""

    def __init__(
        self,
        *,
        incarnation: str,
        key_columns: Sequence[str],
        key_types: Sequence[KeyType],
    ) -> None:
        """`incarnation` keeps the event ids of a re-created feed or database apart from those of the first."""
        self._event_prefix = hashlib.sha256(incarnation.encode()).hexdigest()[:8].encode() + b"-"
        self._shape: KeyShape = tuple(zip(key_columns, key_types, strict=True))

    def make(self, rows: Sequence[Row], items: Items, partition_ids: Iterable[PartitionId]) -> Columns:
        """One change a row; `partition_ids` has one for each."""
        if not rows:
            return Columns.of(())
        # Column by column: a loop over rows takes twice as long.
        seqs, _, times, ops, created, partition_keys, keys, _, _, _, annotations = zip(*rows, strict=True)
        prefix, count = self._event_prefix, len(rows)
        sequences = [b"%d" % seq for seq in seqs]
        kinds = [
            (_CREATE if new else _UPDATE) if op == "upsert" else _OTHERS[op]
            for op, new in zip(ops, created, strict=True)
        ]
        texts = [key.encode() for key in keys]
        shapes, values = [self._shape] * count, key_values(texts, self._shape)
        if ChangeType.TRUNCATE in kinds:
            for index, kind in enumerate(kinds):
                if kind is ChangeType.TRUNCATE:
                    shapes[index], values[index] = (), ()
        return Columns(
            # P3: of what was logged alone, so it is the same from any replica and in any scope.
            event_ids=[prefix + sequence for sequence in sequences],
            change_types=kinds,
            # Of most tables the key is the partition key.
            partition_keys=texts if partition_keys == keys else [key.encode() for key in partition_keys],
            sort_keys=[b""] * count,
            key_shapes=shapes,
            key_values=values,
            item_states=items.states,
            items=[None if text is None else text.encode() for text in items.texts],
            commit_times=nanoseconds_of(times),
            partition_ids=list(partition_ids),
            sequences=sequences,
            origins=[Origin.APPLICATION] * count,
            annotations=[b"" if text is None else text.encode() for text in annotations],
        )


def key_values(keys: Sequence[bytes], shape: KeyShape) -> list[tuple[bytes, ...]]:
    """The values of each key's components; none for the empty key of a truncation."""
    if len(shape) == 1:
        return [(_only(key) if key[:1] == b"[" else key,) for key in keys]
    return [_several(key) if key else () for key in keys]


def _only(key: bytes) -> bytes:
    """The value of a key that is written as a list because it begins like one."""
    (value,) = json.loads(key)
    return str(value).encode()


def _several(key: bytes) -> tuple[bytes, ...]:
    return tuple([value.encode() for value in json.loads(key)])


def captured(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows before the first mark of a capture that has stopped."""
    return next((rows[:index] for index, row in enumerate(rows) if row[OP] == "stopped"), rows)
