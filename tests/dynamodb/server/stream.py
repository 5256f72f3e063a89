"""A stream of a table: its shards, how they come and go, and what a listing shows of them."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.dynamodb.server.errors import no_shard
from tests.dynamodb.server.shapes import check_record
from tests.dynamodb.server.shard import Record, Shard

HASHES = 2**16
RETENTION = timedelta(hours=24)


class Stream:
    """One life of a table's stream, from the moment it was switched on."""

    def __init__(
        self,
        *,
        arn: str,
        label: str,
        table: str,
        view_type: str,
        key_schema: list[dict[str, str]],
        shards: int,
        now: Callable[[], float],
        sequences: Iterator[int],
    ) -> None:
        self.arn = arn
        self.label = label
        self.table = table
        self.view_type = view_type
        self.key_schema = key_schema
        self.created = now()
        self.enabled = True
        self.shards: dict[str, Shard] = {}
        self.history: list[Record] = []
        """Every record there ever was, for a test to hold a delivery against."""
        self.stale: tuple[list[dict[str, Any]], bool] | None = None
        """An old listing that is still shown, and whether only on the first page of each round."""
        self._now = now
        self._sequences = sequences
        self._ordinals = itertools.count(int(self.created * 1000))
        edges = [HASHES * index // shards for index in range(shards + 1)]
        for low, high in itertools.pairwise(edges):
            self._open(range(low, high), parent=None)

    # --- Writing

    def append(self, key: str, content: dict[str, Any], change: dict[str, Any]) -> Record:
        """Add a record to the shard that takes the key. `change` is what is beside `content`, its `dynamodb` part."""
        place = hash_of(key)
        shard = next(s for s in self.shards.values() if s.end is None and place in s.hashes)
        sequence, time = next(self._sequences), self._now()
        record = {
            "eventID": hashlib.md5(f"{self.arn}{sequence}".encode()).hexdigest(),
            "eventVersion": "1.1",
            "eventSource": "aws:dynamodb",
            "awsRegion": self.arn.split(":")[3],
            **change,
            "dynamodb": {
                "ApproximateCreationDateTime": int(time),
                "SequenceNumber": f"{sequence:021d}",
                "StreamViewType": self.view_type,
                **content,
            },
        }
        check_record(record)
        made = Record(sequence, time, json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode())
        shard.records.append(made)
        self.history.append(made)
        return made

    # --- Shards come and go

    def split(self, shard_id: str) -> tuple[Shard, Shard]:
        """Close an open shard in favour of two."""
        parent = self._close(shard_id)
        low, high = parent.hashes.start, parent.hashes.stop
        middle = (low + high) // 2
        assert low < middle < high, f"{shard_id} takes one hash only"
        return self._open(range(low, middle), parent=shard_id), self._open(range(middle, high), parent=shard_id)

    def rotate(self, shard_id: str) -> Shard:
        """Close an open shard in favour of one that goes on."""
        return self._open(self._close(shard_id).hashes, parent=shard_id)

    def disable(self, *, leaves_shown_open: bool = False) -> None:
        """Switch the stream off: its open shards end, what they hold stays readable."""
        self.enabled = False
        for shard in self.open_shards():
            self._close(shard.shard_id).shown_open = leaves_shown_open

    def open_shards(self) -> list[Shard]:
        """The shards that take changes."""
        return [shard for shard in self.shards.values() if shard.end is None]

    def shard(self, shard_id: str) -> Shard:
        """A shard by its id. Raises ResourceNotFoundException."""
        if (shard := self.shards.get(shard_id)) is None:
            raise no_shard()
        return shard

    def trim(self) -> None:
        """Forget records, and closed shards, that are older than the retention."""
        oldest = self._now() - RETENTION.total_seconds()
        for shard in list(self.shards.values()):
            old = [record.sequence for record in shard.records if record.time < oldest]
            if old:
                shard.trim(old[-1])
            if shard.closed_at is not None and shard.closed_at < oldest and not shard.records:
                del self.shards[shard.shard_id]

    # --- Listing

    def describe(self) -> dict[str, Any]:
        """The stream without its shards."""
        return {
            "StreamArn": self.arn,
            "StreamLabel": self.label,
            "StreamStatus": "ENABLED" if self.enabled else "DISABLED",
            "StreamViewType": self.view_type,
            "CreationRequestDateTime": self.created,
            "TableName": self.table,
            "KeySchema": self.key_schema,
        }

    def listing(self) -> list[dict[str, Any]]:
        """The shards that are shown, as they are now."""
        return [shard.describe() for shard in self.shards.values() if shard.listed]

    def listing_page(self, after: str | None, limit: int) -> tuple[Sequence[dict[str, Any]], bool]:
        """A page of what is shown, and whether more follows."""
        shown = self.listing()
        if self.stale is not None:
            old, first_page_only = self.stale
            shown = shown if first_page_only and after is not None else old
        rest = [shard for shard in shown if after is None or shard["ShardId"] > after]
        return rest[:limit], len(rest) > limit

    # --- Inside

    def _open(self, hashes: range, *, parent: str | None) -> Shard:
        ordinal = next(self._ordinals)
        shard_id = f"shardId-{ordinal:020d}-{hashlib.md5(f'{self.arn}{ordinal}'.encode()).hexdigest()[:8]}"
        shard = Shard(shard_id=shard_id, parent_id=parent, hashes=hashes, start=next(self._sequences))
        self.shards[shard_id] = shard
        return shard

    def _close(self, shard_id: str) -> Shard:
        shard = self.shard(shard_id)
        assert shard.end is None, f"{shard_id} is closed"
        shard.end, shard.closed_at = next(self._sequences), self._now()
        return shard


def hash_of(key: str) -> int:
    """Where a partition key lies."""
    return int.from_bytes(hashlib.md5(key.encode()).digest()[:2])


def label_of(time: float) -> str:
    """A stream's label: its time of birth in milliseconds."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
