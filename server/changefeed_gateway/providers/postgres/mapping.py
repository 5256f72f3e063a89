"""From rows of the log to changes. Pure, and the hottest code of this provider: a page makes thousands of them."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from changefeed_gateway.core.model import (
    Change,
    ChangeType,
    ItemState,
    Key,
    KeyComponent,
    KeyType,
    Origin,
    PartitionId,
)

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
_DELETE: Final = ChangeType.DELETE
_TRUNCATE: Final = ChangeType.TRUNCATE
_APPLICATION: Final = Origin.APPLICATION


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
        self._event_prefix = f"{hashlib.sha256(incarnation.encode()).hexdigest()[:8]}-"
        self._columns = tuple(zip(key_columns, key_types, strict=True))

    def make(self, rows: Sequence[Row], items: Items, partition_ids: Iterable[PartitionId]) -> list[Change]:
        """One change a row; `partition_ids` has one for each."""
        # A NamedTuple's own constructor costs three times as much.
        new = tuple.__new__
        prefix = self._event_prefix
        changes: list[Change] = []
        append = changes.append
        columns = zip(rows, self._components(rows), items.states, items.texts, partition_ids, strict=True)
        for row, components, state, text, partition_id in columns:
            seq, _, changed_at, op, created, partition_key, _, _, _, _, annotations = row
            if op == "upsert":
                change_type = _CREATE if created else _UPDATE
            elif op == "delete":
                change_type = _DELETE
            else:
                change_type, components = _TRUNCATE, ()
            sequence = str(seq)
            key = new(Key, (partition_key, components, ""))
            # P3: of what was logged alone, so it is the same from any replica and in any scope.
            event_id = prefix + sequence
            append(
                new(
                    Change,
                    (
                        event_id,
                        change_type,
                        key,
                        state,
                        text,
                        changed_at,
                        partition_id,
                        sequence,
                        _APPLICATION,
                        annotations or "",
                    ),
                )
            )
        return changes

    def _components(self, rows: Sequence[Row]) -> list[tuple[KeyComponent, ...]]:
        if len(self._columns) > 1:
            return [self._several(row[KEY]) if row[OP] != "truncate" else () for row in rows]
        ((name, key_type),) = self._columns
        new = tuple.__new__
        return [
            (new(KeyComponent, (name, _only(key) if key[:1] == "[" else key, key_type)),)
            for key in [row[KEY] for row in rows]
        ]

    def _several(self, key: str) -> tuple[KeyComponent, ...]:
        return tuple(
            KeyComponent(name, value, key_type)
            for (name, key_type), value in zip(self._columns, json.loads(key), strict=True)
        )


def _only(key: str) -> str:
    """The value of a key that is written as a list because it begins like one."""
    (value,) = json.loads(key)
    return str(value)


def captured(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows before the first mark of a capture that has stopped."""
    return next((rows[:index] for index, row in enumerate(rows) if row[OP] == "stopped"), rows)
