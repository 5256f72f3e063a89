"""Workers that read a collection partition by partition, and go on with the children when a partition is retired."""

import asyncio
from dataclasses import dataclass, field

from changefeed.v1.partition_pb2 import ChildPartition
from changefeed.v1.resource_pb2 import FeedScope, ResourceAddress
from tests.load.gateway_process import GatewayProcess
from tests.load.readers import Kept, Reader


@dataclass
class Crew:
    """Begins with a partition that was there first. `page_size` as a Reader's."""

    name: str
    gateway: GatewayProcess
    address: ResourceAddress
    first: str
    page_size: int = 0
    workers: dict[str, Reader] = field(default_factory=dict)
    waiting: dict[str, ChildPartition] = field(default_factory=dict)
    events: list[Kept] = field(default_factory=list)
    """Of all workers, in the order they came."""
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Read for ever, one task a partition."""
        async with asyncio.TaskGroup() as group:
            self._start(group, self.first, token="")

    def _start(self, group: asyncio.TaskGroup, partition_id: str, token: str) -> None:
        self.workers[partition_id] = Reader(
            f"{self.name}, {partition_id}",
            self.gateway,
            self.address,
            FeedScope(physical_partition_id=partition_id),
            page_size=self.page_size,
            events=self.events,
            token=token,
            grown=self.grown,
        )
        group.create_task(self._work(group, self.workers[partition_id]))

    async def _work(self, group: asyncio.TaskGroup, worker: Reader) -> None:
        await worker.run()
        assert worker.children, f"{worker.name} ended without children"
        for child in worker.children:
            if child.partition_id not in self.workers:
                self.waiting[child.partition_id] = child
        for child_id, child in list(self.waiting.items()):
            if all(map(self._done, child.parent_partition_ids)):
                del self.waiting[child_id]
                self._start(group, child_id, child.continuation_token)

    def _done(self, partition_id: str) -> bool:
        worker = self.workers.get(partition_id)
        return worker is not None and worker.children is not None

    async def wait_for(self, event_count: int) -> None:
        """Return once so many events have come."""
        while len(self.events) < event_count:
            self.grown.clear()
            await self.grown.wait()

    @property
    def resumes(self) -> int:
        """How often workers had to begin again."""
        return sum(worker.resumes for worker in self.workers.values())

    @property
    def repeated(self) -> int:
        """Events that came again after a resume."""
        return sum(worker.repeated for worker in self.workers.values())

    def by_key(self) -> dict[int, list[tuple[str, str]]]:
        """For each row, what was received of it, in order."""
        changes: dict[int, list[tuple[str, str]]] = {}
        for event in self.events:
            changes.setdefault(int(event.key), []).append((event.kind, event.image))
        return changes
