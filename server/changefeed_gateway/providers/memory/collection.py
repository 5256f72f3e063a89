"""A collection in memory: its items, the logs of its partitions, and everything a test may do to them."""

import asyncio
import json
from collections.abc import Callable, Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from uuid import uuid4

from changefeed_gateway.core.model import (
    CapabilityName,
    ChangeType,
    ItemState,
    Key,
    Origin,
    PartitionId,
    PortabilityWarning,
)
from changefeed_gateway.providers.memory.history import LogicalHistory, PartitionLog, Record
from changefeed_gateway.providers.memory.mapping import bucket_of, key_of

BUCKETS = 256

Clock = Callable[[], datetime]
"""Answers the time, aware."""

_NO_KEY = Key("", ())


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionOptions:
    """How a collection captures changes. Without an option it can do everything and keeps its history for ever."""

    partitions: int = 4
    unsupported: frozenset[CapabilityName] = frozenset()
    item_state: ItemState = ItemState.INCLUDED
    """INCLUDED, INCLUDED_CURRENT (as of the read) or UNAVAILABLE."""
    retention: timedelta | None = None
    warnings: tuple[PortabilityWarning, ...] = ()


class MemoryCollection:
    """One incarnation of a collection. Every method is one commit; all belong to one event loop."""

    def __init__(self, options: CollectionOptions, clock: Clock) -> None:
        self.options = options
        self.incarnation = uuid4().hex
        self.last_sequence = 0
        self._clock = clock
        self._last_time = clock()
        self._items: dict[Key, str] = {}
        self._versions: dict[Key, int] = {}
        self._logs: dict[PartitionId, PartitionLog] = {}
        self._forgotten: set[PartitionId] = set()
        self._changed = asyncio.Event()
        for low, high in _even_ranges(options.partitions):
            self._make_log(range(low, high), parents=())

    # --- Writers

    def put(
        self,
        partition: str,
        item_id: str,
        item: Mapping[str, object],
        *,
        origin: Origin = Origin.APPLICATION,
        annotations: str = "",
    ) -> None:
        """Write an item: CREATE when there was none, UPDATE otherwise."""
        key = key_of(partition, item_id)
        change_type = ChangeType.UPDATE if key in self._items else ChangeType.CREATE
        text = json.dumps(item, ensure_ascii=False, separators=(",", ":"))
        self._items[key] = text
        self._record(change_type, key, text, origin, annotations)
        self._versions[key] = self.last_sequence

    def delete(self, partition: str, item_id: str, *, origin: Origin = Origin.APPLICATION) -> bool:
        """Remove an item; without one nothing happens and the answer is False."""
        key = key_of(partition, item_id)
        if self._items.pop(key, None) is None:
            return False
        if CapabilityName.DELETES not in self.options.unsupported:
            self._record(ChangeType.DELETE, key, None, origin, "")
        return True

    def truncate(self) -> None:
        """Remove every item; each active partition gets a marker, so that it is in order for every key."""
        self._items.clear()
        for log in self._active():
            self._append(log, ChangeType.TRUNCATE, _NO_KEY, None, Origin.APPLICATION, "")
        self._announce()

    # --- Operators

    def split(self, partition_id: PartitionId, *, at: int | None = None) -> tuple[PartitionId, PartitionId]:
        """Retire a partition in favour of two: buckets below and from `at` (default: the middle).

        Raises ValueError when the partition is not active or `at` leaves one side empty.
        """
        parent = self._active_log(partition_id)
        low, high = parent.buckets.start, parent.buckets.stop
        cut = (low + high) // 2 if at is None else at
        if not low < cut < high:
            raise ValueError(f"{partition_id} holds buckets {low}-{high - 1}: it cannot be split at {cut}")
        self._retire(parent)
        children = [self._make_log(part, parents=(partition_id,)) for part in (range(low, cut), range(cut, high))]
        parent.children = (children[0], children[1])
        self._announce()
        return children[0], children[1]

    def merge(self, first: PartitionId, second: PartitionId) -> PartitionId:
        """Retire two neighbours in favour of one. Raises ValueError when they are not active neighbours."""
        lower, upper = sorted((self._active_log(first), self._active_log(second)), key=lambda log: log.buckets.start)
        if lower.buckets.stop != upper.buckets.start:
            raise ValueError(f"{first} and {second} are not neighbours")
        self._retire(lower)
        self._retire(upper)
        parents = (lower.partition_id, upper.partition_id)
        child = self._make_log(range(lower.buckets.start, upper.buckets.stop), parents=parents)
        lower.children = upper.children = (child,)
        self._announce()
        return child

    def trim(self, *, through: int | None = None, before: datetime | None = None) -> None:
        """Forget the history of every partition up to a sequence number or time (default: all there is)."""
        limit = self.last_sequence if through is None else min(through, self.last_sequence)
        if before is not None:
            limit = min(limit, max((log.last_before(before) or 0 for log in self._logs.values()), default=0))
        for log in list(self._logs.values()):
            self._trim_log(log, limit)
        self._announce()

    def trim_partition(self, partition_id: PartitionId, *, through: int | None = None) -> None:
        """Forget the history of one partition, and with it all of its ancestors'."""
        log = self._logs[partition_id]
        for ancestor in self._ancestors(log):
            self._trim_log(ancestor, self.last_sequence)
        self._trim_log(log, self.last_sequence if through is None else min(through, self.last_sequence))
        self._announce()

    # --- Readers

    def logs(self) -> Sequence[PartitionLog]:
        """Every log that is still known, parents before children."""
        self.expire()
        return list(self._logs.values())

    def log(self, partition_id: PartitionId) -> PartitionLog | None:
        """The log of a partition, None when it is unknown or forgotten."""
        self.expire()
        return self._logs.get(partition_id)

    def logical(self, partition_key: str) -> LogicalHistory:
        """The history of one partition key text."""
        bucket = bucket_of(partition_key)
        logs = [log for log in self.logs() if bucket in log.buckets]
        return LogicalHistory(partition_key=partition_key, logs=logs)

    def is_forgotten(self, partition_id: PartitionId) -> bool:
        """Tell whether a partition existed, retired and was trimmed to its end."""
        return partition_id in self._forgotten

    def current_item(self, key: Key) -> str | None:
        """The item as it is now."""
        return self._items.get(key)

    def present(self) -> KeysView[Key]:
        """The keys of all items that there are."""
        return self._items.keys()

    def item(self, key: Key) -> tuple[str, int]:
        """An item that there is, and the sequence number of its last change."""
        return self._items[key], self._versions[key]

    def partition_of(self, key: Key) -> PartitionId:
        """The active partition in which changes of a key are logged."""
        bucket = bucket_of(key.partition_key)
        return next(log.partition_id for log in self._active() if bucket in log.buckets)

    def now(self) -> datetime:
        """The time of the collection: never before its last commit, whatever the clock does."""
        self._last_time = max(self._last_time, self._clock())
        return self._last_time

    def changed(self) -> asyncio.Event:
        """An event that is set by the next change of any kind; ask before looking, then wait."""
        return self._changed

    def expire(self) -> None:
        """Apply the retention."""
        if self.options.retention is not None:
            oldest = self.now() - self.options.retention
            if any(log.records and log.records[0].commit_time < oldest for log in self._logs.values()):
                self.trim(before=oldest)

    def drop(self) -> None:
        """Wake everybody who waits for a collection that is gone."""
        self._announce()

    # --- Inside

    def _record(self, change_type: ChangeType, key: Key, item: str | None, origin: Origin, annotations: str) -> None:
        self.expire()
        log = self._logs[self.partition_of(key)]
        self._append(log, change_type, key, item, origin, annotations)
        self._announce()

    def _append(
        self, log: PartitionLog, change_type: ChangeType, key: Key, item: str | None, origin: Origin, annotations: str
    ) -> None:
        if CapabilityName.CHANGE_FEED in self.options.unsupported:
            return
        self.last_sequence += 1
        log.records.append(
            Record(self.last_sequence, self.now(), log.partition_id, change_type, key, item, origin, annotations)
        )

    def _make_log(self, buckets: range, parents: tuple[PartitionId, ...]) -> PartitionId:
        number = len(self._logs) + len(self._forgotten) + 1
        partition_id = PartitionId(f"partition-{number:04d}")
        # A child begins where its parents end, so an untouched child loses nothing when they are trimmed.
        self._logs[partition_id] = PartitionLog(
            number=number,
            partition_id=partition_id,
            buckets=buckets,
            birth=self.last_sequence,
            floor=self.last_sequence,
            parents=parents,
        )
        return partition_id

    def _retire(self, log: PartitionLog) -> None:
        self.last_sequence += 1
        log.end = self.last_sequence
        log.retire_time = self.now()

    def _trim_log(self, log: PartitionLog, through: int) -> None:
        log.trim(through)
        if log.end is None or log.floor < log.end:
            return
        self._logs.pop(log.partition_id, None)
        self._forgotten.add(log.partition_id)
        for child in (self._logs[c] for c in log.children if c in self._logs):
            child.lost = max(child.lost, log.lost, key=lambda lost: lost.sequence if lost else 0)

    def _ancestors(self, log: PartitionLog) -> Iterator[PartitionLog]:
        for parent_id in log.parents:
            if (parent := self._logs.get(parent_id)) is not None:
                yield from self._ancestors(parent)
                yield parent

    def _active(self) -> list[PartitionLog]:
        return [log for log in self._logs.values() if log.end is None]

    def _active_log(self, partition_id: PartitionId) -> PartitionLog:
        log = self._logs.get(partition_id)
        if log is None or log.end is not None:
            raise ValueError(f"{partition_id} is not an active partition")
        return log

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _even_ranges(count: int) -> Iterator[tuple[int, int]]:
    if not 1 <= count <= BUCKETS:
        raise ValueError(f"a collection has 1 to {BUCKETS} partitions, not {count}")
    edges = [BUCKETS * index // count for index in range(count + 1)]
    return pairwise(edges)
