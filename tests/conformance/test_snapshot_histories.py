"""Snapshots beside a writer, on every database: whoever is killed, throttled or cut off, the mirror becomes its source
and, where that is promised, no item of it ever goes back.
"""

import asyncio
import copy
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import pytest

from changefeed.v1 import change_event_pb2, partition_pb2, subscribe_pb2
from changefeed_gateway.core.model import ItemState
from tests.conformance.backend import Hook, Item, keeps_order
from tests.conformance.client import SNAPSHOT, Client, Event, Refusal, Start, after, wire_address
from tests.conformance.test_snapshots import CAPABILITY, is_exact
from tests.conformance.world import CONNECTION, World
from tests.soak import SOAKING, soak_dice

ITEMS = [Item(f"partition {number % 5}", f"item {number}") for number in range(60)]
MOST_WRITES = 150
ROUNDS = 20 if SOAKING else 1


@dataclass
class Mirror:
    """What a consumer keeps: its place and its items are saved together."""

    token: str = ""
    items: dict[Item, str | None] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    told: dict[Item, list[str | None]] = field(default_factory=lambda: defaultdict(list))
    """Every content of each item, in the order in which it came; None is a delete."""
    finished: bool = False

    def take(self, world: World, event: Event) -> None:
        """Apply an event, unless its id is known."""
        if event.event_id in self.seen:
            return
        self.seen.add(event.event_id)
        item = world.backend.item_of(event.key)
        gone = event.change_type == change_event_pb2.CHANGE_TYPE_DELETE
        if gone or event.item_state == change_event_pb2.ITEM_STATE_NOT_APPLICABLE:
            self.items.pop(item, None)
            self.told[item].append(None)
        else:
            content = world.backend.content_of(event.new_item_json) if event.new_item_json else None
            self.items[item] = content
            self.told[item].append(content)


class Consumer:
    """Reads each page, and some messages of each stream, by one of two gateways, and dies now and then."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self.mirror = Mirror()
        self._saved = copy.deepcopy(self.mirror)
        self._world, self._dice = world, dice
        self._gateways = [world.gateway]

    async def begin(self) -> None:
        self._gateways.append(await self._world.serve())

    async def step(self, *, accidents: bool = True) -> bool:
        """Take a page or a part of a stream; tell whether there may be more."""
        gateway = self._dice.choice(self._gateways)
        client = Client(gateway.stub, wire_address(self._world.backend.address(CONNECTION)))
        before = self.mirror.token
        start, size = after(before) if before else SNAPSHOT, self._dice.choice((1, 2, 2, 3, 5))
        # Only a page says that nothing more was there when it was asked for.
        streams = accidents and self._dice.random() < 0.4
        more = True
        with passing():
            more = await (self._take_stream if streams else self._take_page)(client, start, size)
        match self._dice.randrange(8) if accidents else None:
            case 0:
                # Everything since the last save is lost.
                self.mirror = copy.deepcopy(self._saved)
            case 1 if before:
                # The items were saved, and the place was not.
                self.mirror.token = before
            case 2:
                await self._world.restart()
                self._gateways[-1] = self._world.gateway
            case _:
                self._saved = copy.deepcopy(self.mirror)
        return more

    async def _take_page(self, client: Client, start: Start, size: int) -> bool:
        page = await client.read(start, size=size)
        self._take(page.events, page.continuation_token, finished=page.snapshot.finished)
        return page.more_available

    async def _take_stream(self, client: Client, start: Start, size: int) -> bool:
        async with client.subscribe(start, size=size) as stream:
            for _ in range(self._dice.randrange(2, 9)):
                message = await stream.next()
                assert message is not None, "nothing ends a stream of an entire collection"
                finished = message.HasField("snapshot_finished")
                self._take(message.batch.events, stream.token, finished=finished)
                if message.state_changed.state == subscribe_pb2.SUBSCRIPTION_STATE_LIVE:
                    break
        return True

    def _take(self, events: Iterable[Event], token: str, *, finished: bool) -> None:
        for event in events:
            self.mirror.take(self._world, event)
        self.mirror.token = token
        self.mirror.finished = self.mirror.finished or finished


async def write(world: World, dice: random.Random, stop: asyncio.Event) -> None:
    """Put and delete at random, each a transaction of its own, until told to stop.

    Not for ever: a reader of so small pages need not keep up with a writer (docs/snapshots.md).
    """
    for _ in range(MOST_WRITES):
        if stop.is_set():
            return
        item = dice.choice(ITEMS)
        if world.can_delete and item in world.journal.items and dice.random() < 0.3:
            await world.delete(item)
        else:
            await world.put(item)
        for _ in range(dice.randrange(40)):
            await asyncio.sleep(0)  # others take their turns


@contextmanager
def passing() -> Iterator[None]:
    """Bear what trouble of the database may end a call with."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        refusal = Refusal.of_error(error)
        assert refusal.category in ("THROTTLED", "TRANSIENT_FAILURE"), refusal
        assert refusal.retry_delay, refusal


async def disturb(world: World, dice: random.Random) -> None:
    """Split a partition, or let some questions fail, where the database can be made to."""
    if Hook.SPLIT in world.backend.hooks and dice.random() < 0.2:
        with passing():
            listed = await world.client.partitions()
            active = [each.partition_id for each in listed if each.state == partition_pb2.PARTITION_STATE_ACTIVE]
            if len(active) < 8:
                await world.backend.split(dice.choice(active))
    if Hook.TROUBLE in world.backend.hooks and dice.random() < 0.4:
        await world.backend.trouble(dice)


def versions(world: World, item: Item) -> list[str | None]:
    return [commit.content for commit in world.journal.commits if commit.item == item]


def check_never_back(told: Sequence[str | None], history: Sequence[str | None]) -> None:
    """Whatever is told of an item is no older than what was told of it before."""
    place = 0
    for content in told:
        assert content in history[place:], "an item was taken back"
        place = history.index(content, place)


def check(world: World, mirror: Mirror, *, exact: bool) -> None:
    """Hold a mirror that has come to the end against its source."""
    items_told = world.backend.item_state is not ItemState.UNAVAILABLE
    if not keeps_order(world.backend):
        # A mirror needs the order of each item; that nothing is missing does not.
        assert all(content in mirror.told[item] for item, content in world.journal.items.items())
        return
    assert mirror.items.keys() == world.journal.items.keys()
    if items_told:
        assert mirror.items == world.journal.items
    # An item that is read with its page is newer than the changes that follow it.
    if exact and world.backend.item_state is ItemState.INCLUDED:
        for item, told in mirror.told.items():
            check_never_back(told, versions(world, item))


@pytest.mark.req("CF-12", "BX-6", "P1", "P2", "P3", "P4")
async def test_a_mirror_from_a_snapshot_beside_a_writer_becomes_its_source(world: World) -> None:
    if not await world.can(CAPABILITY):
        return
    exact, dice = await is_exact(world), soak_dice()
    for item in ITEMS[::2]:
        await world.put(item)
    for _ in range(ROUNDS):
        consumer, stop = Consumer(world, dice), asyncio.Event()
        await consumer.begin()
        writer = asyncio.create_task(write(world, dice, stop))
        try:
            while not consumer.mirror.finished:
                await consumer.step()
                await disturb(world, dice)
        finally:
            stop.set()
            await writer
        while await consumer.step(accidents=False):
            pass
        check(world, consumer.mirror, exact=exact)
