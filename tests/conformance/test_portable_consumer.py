"""One consumer, unchanged, on every database (SC-3)."""

import copy
import random

import pytest

from changefeed_gateway.core.model import ItemState
from tests.conformance.backend import keeps_order
from tests.conformance.consumer import Store, consume
from tests.conformance.world import World


def check_mirror(world: World, store: Store) -> None:
    """The mirror holds the items of the collection, in their newest content where the feed carries items."""
    if not keeps_order(world.backend):
        # Each change was applied once, which the tests hold as well; a mirror needs their order.
        return
    assert len(store.items) == len(world.journal.items)
    contents = [world.backend.content_of(item) for item in store.items.values() if item is not None]
    if contents or world.backend.item_state is not ItemState.UNAVAILABLE:
        assert sorted(contents) == sorted(world.journal.items.values())


@pytest.mark.req("SC-1", "SC-3", "SC-4", "P1", "P2")
async def test_the_portable_consumer_mirrors_a_collection(world: World) -> None:
    store = Store()
    await consume(world.client, store)
    for _ in range(5):
        await world.write(15)
        await consume(world.client, store, size=7)
    check_mirror(world, store)
    assert len(store.applied) == len(world.journal.commits)


@pytest.mark.req("SC-2", "SC-3", "US2.1", "P1")
async def test_the_portable_consumer_survives_its_own_death_and_the_gateways(world: World) -> None:
    dice = random.Random(2)
    store = Store()
    await consume(world.client, store)
    saved = copy.deepcopy(store)
    for _ in range(12):
        await world.write(5)
        await consume(world.client, store, pages=dice.randint(1, 4), size=2)
        match dice.randrange(3):
            case 0:
                saved = copy.deepcopy(store)
            case 1:
                store = copy.deepcopy(saved)
            case _:
                # The token was saved and the work was lost, or the other way round: deduplication by id repairs it.
                store.token = saved.token
                await world.restart()
    await consume(world.client, store, size=3)
    check_mirror(world, store)
    assert len(store.applied) == len(set(store.applied)) == len(world.journal.commits)
