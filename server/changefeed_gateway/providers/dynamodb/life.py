"""What this process keeps of one life of a table's stream: a reader for each shard, and the shards' genealogy."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary

from changefeed_gateway.providers.dynamodb.reading import ShardReader
from changefeed_gateway.providers.dynamodb.shards import Genealogy, Listing


class Life:
    """One reader a shard, however many read it. A shard that nobody has seen leaves nothing behind."""

    def __init__(self, genealogy: Genealogy, make_reader: Callable[[str], ShardReader]) -> None:
        self.genealogy = genealogy
        self._make_reader = make_reader
        self._kept: dict[str, ShardReader] = {}
        """Of shards that the service knows."""
        self._in_use: WeakValueDictionary[str, ShardReader] = WeakValueDictionary()
        """And of all that somebody reads, or asks for."""

    @contextmanager
    def reader(self, shard_id: str) -> Iterator[ShardReader]:
        """The reader of a shard; kept afterwards if the shard exists."""
        reader = self._in_use.get(shard_id)
        if reader is None:
            reader = self._in_use[shard_id] = self._make_reader(shard_id)
        try:
            yield reader
        finally:
            if reader.exists:
                self._kept[shard_id] = reader
            else:
                self._kept.pop(shard_id, None)

    def forget_others(self, listing: Listing) -> None:
        """Keep only what a listing shows."""
        for shard_id in self._kept.keys() - {shard.shard_id for shard in listing.shards}:
            del self._kept[shard_id]

    def close(self) -> None:
        """End what is under way; who waits is told so."""
        self.genealogy.close()
        for reader in list(self._in_use.values()):
            reader.close()
