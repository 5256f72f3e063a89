"""A change of an item, and how each mode of the feed tells it."""

import json
from dataclasses import dataclass, field
from typing import Any

Item = dict[str, Any]


@dataclass(kw_only=True, slots=True, eq=False)
class Change:
    """One version of an item, or its end. Ranges that were split or merged share it."""

    lsn: int
    """Shared by all that one transaction changes."""
    time: float
    """Exact epoch seconds; what is told is rounded down."""
    epk: str
    operation: str
    """create, replace or delete."""
    item_id: str
    key: dict[str, Any]
    """The partition key by property."""
    current: Item | None
    """The item after the change; None if it is deleted."""
    previous: Item | None = None
    previous_lsn: int | None = None
    expired: bool = False
    """Whether the time to live deleted it."""
    superseded: bool = False
    """Whether a later change of the item is in the feed, so that LatestVersion leaves this one out."""
    _text: str = field(default="", init=False)

    @property
    def is_latest(self) -> bool:
        """Whether LatestVersion tells it."""
        return not self.superseded and self.current is not None

    def latest(self) -> str:
        """The item as LatestVersion tells it, in JSON."""
        return f'{self._current()[:-1]},"_lsn":{self.lsn}}}'

    def full(self, *, deleted_current: bool, previous_image: bool) -> str:
        """The record of AllVersionsAndDeletes, in JSON."""
        metadata: dict[str, Any] = {"lsn": self.lsn, "crts": int(self.time), "operationType": self.operation}
        if self.previous_lsn is not None:
            metadata["previousImageLSN"] = self.previous_lsn
        if self.current is None:
            metadata |= {"id": self.item_id, "partitionKey": self.key}
        if self.expired:
            metadata["timeToLiveExpired"] = True
        parts = {"metadata": json_text(metadata)}
        if self.current is not None:
            parts["current"] = self._current()
        elif deleted_current:
            parts["current"] = "{}"
        if previous_image and self.previous is not None:
            parts["previous"] = json_text(self.previous)
        return "{" + ",".join(f'"{name}":{text}' for name, text in parts.items()) + "}"

    def _current(self) -> str:
        if not self._text:
            self._text = json_text(self.current)
        return self._text


def json_text(value: object) -> str:
    """JSON as short as it gets."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
