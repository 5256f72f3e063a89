"""A provider in memory: physical partitions that split, merge and retire, and faults to order.

It keeps no single order over its partitions, so it exercises the fan-out as the cloud databases do. A cursor that it
cannot read was held by a caller, so it answers InvalidRequest (see `cursor.py`), never ProviderFailure.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from changefeed_gateway.core.errors import FeedNotProvisioned, NotFound, Reason
from changefeed_gateway.core.model import (
    Address,
    Capability,
    CapabilityName,
    Feed,
    ItemState,
    Page,
    PageRead,
    Partition,
    PartitionState,
    Scan,
    Scope,
    Start,
)
from changefeed_gateway.core.snapshot import SNAPSHOT_CONVERGES
from changefeed_gateway.providers.memory.collection import MemoryCollection
from changefeed_gateway.providers.memory.faults import Faults
from changefeed_gateway.providers.memory.history import History
from changefeed_gateway.providers.memory.reading import (
    build_page,
    expired,
    find_history,
    require_capabilities,
    resolve,
)
from changefeed_gateway.providers.memory.scanning import scan
from changefeed_gateway.providers.memory.store import MemoryStore

PROVIDER_ID = "memory"

_DETAILS = {CapabilityName.SNAPSHOT: f"converges: {SNAPSHOT_CONVERGES.message}"}


class MemoryProvider:
    """Serves the collections of one store."""

    def __init__(self, store: MemoryStore, *, faults: Faults | None = None) -> None:
        self.store = store
        self.faults = faults or Faults()

    @property
    def provider_id(self) -> str:
        """Always "memory"."""
        return PROVIDER_ID

    async def start(self) -> None:
        """See `Provider.start`: there is nothing to connect to."""

    async def open_feed(self, address: Address) -> Feed:
        """See `Provider.open_feed`."""
        await self.faults.before_open()
        collection = self._find(address)
        if CapabilityName.CHANGE_FEED in collection.options.unsupported:
            raise FeedNotProvisioned(
                f"collection {address.collection} captures no changes: create it with a change feed"
            )
        options = collection.options
        return Feed(
            address=replace(address, database=self.store.database),
            provider_id=PROVIDER_ID,
            incarnation=collection.incarnation,
            capabilities=tuple(_capability(name, collection) for name in CapabilityName),
            item_state=options.item_state,
            single_order=False,
            commit_time="The gateway's clock at the write, never running backwards within a collection.",
            retention=options.retention,
            warnings=options.warnings,
        )

    async def list_partitions(self, feed: Feed, start: Start | None = None) -> Sequence[Partition]:
        """See `Provider.list_partitions`."""
        await self.faults.before_open()
        logs = self._opened(feed).logs()
        known = {log.partition_id for log in logs}
        return [
            Partition(
                partition_id=log.partition_id,
                parents=tuple(parent for parent in log.parents if parent in known),
                state=PartitionState.ACTIVE if log.end is None else PartitionState.RETIRED,
            )
            for log in logs
        ]

    async def read_page(self, feed: Feed, read: PageRead) -> Page:
        """See `Provider.read_page`."""
        await self.faults.before_read()
        collection = self._opened(feed)
        require_capabilities(feed, read)
        if isinstance(read.start, Scan):
            return scan(collection, read, read.start)
        position = resolve(collection, find_history(collection, read.scope, read.start), read.start)
        if read.max_changes and read.max_wait:
            with suppress(TimeoutError):
                async with asyncio.timeout(read.max_wait.total_seconds()):
                    await self._await_news(feed, read.scope, position)
        return build_page(collection, self._resumed(feed, read.scope, position), position, read)

    async def ping(self) -> None:
        """See `Provider.ping`."""
        await self.faults.before_open()

    async def aclose(self) -> None:
        """See `Provider.aclose`: there is nothing to release."""

    def _find(self, address: Address) -> MemoryCollection:
        if address.database not in ("", self.store.database):
            raise NotFound(f"database {address.database} does not exist", reason=Reason.DATABASE_NOT_FOUND)
        if (collection := self.store.find(address.collection)) is None:
            raise NotFound(f"collection {address.collection} does not exist")
        return collection

    def _opened(self, feed: Feed) -> MemoryCollection:
        collection = self._find(feed.address)
        if collection.incarnation != feed.incarnation:
            raise NotFound(f"collection {feed.address.collection} was dropped and created again")
        return collection

    def _resumed(self, feed: Feed, scope: Scope, position: int) -> History:
        # While a read waits the collection may be dropped and the partition retire, be trimmed and forgotten.
        history = find_history(self._opened(feed), scope, start=None)
        if history.lost is not None and position < history.lost.sequence:
            raise expired()
        return history

    async def _await_news(self, feed: Feed, scope: Scope, position: int) -> None:
        while True:
            history = self._resumed(feed, scope, position)
            if history.end is not None or history.after(position, 1):
                return
            changed = self._opened(feed).changed()
            self.faults.waiting.set()
            await changed.wait()


def _capability(name: CapabilityName, collection: MemoryCollection) -> Capability:
    options = collection.options
    missing = name in options.unsupported or (
        name is CapabilityName.NEW_ITEM_STATE and options.item_state is ItemState.UNAVAILABLE
    )
    if name is CapabilityName.SNAPSHOT_LOGICAL_PARTITION_SCOPE:
        missing = missing or CapabilityName.LOGICAL_PARTITION_SCOPE in options.unsupported
    detail = "switched off for this collection" if missing else _DETAILS.get(name, "")
    return Capability(name=name, supported=not missing, detail=detail)
