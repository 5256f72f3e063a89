"""One history for every database: a mirror of a snapshot, killed anywhere, at two gateways in turn, among writers.

The gateways die too, places are lost, and partitions split meanwhile, where the database can be made to.
"""

import asyncio
import copy
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from changefeed.v1 import change_event_pb2, partition_pb2, subscribe_pb2
from changefeed_gateway.core.model import ItemState
from tests.conformance.backend import Hook, Item, keeps_order
from tests.conformance.client import SNAPSHOT, Client, Event, after
from tests.conformance.consumer import Store, apply
from tests.conformance.test_snapshots import is_exact
from tests.conformance.world import World
from tests.soak import soak_dice

ITEMS = 24
MOST_WRITES = 120
"""So that a snapshot comes to its end also where each write adds to it."""
MOST_PARTITIONS = 8


@dataclass
class Kept:
    """What a consumer keeps, written together."""

    store: Store = field(default_factory=Store)
    told: list[Event] = field(default_factory=list)
    """Each event that was applied."""
    whole: bool = False

    def take(self, events: Sequence[Event], token: str) -> None:
        """Apply events, each id once, with the token behind them."""
        self.told += [event for event in events if event.event_id not in self.store.seen]
        apply(events, token, self.store)


class Mirror:
    """A consumer that is killed after each page, or in the middle of a stream, and goes on elsewhere."""

    def __init__(self, world: World, clients: Sequence[Client], dice: random.Random) -> None:
        self._world, self._clients, self._dice = world, list(clients), dice
        self._turns = 0
        self.kept = Kept()
        self._saved = copy.deepcopy(self.kept)
        self.live = False

    async def step(self) -> None:
        """Some pages' worth, each with its token."""
        self._turns += 1
        client = self._clients[self._turns % len(self._clients)]
        token = self.kept.store.token
        start = after(token) if token else SNAPSHOT
        size = self._dice.choice((1, 3, 10))
        if self._dice.random() < 0.5:
            page = await client.read(start, size=size)
            self.kept.take(page.events, page.continuation_token)
            self.kept.whole = self.kept.whole or page.snapshot.finished
            self.live = not page.more_available
            return
        async with client.subscribe(start, size=size) as stream:
            for _ in range(self._dice.randrange(2, 9)):
                message = await stream.next()
                assert message is not None, "nothing ends a stream of an entire collection"
                self.kept.take(message.batch.events, stream.token)
                self.kept.whole = self.kept.whole or message.HasField("snapshot_finished")
                self.live = message.state_changed.state == subscribe_pb2.SUBSCRIPTION_STATE_LIVE
                if self.live:
                    return

    async def suffer(self) -> None:
        """Whatever befalls a consumer between two steps."""
        match self._dice.randrange(10):
            case 0:
                # What came since the last save is lost.
                self.kept = copy.deepcopy(self._saved)
            case 1 if self._saved.store.token:
                # The items were saved, and the place was not.
                self.kept.store.token = self._saved.store.token
            case 2:
                await self._world.restart()
                self._clients[-1] = self._world.client
            case 3:
                await self._split()
            case _:
                self._saved = copy.deepcopy(self.kept)

    async def _split(self) -> None:
        if Hook.SPLIT not in self._world.backend.hooks:
            return
        listed = await self._world.client.partitions()
        active = [each.partition_id for each in listed if each.state == partition_pb2.PARTITION_STATE_ACTIVE]
        if len(active) < MOST_PARTITIONS:
            await self._world.backend.split(self._dice.choice(active))


async def write(world: World, stop: asyncio.Event) -> None:
    """Single writes as fast as they go."""
    for _ in range(MOST_WRITES):
        if stop.is_set():
            return
        await world.write(1, partitions=4)
        await asyncio.sleep(0)


def content_of(world: World, event: Event) -> str | None:
    gone = event.change_type == change_event_pb2.CHANGE_TYPE_DELETE or not event.new_item_json
    return None if gone else world.backend.content_of(event.new_item_json)


def check_that_no_key_goes_back(world: World, events: Sequence[Event]) -> None:
    """What was told of each item, one after the other, is what it was at one moment and then at later ones."""
    histories: dict[Item, list[str | None]] = defaultdict(list)
    for commit in world.journal.commits:
        histories[commit.item].append(commit.content)
    places: dict[Item, int] = defaultdict(int)
    for event in events:
        item, content = world.backend.item_of(event.key), content_of(world, event)
        assert content in histories[item][places[item] :], f"{item} was taken back"
        places[item] = histories[item].index(content, places[item])


def check(world: World, kept: Kept, *, exact: bool) -> None:
    """Hold a mirror that has come to the end against its source."""
    if not keeps_order(world.backend):
        # A mirror needs the order of each item; that nothing is missing does not.
        told = {(world.backend.item_of(event.key), content_of(world, event)) for event in kept.told}
        assert set(world.journal.items.items()) <= told
        return
    assert len(kept.store.items) == len(world.journal.items)
    if world.backend.item_state is not ItemState.UNAVAILABLE:
        held = [world.backend.content_of(item or "") for item in kept.store.items.values()]
        assert sorted(held) == sorted(world.journal.items.values()), "each content was written once"
        # An item that is read with its page is newer than the changes that follow it.
        if exact and world.backend.item_state is ItemState.INCLUDED:
            check_that_no_key_goes_back(world, kept.told)


@pytest.mark.req("BX-6", "CF-12", "P1", "P2", "P3", "P4")
async def test_a_mirror_killed_anywhere_at_two_gateways_equals_its_source_and_no_key_goes_back(world: World) -> None:
    if not await world.can("CHANGE_FEED_SNAPSHOT"):
        return
    for number in range(ITEMS):
        await world.put(Item(f"partition {number % 4}", f"item {number // 4}"))
    first, exact = world.client, await is_exact(world)
    await world.serve()
    mirror, stop = Mirror(world, [first, world.client], soak_dice()), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(write(world, stop))
        while not mirror.kept.whole:
            await mirror.step()
            await mirror.suffer()
        stop.set()
    mirror.live = False
    while not mirror.live:
        await mirror.step()
    check(world, mirror.kept, exact=exact)
