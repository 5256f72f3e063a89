"""Consumers of a container that save a token with everything they are told, and can be killed between any two calls."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import grpc

from tests.conformance.client import NOW, PATIENCE, Refusal, Scope, Start, after, physical
from tests.cosmos.ledger import Account, Ledger
from tests.cosmos.scene import Scene


class _Trouble:
    """What a consumer does about refusals."""

    def __init__(self, scene: Scene, ledger: Ledger) -> None:
        self.scene = scene
        self.account = Account(ledger)

    async def begin(self) -> None:
        """Fix a start: everything from then on is owed."""
        raise NotImplementedError

    @asynccontextmanager
    async def handled(self) -> AsyncIterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            found = Refusal.of_error(error)
            if found.category == "CHECKPOINT_EXPIRED":
                # Loud, and only when there was something to lose.
                assert self.account.owed(), "history was called gone that nobody is owed"
                await self.begin()
            else:
                assert found.category in ("THROTTLED", "TRANSIENT_FAILURE"), found
                assert found.retry_delay, found


class PageReader(_Trouble):
    """Reads a scope by pages; the entire collection unless one is named."""

    def __init__(self, scene: Scene, ledger: Ledger, scope: Scope | None = None) -> None:
        super().__init__(scene, ledger)
        self.scope = scope
        self.start: Start | None = None

    async def begin(self) -> None:
        self.start = None
        # What comes while now is asked for may come too, or not: nothing does, in these histories.
        token = (await self.scene.client.resolve(NOW, scope=self.scope)).continuation_token
        self.account.begin()
        self.start = after(token)

    async def work(self, amount: int) -> None:
        """Read a little."""
        async with self.handled():
            if self.start is None:
                await self.begin()
            assert self.start is not None
            page = await self.scene.client.read(self.start, size=amount)
            self.account.take(page.events)
            self.start = after(page.continuation_token)


class Follower(PageReader):
    """Follows by streams."""

    async def work(self, amount: int) -> None:
        async with self.handled():
            if self.start is None:
                await self.begin()
            assert self.start is not None
            async with self.scene.client.subscribe(self.start, size=amount, heartbeat=0.05) as stream:
                for _ in range(amount):
                    message = await stream.next()
                    if message is None:
                        return
                    kind = message.WhichOneof("content")
                    if kind != "state_changed":
                        self.account.take(message.batch.events)
                        self.start = after(stream.token)
                    if kind == "heartbeat":
                        return


class Crew(_Trouble):
    """Workers, each on one partition, that start the children of one that is drained."""

    def __init__(self, scene: Scene, ledger: Ledger) -> None:
        super().__init__(scene, ledger)
        self.tokens: dict[str, str] = {}
        self._dice = random.Random(5)

    async def begin(self) -> None:
        self.tokens = {}
        tokens = {}
        for partition in await self.scene.client.partitions():
            if partition.state == 1:
                scope = physical(partition.partition_id)
                tokens[partition.partition_id] = (await self.scene.client.resolve(NOW, scope=scope)).continuation_token
        self.account.begin()
        self.tokens = tokens

    async def work(self, amount: int) -> None:
        """Let some of them read a little."""
        async with self.handled():
            if not self.tokens:
                await self.begin()
            for _ in range(min(amount, len(self.tokens))):
                await self._work_on(self._dice.choice(sorted(self.tokens)))

    async def work_on_all(self) -> None:
        """Let each of them read a little."""
        async with self.handled():
            for partition in sorted(self.tokens):
                await self._work_on(partition)

    async def _work_on(self, partition: str) -> None:
        page = await self.scene.client.read(after(self.tokens[partition]), size=3)
        self.account.take(page.events)
        self.tokens[partition] = page.continuation_token
        if page.partition_retired:
            del self.tokens[partition]
            assert page.child_partitions
            for child in page.child_partitions:
                self.tokens[child.partition_id] = child.continuation_token


async def drain(consumer: PageReader | Crew) -> None:
    """Let a consumer work until nothing is owed to it, or it is clear that something never comes."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE) as patience:
            while owed := len(consumer.account.owed()):
                if isinstance(consumer, Crew) and consumer.tokens:
                    await consumer.work_on_all()
                else:
                    await consumer.work(50)
                await asyncio.sleep(0)  # a consumer that has nothing to ask lets nobody else go on
                if len(consumer.account.owed()) < owed:
                    # A busy machine may take long: only what stands still is lost.
                    patience.reschedule(asyncio.get_running_loop().time() + PATIENCE)
