"""One history for every database: a mirror of a snapshot, killed anywhere, at two gateways in turn, among writers."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence

import pytest

from changefeed.v1 import change_event_pb2, subscribe_pb2
from changefeed_gateway.core.model import ItemState
from tests.conformance.backend import Item
from tests.conformance.client import SNAPSHOT, Client, Event, after
from tests.conformance.consumer import Store, apply
from tests.conformance.world import World
from tests.soak import soak_dice

ITEMS = 24
MOST_WRITES = 120
"""So that a snapshot comes to its end also where each write adds to it."""


class Mirror:
    """A consumer that is killed after each page, or in the middle of a stream, and goes on elsewhere."""

    def __init__(self, clients: Sequence[Client], dice: random.Random) -> None:
        self._clients, self._dice = clients, dice
        self._turns = 0
        self.store = Store()
        self.events: list[Event] = []
        self.whole = self.live = False

    async def step(self) -> None:
        """Some pages' worth, each with its token."""
        self._turns += 1
        client = self._clients[self._turns % len(self._clients)]
        start = after(self.store.token) if self.store.token else SNAPSHOT
        size = self._dice.choice((1, 3, 10))
        if self._dice.random() < 0.5:
            page = await client.read(start, size=size)
            self._take(page.events, page.continuation_token)
            self.whole = self.whole or page.snapshot.finished
            self.live = not page.more_available
            return
        async with client.subscribe(start, size=size) as stream:
            for _ in range(self._dice.randrange(2, 9)):
                message = await stream.next()
                assert message is not None, "nothing ends a stream of an entire collection"
                self._take(message.batch.events, stream.token)
                self.whole = self.whole or message.HasField("snapshot_finished")
                self.live = message.state_changed.state == subscribe_pb2.SUBSCRIPTION_STATE_LIVE
                if self.live:
                    return

    def _take(self, events: Sequence[Event], token: str) -> None:
        self.events += events
        apply(events, token, self.store)


async def write(world: World, stop: asyncio.Event) -> None:
    """Single writes as fast as they go."""
    for _ in range(MOST_WRITES):
        if stop.is_set():
            return
        await world.write(1, partitions=4)
        await asyncio.sleep(0)


def check_that_no_key_goes_back(world: World, events: Sequence[Event]) -> None:
    """What was told of each item, one after the other, is what it was at one moment and then at later ones."""
    histories: dict[Item, list[str | None]] = defaultdict(list)
    for commit in world.journal.commits:
        histories[commit.item].append(commit.content)
    places: dict[Item, int] = defaultdict(int)
    for event in events:
        item = world.backend.item_of(event.key)
        gone = event.change_type == change_event_pb2.CHANGE_TYPE_DELETE or not event.new_item_json
        content = None if gone else world.backend.content_of(event.new_item_json)
        assert content in histories[item][places[item] :], f"{item} was taken back"
        places[item] = histories[item].index(content, places[item])


@pytest.mark.req("BX-6", "CF-12", "P1", "P2", "P4")
async def test_a_mirror_killed_anywhere_at_two_gateways_equals_its_source_and_no_key_goes_back(world: World) -> None:
    if not await world.can("CHANGE_FEED_SNAPSHOT"):
        return
    for number in range(ITEMS):
        await world.put(Item(f"partition {number % 4}", f"item {number // 4}"))
    first = world.client
    await world.serve()
    exact = "SNAPSHOT_CONVERGES" not in {w.code for w in (await first.read(SNAPSHOT, size=1)).warnings}
    mirror, stop = Mirror([first, world.client], soak_dice()), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(write(world, stop))
        while not mirror.whole:
            await mirror.step()
        stop.set()
    mirror.live = False
    while not mirror.live:
        await mirror.step()
    assert len(mirror.store.items) == len(world.journal.items)
    if world.backend.item_state is not ItemState.UNAVAILABLE:
        held = [world.backend.content_of(item or "") for item in mirror.store.items.values()]
        assert sorted(held) == sorted(world.journal.items.values()), "each content was written once"
        # An item that is read with its page is newer than the changes that follow it.
        if exact and world.backend.item_state is ItemState.INCLUDED:
            check_that_no_key_goes_back(world, mirror.events)
