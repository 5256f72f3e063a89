"""One consumer, unchanged, on every database (SC-3)."""

import copy
import random

import pytest

from changefeed.v1 import change_event_pb2
from changefeed_gateway.core.model import ItemState
from tests.conformance.backend import keeps_order
from tests.conformance.client import after
from tests.conformance.consumer import Store, consume
from tests.conformance.world import World
from tests.docs.pages import DOCS, rows


def check_mirror(world: World, store: Store) -> None:
    """The mirror holds the items of the collection, in their newest content where the feed carries items."""
    if not keeps_order(world.backend):
        # Each change was applied once, which the tests hold as well; a mirror needs their order.
        return
    assert len(store.items) == len(world.journal.items)
    contents = [world.backend.content_of(item) for item in store.items.values() if item is not None]
    if contents or world.backend.item_state is not ItemState.UNAVAILABLE:
        assert sorted(contents) == sorted(world.journal.items.values())


def documented(backend_name: str) -> list[str]:
    """What docs/providers/README.md says that the consumer was answered."""
    (row,) = [row for row in rows(DOCS / "providers" / "README.md") if row[0] == f"`{backend_name}`"]
    return row[1:]


async def answered(world: World, store: Store, first: str) -> list[str]:
    """Where it began, which kinds of changes it was told, with which items, and what became of a deleted item."""
    mirrored = len(store.items)
    await world.delete(min(world.journal.items))
    await consume(world.client, store)
    events = (await world.client.read_all(after(first))).events
    kinds = sorted({event.change_type for event in events})
    states = {event.item_state for event in events} - {change_event_pb2.ITEM_STATE_NOT_APPLICABLE}
    return [
        "the beginning" if await world.can("CHANGE_FEED_BEGINNING") else "now",
        ", ".join(change_event_pb2.ChangeType.Name(kind).removeprefix("CHANGE_TYPE_") for kind in kinds),
        ", ".join(change_event_pb2.ItemState.Name(state).removeprefix("ITEM_STATE_") for state in sorted(states)),
        "gone" if len(store.items) < mirrored else "stays",
    ]


@pytest.mark.req("SC-1", "SC-3", "SC-4", "P1", "P2")
async def test_the_portable_consumer_mirrors_a_collection_and_is_answered_as_the_page_says(
    world: World, backend_name: str
) -> None:
    store = Store()
    await consume(world.client, store)
    first = store.token
    for _ in range(5):
        await world.write(15)
        await consume(world.client, store, size=7)
    check_mirror(world, store)
    assert len(store.applied) == len(world.journal.commits)
    assert await answered(world, store, first) == documented(backend_name)


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
