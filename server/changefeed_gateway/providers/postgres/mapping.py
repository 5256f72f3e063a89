"""From rows of the log to changes. Pure, and the hottest code of this provider: a page makes thousands of them."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Final, NamedTuple

from changefeed_gateway.core.columns import SECOND, Columns, KeyShape
from changefeed_gateway.core.model import ChangeType, ItemState, KeyType, Origin, PartitionId

Row = tuple[int, int, int, bytes, bool, bytes, bytes, bytes | None, int | None, int, bytes | None]
"""seq, xid, changed_at, op, created, partition_key, key, image (None where it is fetched apart), its bytes, bucket,
annotations; texts and times as the server sends them."""

SEQ: Final = 0
XID: Final = 1
CHANGED_AT: Final = 2
OP: Final = 3
PARTITION_KEY: Final = 5
KEY: Final = 6
IMAGE: Final = 7
IMAGE_BYTES: Final = 8
BUCKET: Final = 9

UPSERT: Final = b"upsert"
DELETE: Final = b"delete"
TRUNCATE: Final = b"truncate"
STOPPED: Final = b"stopped"

_SERVER_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = 1_000
"""In nanoseconds."""
_SERVER_EPOCH_NS: Final = int(_SERVER_EPOCH.timestamp()) * SECOND

_CREATE: Final = ChangeType.CREATE
_UPDATE: Final = ChangeType.UPDATE
_OTHERS: Final = {DELETE: ChangeType.DELETE, TRUNCATE: ChangeType.TRUNCATE}


class Items(NamedTuple):
    """What each of some changes carries: two columns, because a tuple a row would cost more than the text."""

    states: Sequence[ItemState]
    texts: Sequence[bytes | None]
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
            (_CREATE if new else _UPDATE) if op == UPSERT else _OTHERS[op] for op, new in zip(ops, created, strict=True)
        ]
        shapes, values = [self._shape] * count, key_values(keys, self._shape)
        if ChangeType.TRUNCATE in kinds:
            for index, kind in enumerate(kinds):
                if kind is ChangeType.TRUNCATE:
                    shapes[index], values[index] = (), ()
        return Columns(
            # P3: of what was logged alone, so it is the same from any replica and in any scope.
            event_ids=[prefix + sequence for sequence in sequences],
            change_types=kinds,
            partition_keys=partition_keys,
            sort_keys=[b""] * count,
            key_shapes=shapes,
            key_values=values,
            item_states=items.states,
            items=items.texts,
            commit_times=[_SERVER_EPOCH_NS + time * _MICROSECOND for time in times],
            partition_ids=list(partition_ids),
            sequences=sequences,
            origins=[Origin.APPLICATION] * count,
            annotations=[text or b"" for text in annotations],
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
    ops = list(map(itemgetter(OP), rows))
    return rows[: ops.index(STOPPED)] if STOPPED in ops else rows


def time_of(sent: int) -> datetime:
    """A time as the server sends it."""
    return _SERVER_EPOCH + timedelta(microseconds=sent)
