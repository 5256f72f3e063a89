"""The memory provider as a backend, with everything and with as little as a cloud database has."""

import json
import random
from datetime import timedelta

from changefeed.v1 import change_event_pb2
from changefeed_gateway.core.model import Address, CapabilityName, ItemState, PartitionId
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.providers.memory.collection import CollectionOptions, MemoryCollection
from changefeed_gateway.providers.memory.provider import MemoryProvider
from changefeed_gateway.providers.memory.store import MemoryStore
from tests.conformance.backend import Hook, Item

COMPLETE = CollectionOptions(partitions=4, retention=timedelta(hours=1))

FRUGAL = CollectionOptions(
    partitions=3,
    item_state=ItemState.UNAVAILABLE,
    unsupported=frozenset(
        {
            CapabilityName.BEGINNING,
            CapabilityName.POINT_IN_TIME,
            CapabilityName.LOGICAL_PARTITION_SCOPE,
        }
    ),
)

CURRENT = CollectionOptions(partitions=1, item_state=ItemState.INCLUDED_CURRENT)


class MemoryBackend:
    """A store with a watched collection, its neighbour and one without a feed."""

    hooks = frozenset(Hook) - {Hook.TROUBLE}
    provider_id = "memory"
    time_granularity = timedelta(0)
    largest_content = 10_000_000

    def __init__(self, options: CollectionOptions) -> None:
        self._options = options
        self._store = MemoryStore()
        self.item_state = options.item_state
        missing = options.unsupported
        if options.item_state is ItemState.UNAVAILABLE:
            missing |= {CapabilityName.NEW_ITEM_STATE}
        if CapabilityName.LOGICAL_PARTITION_SCOPE in missing:
            missing |= {CapabilityName.SNAPSHOT_LOGICAL_PARTITION_SCOPE}
        self.capabilities = frozenset(CapabilityName) - missing

    async def start(self) -> None:
        self._store.create("things", self._options)
        self._store.create("silent", CollectionOptions(unsupported=frozenset({CapabilityName.CHANGE_FEED})))

    async def stop(self) -> None:
        for name in ("things", "silent"):
            self._store.drop(name)

    async def connect(self) -> Provider:
        return MemoryProvider(self._store)

    def address(self, connection: str) -> Address:
        return Address(connection=connection, database="", collection="things")

    def unprovisioned(self, connection: str) -> Address:
        return Address(connection=connection, database="", collection="silent")

    async def neighbour(self, connection: str) -> Address:
        self._store.create("neighbours", self._options)
        return Address(connection=connection, database="", collection="neighbours")

    async def put(self, item: Item, content: str) -> None:
        self._things.put(item.partition, item.name, {"content": content})

    async def delete(self, item: Item) -> None:
        assert self._things.delete(item.partition, item.name)

    async def recreate(self) -> None:
        self._store.recreate("things")

    def item_of(self, key: change_event_pb2.Key) -> Item:
        partition, name = key.components
        return Item(partition.value, name.value)

    def content_of(self, item_json: str) -> str:
        return str(json.loads(item_json)["content"])

    async def split(self, partition_id: str) -> None:
        self._things.split(PartitionId(partition_id))

    async def merge(self, first: str, second: str) -> None:
        self._things.merge(PartitionId(first), PartitionId(second))

    async def trim(self) -> timedelta:
        self._things.trim()
        return timedelta(0)

    async def trouble(self, dice: random.Random) -> None:
        raise NotImplementedError("nothing can fail in memory")

    @property
    def _things(self) -> MemoryCollection:
        collection = self._store.find("things")
        assert collection is not None
        return collection
