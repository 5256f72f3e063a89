"""Consumers of a table that save a token with everything they are told, and can be killed between any two calls."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import grpc

from tests.conformance.client import BEGINNING, PATIENCE, Refusal, Start, after, physical
from tests.dynamodb.ledger import Account, Ledger
from tests.dynamodb.scene import Scene


class Consumer(Protocol):
    """One kind of reader."""

    account: Account

    async def work(self, amount: int) -> None:
        """Read a little; a failing provider is sat out, expired history means to begin anew."""
        ...


class _Trouble:
    """What a consumer does about refusals."""

    def __init__(self, scene: Scene, ledger: Ledger) -> None:
        self.scene = scene
        self.account = Account(ledger)

    async def begin_anew(self) -> None:
        raise NotImplementedError

    @asynccontextmanager
    async def handled(self) -> AsyncIterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            found = Refusal.of_error(error)
            if found.category == "CHECKPOINT_EXPIRED":
                self.account.expired(tips_age=not self.scene.server.behaviour.at_timestamp)
                await self.begin_anew()
            else:
                assert found.category in ("THROTTLED", "TRANSIENT_FAILURE"), found
                assert found.retry_delay, found


class PageReader(_Trouble):
    """Reads the entire collection by pages."""

    def __init__(self, scene: Scene, ledger: Ledger, start: Start = BEGINNING) -> None:
        super().__init__(scene, ledger)
        self.start = start

    async def begin_anew(self) -> None:
        self.start = BEGINNING
        self.account.begin(self.account.ledger.retained())

    async def work(self, amount: int) -> None:
        self._begin_if_new()
        async with self.handled():
            page = await self.scene.client.read(self.start, size=amount)
            self.account.take(page.events, page.token_expire_time, complete=not page.more_available)
            self.start = after(page.continuation_token)

    def _begin_if_new(self) -> None:
        # The beginning is the oldest record that is there when it is asked for.
        if self.start is BEGINNING:
            self.account.begin(self.account.ledger.retained())


class Follower(PageReader):
    """Follows the entire collection by streams."""

    async def work(self, amount: int) -> None:
        self._begin_if_new()
        async with self.handled(), self.scene.client.subscribe(self.start, size=amount, heartbeat=0.05) as stream:
            for _ in range(amount):
                message = await stream.next()
                if message is None:
                    return
                kind = message.WhichOneof("content")
                if kind != "state_changed":
                    expiry = getattr(message, str(kind)).token_expire_time
                    moved = kind != "opened" or self.start is BEGINNING
                    self.account.take(message.batch.events, expiry, complete=kind == "heartbeat", moved=moved)
                    self.start = after(stream.token)
                if kind == "heartbeat":
                    return


class Crew(_Trouble):
    """Workers, each on one shard, that start the children of a shard when it is drained."""

    def __init__(self, scene: Scene, ledger: Ledger) -> None:
        super().__init__(scene, ledger)
        self.tokens: dict[str, str] = {}
        self._ages: dict[str, tuple[float, float]] = {}
        """Of each shard's token, as `Account` keeps them."""
        self._begun = False
        self._dice = random.Random(5)

    async def begin_anew(self) -> None:
        self._begun = False
        self.account.begin(self.account.ledger.retained())

    async def work(self, amount: int) -> None:
        async with self.handled():
            if not self._begun:
                await self._begin()
            for _ in range(min(amount, len(self.tokens))):
                await self._work_on(self._dice.choice(sorted(self.tokens)))

    async def work_on_all(self) -> None:
        async with self.handled():
            if not self._begun:
                await self._begin()
            for shard in sorted(self.tokens):
                await self._work_on(shard)

    async def _begin(self) -> None:
        self.account.begin(self.account.ledger.retained())
        listed = {p.partition_id: set(p.parent_partition_ids) for p in await self.scene.client.partitions()}
        roots = [shard for shard, parents in listed.items() if not parents & listed.keys()]
        tokens = {}
        for shard in roots:
            tokens[shard] = (await self.scene.client.resolve(BEGINNING, scope=physical(shard))).continuation_token
        self.tokens, self._begun = tokens, True
        self._ages = dict.fromkeys(tokens, (self.account.fresh, self.account.expiry))

    async def _work_on(self, shard: str) -> None:
        account = self.account
        account.fresh, account.expiry = self._ages[shard]
        account.places = {shard}
        page = await self.scene.client.read(after(self.tokens[shard]), size=3)
        account.take(page.events, page.token_expire_time, complete=not page.more_available)
        self.tokens[shard] = page.continuation_token
        self._ages[shard] = account.fresh, account.expiry
        if page.partition_retired:
            del self.tokens[shard]
            for child in page.child_partitions:
                self.tokens[child.partition_id] = child.continuation_token
                self._ages[child.partition_id] = account.fresh, account.expiry


async def drain(consumer: PageReader | Crew) -> None:
    """Let a consumer work until nothing is owed to it, or it is clear that something never comes."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE) as patience:
            while owed := len(consumer.account.owed()):
                if isinstance(consumer, Crew):
                    await consumer.work_on_all()
                else:
                    await consumer.work(50)
                await asyncio.sleep(0)  # a consumer that has nothing to ask lets nobody else go on
                if len(consumer.account.owed()) < owed:
                    # A busy machine may take long: only what stands still is lost.
                    patience.reschedule(asyncio.get_running_loop().time() + PATIENCE)
