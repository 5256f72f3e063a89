"""Whatever happens to partitions and readers: every change arrives, each key in order, and no gap stays quiet."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from itertools import cycle

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from changefeed_gateway.core.answer import (
    Batch,
    Heartbeat,
    Opened,
    ReadRequest,
    StateChanged,
    StreamItem,
    SubscribeRequest,
    SubscriptionState,
)
from changefeed_gateway.core.errors import CheckpointExpired
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import (
    Address,
    Beginning,
    Change,
    Feed,
    FromToken,
    RequestedStart,
)
from changefeed_gateway.core.router import Router
from changefeed_gateway.core.token import TokenCodec, TokenKey
from changefeed_gateway.providers.memory.collection import CollectionOptions, MemoryCollection
from changefeed_gateway.providers.memory.provider import MemoryProvider
from changefeed_gateway.providers.memory.store import MemoryStore

ADDRESS = Address(connection="here", database="", collection="things")


@dataclass(frozen=True, slots=True)
class Put:
    item: int


@dataclass(frozen=True, slots=True)
class Delete:
    item: int


@dataclass(frozen=True, slots=True)
class Split:
    which: int


@dataclass(frozen=True, slots=True)
class Merge:
    which: int


@dataclass(frozen=True, slots=True)
class Trim:
    part: float
    """Of the sequence numbers so far."""


@dataclass(frozen=True, slots=True)
class Read:
    size: int


@dataclass(frozen=True, slots=True)
class Save:
    """The consumer stores its token, and what it did with the changes."""


@dataclass(frozen=True, slots=True)
class Kill:
    """The consumer loses what it did since it saved."""


Step = Put | Delete | Split | Merge | Trim | Read | Save | Kill

ITEMS = st.integers(0, 7)
TOPOLOGY = st.one_of(
    st.builds(Put, ITEMS),
    st.builds(Put, ITEMS),
    st.builds(Delete, ITEMS),
    st.builds(Split, st.integers(0, 9)),
    st.builds(Merge, st.integers(0, 9)),
)
STEPS = st.one_of(
    TOPOLOGY,
    TOPOLOGY,
    st.builds(Read, st.integers(1, 9)),
    st.builds(Read, st.integers(1, 9)),
    st.just(Save()),
    st.just(Kill()),
)
TRIMS = st.builds(Trim, st.sampled_from([0.3, 0.7, 1.0]))


def encode(feed: Feed, changes: Sequence[Change], *, items: bool) -> list[bytes]:
    return [json.dumps([c.event_id, c.key.partition_key, int(c.sequence)]).encode() for c in changes]


@dataclass
class Seen:
    """What a consumer did with the changes it got."""

    by_key: dict[str, list[int]] = field(default_factory=dict)
    """Sequence numbers as they came."""

    def take(self, records: Sequence[bytes]) -> None:
        for record in records:
            _, key, sequence = json.loads(record)
            self.by_key.setdefault(key, []).append(sequence)

    def copy(self) -> "Seen":
        return Seen({key: list(numbers) for key, numbers in self.by_key.items()})


class World:
    """A collection whose partitions change, with everything that was ever committed to it."""

    def __init__(self, partitions: int, *, ring_bytes: int = 10_000) -> None:
        store = MemoryStore()
        self.collection: MemoryCollection = store.create("things", CollectionOptions(partitions=partitions))
        self.committed: dict[str, list[int]] = {}
        self.router = Router(
            providers={"here": MemoryProvider(store)},
            tokens=TokenCodec([TokenKey(key_id="k", secret=b"s" * 16)]),
            limits=Limits(default_page_size=5, ring_bytes=ring_bytes),
            encoder=encode,
        )

    def apply(self, step: Put | Delete | Split | Merge | Trim) -> bool:
        """Do it, if it can be done; tell whether there is anything new to read."""
        before = self.collection.last_sequence
        active = [log for log in self.collection.logs() if log.end is None]
        match step:
            case Put(item):
                self._note(item, lambda: self.collection.put(f"key-{item}", "x", {"after": before}))
            case Delete(item):
                self._note(item, lambda: self.collection.delete(f"key-{item}", "x"))
            case Split(which) if len(active) < 12 and len((log := active[which % len(active)]).buckets) > 1:
                self.collection.split(log.partition_id)
            case Merge(which) if len(active) > 1:
                by_bucket = sorted(active, key=lambda log: log.buckets.start)
                lower = which % (len(by_bucket) - 1)
                self.collection.merge(by_bucket[lower].partition_id, by_bucket[lower + 1].partition_id)
            case Trim(part):
                self.collection.trim(through=int(self.collection.last_sequence * part))
            case _:
                pass
        return self.collection.last_sequence > before

    def _note(self, item: int, write: object) -> None:
        assert callable(write)
        before = self.collection.last_sequence
        write()
        if self.collection.last_sequence > before:
            self.committed.setdefault(f"key-{item}", []).append(self.collection.last_sequence)

    def retained(self) -> set[int]:
        return {record.sequence for log in self.collection.logs() for record in log.records}


class Consumer:
    """Reads the entire collection by pages, as a caller of the router does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.start: RequestedStart = Beginning()
        self.seen = Seen()
        self.caught_up = False
        """Everything committed so far was read; nothing has changed since."""
        self.saved: tuple[RequestedStart, Seen, bool] = (self.start, Seen(), False)
        self.lost: set[int] = set()
        """What was told to be gone."""

    async def read(self, size: int) -> bool:
        """Read one page; tell whether more is available."""
        if isinstance(self.start, Beginning):
            self.lost |= {n for numbers in self.world.committed.values() for n in numbers} - self.world.retained()
        try:
            answer = await self.world.router.read_changes(
                ReadRequest(address=ADDRESS, scope=None, start=self.start, page_size=size)
            )
        except CheckpointExpired:
            assert not self.caught_up, "a reader that had read everything lost nothing by a trim"
            event("expired")
            self.start, self.seen = Beginning(), Seen()
            return True
        assert len(answer.records) <= size
        assert not answer.retired
        self.seen.take(answer.records)
        self.start = FromToken(answer.token)
        self.caught_up = not answer.more_available
        return answer.more_available

    def save(self) -> None:
        self.saved = self.start, self.seen.copy(), self.caught_up

    def kill(self) -> None:
        self.start, self.seen, self.caught_up = self.saved[0], self.saved[1].copy(), self.saved[2]

    def miss_news(self) -> None:
        self.caught_up = False
        self.saved = *self.saved[:2], False

    def check(self) -> None:
        for key, numbers in self.world.committed.items():
            got = self.seen.by_key.get(key, [])
            assert got == [n for n in numbers if n in got], f"{key} out of order or repeated"
            assert set(numbers) - set(got) <= self.lost, f"{key} lost changes without a word"


async def run(steps: Sequence[Step], partitions: int) -> None:
    world = World(partitions)
    consumer = Consumer(world)
    for step in steps:
        match step:
            case Read(size):
                await consumer.read(size)
            case Save():
                consumer.save()
            case Kill():
                consumer.kill()
            case _:
                if world.apply(step):
                    consumer.miss_news()
    while await consumer.read(3):
        pass
    consumer.check()
    await world.router.aclose()


@pytest.mark.req("P1", "P2", "E4")
@settings(max_examples=150)
@given(steps=st.lists(STEPS, min_size=10, max_size=70), partitions=st.integers(1, 4))
def test_pages_bring_every_change_in_order_through_splits_and_merges(steps: list[Step], partitions: int) -> None:
    asyncio.run(run(steps, partitions))


@settings(max_examples=150)
@given(steps=st.lists(STEPS | TRIMS, min_size=10, max_size=70), partitions=st.integers(1, 4))
def test_what_a_trim_takes_is_told(steps: list[Step], partitions: int) -> None:
    asyncio.run(run(steps, partitions))


class Stream:
    """A consumer of streams that hangs up and comes back where its last token says."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.start: RequestedStart = Beginning()
        self.seen: dict[str, list[int]] = {}

    async def follow(self, *, size: int, messages: int | None = None) -> None:
        """Take some messages of a stream, then hang up; without a number: until it is live."""
        session, taken = Seen(), 0
        items: AsyncGenerator[StreamItem] = self.world.router.subscribe(
            SubscribeRequest(address=ADDRESS, scope=None, start=self.start, batch_size=size), end_write=lambda: None
        )
        async with aclosing(items):
            async for item in items:
                match item:
                    case Batch(records=records, token=token):
                        assert 1 <= len(records) <= size
                        session.take(records)
                        self._check(session)
                        self.start = FromToken(token)
                        self._add(records)
                    case Opened(token=token) | Heartbeat(token=token):
                        self.start = FromToken(token)
                    case StateChanged(state=SubscriptionState.LIVE) if messages is None:
                        return
                    case StateChanged():
                        pass
                    case _:
                        raise AssertionError(item)
                taken += 1
                if taken == messages:
                    return
        raise AssertionError("a stream ended by itself")

    def _add(self, records: Sequence[bytes]) -> None:
        got = Seen(self.seen)
        got.take(records)

    def _check(self, session: Seen) -> None:
        for key, got in session.by_key.items():
            numbers = self.world.committed[key]
            first = numbers.index(got[0])
            assert got == numbers[first : first + len(got)], f"{key} out of order, repeated or with a gap"


@settings(max_examples=60)
@given(
    steps=st.lists(TOPOLOGY, min_size=10, max_size=70),
    partitions=st.integers(1, 4),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    hang_ups=st.lists(st.integers(2, 12), min_size=1, max_size=6),
    ring_bytes=st.sampled_from([1, 3_000, 10**6]),
)
def test_streams_bring_every_change_in_order_while_everything_moves(
    steps: list[Put | Delete | Split | Merge], partitions: int, sizes: list[int], hang_ups: list[int], ring_bytes: int
) -> None:
    async def scenario() -> None:
        world = World(partitions, ring_bytes=ring_bytes)
        stream, killed = Stream(world), asyncio.Event()

        async def consume() -> None:
            for size, messages in cycle(zip(cycle(sizes), hang_ups)):
                await stream.follow(size=size, messages=messages)
                assert not killed.is_set(), "a cancelled stream went on"

        consuming = asyncio.create_task(consume())
        for step in steps:
            world.apply(step)
            for _ in range(3):
                await asyncio.sleep(0)
        killed.set()
        consuming.cancel()
        with suppress(asyncio.CancelledError):
            await consuming
        async with asyncio.timeout(10):
            await stream.follow(size=4)
        assert stream.seen == world.committed
        await world.router.aclose()

    asyncio.run(scenario())
