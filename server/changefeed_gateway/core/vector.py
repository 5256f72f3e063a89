"""A position in an entire collection: where each of its partitions stands."""

import json
from base64 import b85decode, b85encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple, Self

from changefeed_gateway.core.errors import InvalidRequest, Reason
from changefeed_gateway.core.model import Cursor, Page, Partition, PartitionId

_KNOWN_CURSORS: Final = 16_384
"""Base 85 is spelt in Python, 5 us a cursor, and of a thousand partitions most stand where they stood a page ago."""


@lru_cache(_KNOWN_CURSORS)
def _text(cursor: Cursor) -> str:
    return b85encode(cursor).decode()


@lru_cache(_KNOWN_CURSORS)
def _cursor(text: str) -> Cursor:
    return Cursor(b85decode(text))


class Place(NamedTuple):
    """Where a partition stands, and when that is expected to lose its history."""

    cursor: Cursor
    expire_time: datetime | None = None
    """In whole seconds; None where the retention is not known."""

    @classmethod
    def after(cls, page: Page, cursor: Cursor) -> Self:
        """A place within a page, or at its end."""
        return cls(cursor, page.expire_time and page.expire_time.replace(microsecond=0))

    def encode(self) -> tuple[str, int | None]:
        """For JSON."""
        seconds = None if self.expire_time is None else int(self.expire_time.timestamp())
        return _text(self.cursor), seconds

    @classmethod
    def decode(cls, cursor: str, expires: int | None) -> Self:
        """What `encode` made. Raises ValueError, TypeError or OverflowError for anything else."""
        return cls(_cursor(cursor), None if expires is None else datetime.fromtimestamp(expires, UTC))


class Waiting(NamedTuple):
    """A partition that may be read once all its parents are."""

    parents: frozenset[PartitionId]
    start: Place


@dataclass(slots=True)
class Vector:
    """A position in an entire collection: where each open partition stands, and which ones wait for parents.

    It moves in place: a copy for each of a thousand partitions that are read for one page would be a million places.
    """

    open: dict[PartitionId, Place]
    """Ordered: the partition that was served longest ago comes first."""
    waiting: dict[PartitionId, Waiting]

    @classmethod
    def beginning(cls, partitions: Sequence[Partition], places: Mapping[PartitionId, Place]) -> "Vector":
        """Open what has no listed parent; the others wait for the parents that are still there to be read."""
        listed = {partition.partition_id for partition in partitions}
        parents = {p.partition_id: listed.intersection(p.parents) for p in partitions}
        return cls(
            {pid: places[pid] for pid, waits_for in parents.items() if not waits_for},
            {pid: Waiting(frozenset(waits_for), places[pid]) for pid, waits_for in parents.items() if waits_for},
        )

    @property
    def expire_time(self) -> datetime | None:
        """When the first of its places is expected to lose its history; None where that is not known of any."""
        places = [*self.open.values(), *(waiting.start for waiting in self.waiting.values())]
        return min((place.expire_time for place in places if place.expire_time is not None), default=None)

    def copy(self) -> "Vector":
        """The same position, to move on from."""
        return Vector(dict(self.open), dict(self.waiting))

    def advance(self, partition_id: PartitionId, place: Place) -> None:
        """Move one partition and put it last in the order."""
        self.open.pop(partition_id, None)
        self.open[partition_id] = place

    def pass_over(self, partition_id: PartitionId, page: Page) -> None:
        """Move one partition to the end of its page; a drained one is replaced by its children.

        Each child opens when its last parent is drained.
        """
        self.advance(partition_id, Place.after(page, page.cursor))
        if not page.retired:
            return
        del self.open[partition_id]
        for child in page.children:
            if child.partition_id not in self.open and child.partition_id not in self.waiting:
                self.waiting[child.partition_id] = Waiting(frozenset(child.parents), Place.after(page, child.start))
        for pid, child_waiting in list(self.waiting.items()):
            # P2: a child opens when all its parents are drained, so no key is read behind its earlier changes.
            parents = child_waiting.parents - {partition_id}
            if parents:
                self.waiting[pid] = Waiting(parents, child_waiting.start)
            else:
                self.open[pid] = self.waiting.pop(pid).start

    def encode(self) -> Cursor:
        """The vector as a cursor."""
        body = [
            [[pid, *at.encode()] for pid, at in self.open.items()],
            [[pid, sorted(w.parents), *w.start.encode()] for pid, w in self.waiting.items()],
        ]
        return Cursor(json.dumps(body, separators=(",", ":")).encode())

    @classmethod
    def decode(cls, cursor: Cursor) -> "Vector":
        """The vector of a cursor. Raises InvalidRequest for a cursor that `encode` did not make."""
        try:
            open_, waiting = json.loads(cursor)
            return cls(
                {PartitionId(pid): Place.decode(*at) for pid, *at in open_},
                {
                    PartitionId(pid): Waiting(frozenset(map(PartitionId, parents)), Place.decode(*at))
                    for pid, parents, *at in waiting
                },
            )
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidRequest.field(
                "start_position.continuation_token",
                "not a position of this collection",
                reason=Reason.TOKEN_MALFORMED,
            ) from error
