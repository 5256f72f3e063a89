"""Whatever the cuts: the same events, in the same order, and tokens that resume."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from changefeed.v1 import subscribe_pb2
from changefeed_gateway.api.wire.encode import subscribe_response
from changefeed_gateway.api.wire.records import encode_changes
from changefeed_gateway.core.answer import Batch, Closing, Heartbeat, StreamItem
from changefeed_gateway.core.budget import PageBudget
from changefeed_gateway.core.follower import Follower
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import (
    After,
    EntireCollection,
    LogicalPartition,
    NewItemStateMode,
    PageRead,
    Scope,
)
from changefeed_gateway.core.requirement import ItemRequirement
from changefeed_gateway.core.subscription import Plan, stream
from changefeed_gateway.core.tails import Tails
from changefeed_gateway.core.turns import Turns
from tests.properties.numbered_log import FEED, Log, cursor, position_of, within


@dataclass
class Consumer:
    """Takes what it is sent at its own pace, hangs up now and then, and goes on from the last token."""

    tails: Tails
    limits: Limits
    budget: PageBudget
    dice: random.Random
    scope: Scope
    size: int
    items: bool
    position: int = 0

    def __post_init__(self) -> None:
        self.got: list[str] = []
        self.most = 0

    def open(self, follower: Follower, max_events: int) -> AsyncGenerator[StreamItem]:
        def token(scope: Scope, at: object) -> str:
            assert scope == self.scope
            assert isinstance(at, bytes)
            return str(int.from_bytes(at))

        plan = Plan(
            feed=FEED,
            read=PageRead(
                scope=self.scope,
                start=After(cursor(self.position)),
                max_changes=self.size,
                max_bytes=self.limits.max_message_bytes,
                max_item_bytes=10**6,
                items=self.items,
            ),
            heartbeat=timedelta(milliseconds=5),
            max_events=max_events,
            requirement=ItemRequirement(NewItemStateMode.INCLUDE_IF_AVAILABLE, lambda at: ""),
            token=token,
            draining=lambda: False,
        )
        return stream(plan, follower, self.limits, self.budget.share(lambda: None))

    async def consume(self, wanted: int) -> None:
        while len(self.got) < wanted:
            follower, sequence = Follower(self.tails), 0
            max_events, before = self.dice.choice([0, 0, 3, 20]), len(self.got)
            try:
                async with aclosing(self.open(follower, max_events)) as items:
                    async for item in items:
                        sequence += 1
                        self.take(subscribe_response(item, sequence=sequence, request_id="r"), sequence)
                        assert not max_events or len(self.got) - before <= max_events
                        for _ in range(self.dice.choice([0, 0, 0, 1, 5, 40])):
                            await asyncio.sleep(0)
                        if len(self.got) >= wanted or self.dice.random() < 0.05:
                            break
                        assert not isinstance(item, Closing) or len(self.got) - before == max_events
            finally:
                await follower.aclose()

    def take(self, raw: bytes, sequence: int) -> None:
        message = subscribe_pb2.SubscribeResponse.FromString(raw)
        assert message.delivery_sequence == sequence
        match message.WhichOneof("content"):
            case "batch":
                events = message.batch.events
                assert 1 <= len(events) <= self.size
                size = sum(event.ByteSize() for event in events)
                assert len(events) == 1 or size <= self.limits.max_message_bytes
                assert all(bool(event.new_item_json) == self.items for event in events)
                self.got += [event.sequence for event in events]
                self.position = int(message.batch.continuation_token)
                self.most = max(self.most, len(events))
            case "heartbeat":
                self.position = int(message.heartbeat.continuation_token)
            case "closing":
                assert int(message.closing.continuation_token) == self.position
            case other:
                assert other in ("opened", "state_changed")


@settings(max_examples=30)
@given(
    writes=st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=20), min_size=1, max_size=25),
    ring_bytes=st.sampled_from([1, 5_000, 30_000, 10**7]),
    message_bytes=st.sampled_from([300, 2_000, 10**6]),
    a_turn=st.sampled_from([1, 2, 16]),
    seed=st.integers(0, 2**32),
)
def test_each_stream_hears_its_events_once_in_order_however_messages_are_cut(
    writes: list[list[str]], ring_bytes: int, message_bytes: int, a_turn: int, seed: int
) -> None:
    async def scenario() -> None:
        log, dice = Log(item='"' + "x" * 100 + '"'), random.Random(seed)
        limits = Limits(ring_bytes=ring_bytes, default_page_size=7, max_message_bytes=message_bytes)
        tails, budget = Tails(log, encode_changes, limits), PageBudget(100_000)
        tails.turns = Turns(a_turn)
        everything = [key for write in writes for key in write]
        scopes: list[Scope] = [*[EntireCollection()] * 3, *map(LogicalPartition, "abc")]
        consumers = [
            Consumer(tails, limits, budget, dice, scope, dice.choice([1, 3, 50]), items=dice.random() < 0.7)
            for scope in scopes
        ]
        wanted = [[str(n) for n, key in enumerate(everything) if within(key, scope)] for scope in scopes]
        tasks = [
            asyncio.create_task(consumer.consume(len(numbers)))
            for consumer, numbers in zip(consumers, wanted, strict=True)
        ]
        for write in writes:
            log.write(*write)
            for _ in range(dice.randrange(8)):
                await asyncio.sleep(0)
        async with asyncio.timeout(30):
            await asyncio.gather(*tasks)
        assert [consumer.got for consumer in consumers] == wanted
        assert budget.held == 0
        await tails.aclose()
        assert tails.budget.held == 0

    asyncio.run(scenario())


async def test_a_stream_that_is_behind_takes_all_that_the_ring_holds_in_one_message() -> None:
    log, dice = Log(item='"x"'), random.Random(1)
    limits = Limits(default_page_size=7)
    tails, budget = Tails(log, encode_changes, limits), PageBudget(10**9)
    consumer = Consumer(tails, limits, budget, dice, EntireCollection(), 1_000, items=True)
    other = Follower(tails)
    follower = Follower(tails)
    items = consumer.open(follower, 0)
    heard: list[StreamItem] = [await anext(items) for _ in range(3)]
    tail = next(iter(tails._tails.values()))
    async with asyncio.timeout(10):
        for number in range(40):
            log.write("a")
            while tail.ring is None or position_of(tail.ring.end) < number + 1:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0)
        heard = [item async for item in _until_batch(items)]
    batch = heard[-1]
    assert isinstance(batch, Batch)
    assert len(batch.records) == 40
    await items.aclose()
    await follower.aclose()
    await other.aclose()
    await tails.aclose()


async def _until_batch(items: AsyncGenerator[StreamItem]) -> AsyncGenerator[StreamItem]:
    async for item in items:
        yield item
        if not isinstance(item, Heartbeat):
            return
