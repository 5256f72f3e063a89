"""What this process keeps of one life of a change stream: a reader for each partition, and the topology."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from weakref import WeakValueDictionary

from changefeed_gateway.providers.spanner.partitions import Topology
from changefeed_gateway.providers.spanner.reading import PartitionReader


class Life:
    """One reader a partition, however many read it. A partition that nobody has seen leaves nothing behind."""

    def __init__(self, topology: Topology, make_reader: Callable[[str], PartitionReader]) -> None:
        self.topology = topology
        self.narrowed = False
        """The change stream has been altered since, to watch fewer columns."""
        self._make_reader = make_reader
        self._kept: dict[str, PartitionReader] = {}
        """That have a query open."""
        self._in_use: WeakValueDictionary[str, PartitionReader] = WeakValueDictionary()
        """And all that somebody reads."""

    @contextmanager
    def reader(self, token: str) -> Iterator[PartitionReader]:
        """The reader of a partition; kept afterwards while a query of it is open."""
        reader = self._in_use.get(token)
        if reader is None:
            reader = self._in_use[token] = self._make_reader(token)
        try:
            yield reader
        finally:
            self._kept[token] = reader
            # Two at a time, in turn: more than come, and as much work with a thousand partitions as with one.
            for known in list(islice(self._kept, 2)):
                kept = self._kept.pop(known)
                if not kept.idle:
                    self._kept[known] = kept

    @property
    def in_use(self) -> bool:
        """Whether a query of it is open, as of who opened the feed before the change stream was altered."""
        return any(not reader.idle for reader in self._in_use.values())

    def close(self) -> None:
        """End what is under way; who waits is told so."""
        self.topology.close()
        for reader in list(self._in_use.values()):
            reader.close()
