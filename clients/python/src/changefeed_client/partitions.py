"""Reads the physical partitions of a collection in parallel, children after all their parents."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from changefeed.v1.partition_pb2 import ChildPartition, PhysicalPartition
from changefeed.v1.position_pb2 import StartPosition
from changefeed.v1.resource_pb2 import ResourceAddress
from changefeed.v1.token_pb2 import ResolveStartPositionResponse
from changefeed_client.checkpoint import Checkpoint, changed
from changefeed_client.positions import after, physical_partition
from changefeed_client.tail import Delivery, Tail

if TYPE_CHECKING:
    from changefeed_client.client import ChangeFeedClient

Handle = Callable[[str, Delivery], Awaitable[None]]
"""Takes a partition's id and what one of its messages brought."""

_T = TypeVar("_T")


class Patiently(Protocol):
    """Repeats a call until an outage is over, or outlasts patience. Raises its last error."""

    def __call__(self, call: Callable[[], Awaitable[_T]]) -> Awaitable[_T]:
        """What the call answers at last."""


class PartitionReader:
    """One parallel read; `run` it once."""

    def __init__(
        self,
        client: "ChangeFeedClient",
        address: ResourceAddress,
        checkpoint: Checkpoint,
        handle: Handle,
        tail: Callable[[str, StartPosition], Tail],
        patiently: Patiently,
    ) -> None:
        self._client = client
        self._address = address
        self._checkpoint = checkpoint
        self._handle = handle
        self._tail = tail
        self._patiently = patiently
        # Of partitions that are not read to their end; what is in none is finished or to come.
        self._positions: dict[str, str] = {}
        self._parents: dict[str, Sequence[str]] = {}
        self._running: dict[asyncio.Task[Mapping[str, ChildPartition]], str] = {}

    async def run(self, start: StartPosition, only: Collection[str]) -> None:
        """Read until every partition is retired without children, or something fails."""
        await self._begin(start, only)
        try:
            while self._positions:
                self._start_ready()
                done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    partition_id = self._running.pop(task)
                    await self._retire(partition_id, task.result())
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _begin(self, start: StartPosition, only: Collection[str]) -> None:
        """Find the positions: those saved, or those of the start in every partition, fixed before anything is read."""
        self._positions = dict(await self._checkpoint.load())
        is_first = not self._positions
        await self._learn_parents()
        if not is_first:
            return
        # P5: one that nobody has is the gateway's to refuse; passed over, it would look like one that is finished.
        for partition_id in only or self._parents:
            self._positions[partition_id] = await self._resolved(partition_id, start)
        await self._checkpoint.save(self._positions)

    async def _resolved(self, partition_id: str, start: StartPosition) -> str:
        async def resolve() -> ResolveStartPositionResponse:
            return await self._client.resolve(self._address, start, scope=physical_partition(partition_id))

        return (await self._patiently(resolve)).continuation_token

    async def _learn_parents(self) -> None:
        async def listed() -> list[PhysicalPartition]:
            return [partition async for partition in self._client.partitions(self._address)]

        for partition in await self._patiently(listed):
            self._parents.setdefault(partition.partition_id, partition.parent_partition_ids)

    def _is_waiting(self, partition_id: str) -> bool:
        """Whether any ancestor is still read: a parent may be one that its own parents have yet to name."""
        seen: set[str] = set()
        parents = list(self._parents.get(partition_id, ()))
        while parents:
            parent = parents.pop()
            if parent in self._positions:
                return True
            if parent not in seen:
                seen.add(parent)
                parents += self._parents.get(parent, ())
        return False

    def _start_ready(self) -> None:
        running = set(self._running.values())
        for partition_id, token in self._positions.items():
            if partition_id not in running and not self._is_waiting(partition_id):
                task = asyncio.create_task(self._read(partition_id, token))
                self._running[task] = partition_id
        if not self._running:
            raise RuntimeError("the partitions wait for each other")

    async def _read(self, partition_id: str, token: str) -> Mapping[str, ChildPartition]:
        """Follow one partition to its end; answers its children."""
        children: dict[str, ChildPartition] = {}
        async with self._tail(partition_id, after(token)) as tail:
            async for delivery in tail:
                await self._handle(partition_id, delivery)
                await self._checkpoint.save({partition_id: delivery.continuation_token})
                children |= {child.partition_id: child for child in delivery.children}
        # Here, beside the other partitions: one that fails meanwhile ends all.
        self._parents |= {child_id: child.parent_partition_ids for child_id, child in children.items()}
        if any(parent not in self._parents for child in children.values() for parent in child.parent_partition_ids):
            await self._learn_parents()
        return children

    async def _retire(self, partition_id: str, children: Mapping[str, ChildPartition]) -> None:
        """Put children in the place of a partition, in one step, so that a crash leaves the one or the others."""
        changes = {partition_id: ""}
        for child_id, child in children.items():
            if child_id not in self._positions:  # another parent, or the first listing, may have named it already
                changes[child_id] = child.continuation_token
        self._positions = changed(self._positions, changes)
        await self._checkpoint.save(changes)
