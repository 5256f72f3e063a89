"""Consumers of a table that save a token with everything they are told, and can be killed between any two calls."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress

import grpc

from tests.conformance.client import BEGINNING, PATIENCE, Event, Refusal, Start, after, physical
from tests.spanner.scene import CHANGES, MAIN, Scene


class Ledger:
    """What the stream of a table ever held, in the order in which it was committed."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def changes(self) -> list[tuple[str, str]]:
        """The event id of each change, and the key of its row."""
        history = self._scene.server.stream(MAIN, CHANGES).history
        return [
            (f"{record.server_transaction_id}.{record.record_sequence:08d}.{place}", str(mod.keys))
            for record in history
            for place, mod in enumerate(record.mods)
        ]


class Consumer:
    """One kind of reader; what it was told is held against what it is owed."""

    def __init__(self, scene: Scene, ledger: Ledger) -> None:
        self.scene, self.ledger = scene, ledger
        self.since = 0
        self.delivered: dict[str, Event] = {}

    def take(self, events: Iterable[Event]) -> None:
        for event in events:
            known = self.delivered.setdefault(event.event_id, event)
            # P3
            assert (known.key, known.commit_timestamp) == (event.key, event.commit_timestamp)

    def owed(self) -> list[str]:
        """What has not been delivered."""
        return [event_id for event_id, _ in self.ledger.changes()[self.since :] if event_id not in self.delivered]

    def check(self) -> None:
        """Everything came, and each row's changes in the order of their commits (P1, P2)."""
        assert not self.owed(), f"{len(self.owed())} changes are missing"
        changes = self.ledger.changes()
        place = {event_id: number for number, (event_id, _) in enumerate(changes)}
        keys = dict(changes)
        orders: dict[str, list[int]] = defaultdict(list)
        for event_id in self.delivered:
            orders[keys[event_id]].append(place[event_id])
        for key, order in orders.items():
            assert order == sorted(order), f"{key} came out of order"

    async def work(self, amount: int) -> None:
        """Read a little; a failing service is sat out."""
        try:
            await self._work(amount)
        except grpc.aio.AioRpcError as error:
            found = Refusal.of_error(error)
            assert found.category in ("THROTTLED", "TRANSIENT_FAILURE"), found
            assert found.retry_delay, found

    async def _work(self, amount: int) -> None:
        raise NotImplementedError


class PageReader(Consumer):
    """Reads the entire collection by pages."""

    start: Start = BEGINNING

    async def _work(self, amount: int) -> None:
        page = await self.scene.client.read(self.start, size=amount)
        self.take(page.events)
        self.start = after(page.continuation_token)


class Follower(PageReader):
    """Follows the entire collection by streams."""

    async def _work(self, amount: int) -> None:
        async with self.scene.client.subscribe(self.start, size=amount, heartbeat=0.05) as stream:
            for _ in range(amount):
                message = await stream.next()
                if message is None:
                    return
                kind = message.WhichOneof("content")
                if kind != "state_changed":
                    self.take(message.batch.events)
                    self.start = after(stream.token)
                if kind == "heartbeat":
                    return


class Crew(Consumer):
    """Workers, each on one partition, that start a child when all its parents are drained."""

    def __init__(self, scene: Scene, ledger: Ledger) -> None:
        super().__init__(scene, ledger)
        self.tokens: dict[str, str] = {}
        self._waiting: dict[str, tuple[set[str], str]] = {}
        self._finished: set[str] = set()
        self._dice = random.Random(5)

    async def _work(self, amount: int) -> None:
        if not self.tokens:
            await self._begin()
        for _ in range(amount):
            await self._work_on(self._dice.choice(sorted(self.tokens)))

    async def work_on_all(self) -> None:
        with suppress(grpc.aio.AioRpcError):
            for partition in sorted(self.tokens):
                await self._work_on(partition)

    async def _begin(self) -> None:
        client = self.scene.client
        listed = {p.partition_id: set(p.parent_partition_ids) for p in await client.partitions()}
        roots = [partition for partition, parents in listed.items() if not parents & listed.keys()]
        self.tokens = {
            root: (await client.resolve(BEGINNING, scope=physical(root))).continuation_token for root in roots
        }

    async def _work_on(self, partition: str) -> None:
        page = await self.scene.client.read(after(self.tokens[partition]), size=3)
        self.take(page.events)
        self.tokens[partition] = page.continuation_token
        if not page.partition_retired:
            return
        del self.tokens[partition]
        self._finished.add(partition)
        for child in page.child_partitions:
            self._waiting.setdefault(child.partition_id, (set(child.parent_partition_ids), child.continuation_token))
        for child_id, (parents, token) in list(self._waiting.items()):
            if parents <= self._finished and child_id not in self._finished:
                self.tokens.setdefault(child_id, token)
                del self._waiting[child_id]


async def drain(consumers: Sequence[Consumer]) -> None:
    """Let each work until nothing is owed to it, or it is clear that something never comes."""
    for consumer in consumers:
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE) as patience:
                while owed := len(consumer.owed()):
                    if isinstance(consumer, Crew) and consumer.tokens:
                        await consumer.work_on_all()
                    else:
                        await consumer.work(50)
                    await asyncio.sleep(0)  # a consumer that has nothing to ask lets nobody else go on
                    if len(consumer.owed()) < owed:
                        # A busy machine may take long: only what stands still is lost.
                        patience.reschedule(asyncio.get_running_loop().time() + PATIENCE)
