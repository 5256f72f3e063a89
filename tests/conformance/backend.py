"""What the suite asks of a database: an empty collection and hands to change it."""

import random
from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from typing import NamedTuple, Protocol

import pytest

from changefeed.v1 import change_event_pb2
from changefeed_gateway.core.model import Address, CapabilityName, ItemState
from changefeed_gateway.core.provider import Provider


class Item(NamedTuple):
    """An item of the collection: the logical partition it lies in, and its name there."""

    partition: str
    name: str


class Hook(Enum):
    """What only some databases can be made to do on command. Cases that need one run where it is offered."""

    SPLIT = "split"
    MERGE = "merge"
    TRIM = "trim"
    TROUBLE = "trouble"
    FORGET = "forget"
    """A trim takes retired partitions from the list: their database names none that has nothing left."""


class Backend(Protocol):
    """One database with one collection, empty and provisioned after `start`; made anew for every test.

    Every write is one committed transaction and one change.
    """

    hooks: frozenset[Hook]
    provider_id: str
    capabilities: frozenset[CapabilityName]
    """What the documented matrix promises for this collection."""
    item_state: ItemState
    """What GetCapabilities promises: INCLUDED, INCLUDED_CURRENT or UNAVAILABLE."""
    time_granularity: timedelta
    """To which the database rounds a commit time down."""
    largest_content: int
    """Bytes of content that an item may hold."""

    async def start(self) -> None:
        """Make the collection."""
        ...

    async def stop(self) -> None:
        """Remove everything."""
        ...

    async def connect(self) -> Provider:
        """A new provider, as a gateway that starts would make it. The suite closes it."""
        ...

    def address(self, connection: str) -> Address:
        """The collection, by the name that the gateway gives to the connection."""
        ...

    def unprovisioned(self, connection: str) -> Address | None:
        """A collection that exists and captures no changes; None where every one captures them."""
        ...

    async def neighbour(self, connection: str) -> Address:
        """Make another collection that captures changes, of the same database."""
        ...

    async def put(self, item: Item, content: str) -> None:
        """Create or replace an item; the content differs from the one before."""
        ...

    async def delete(self, item: Item) -> None:
        """Delete an item that exists."""
        ...

    async def recreate(self) -> None:
        """Drop the collection and make it again under the same name, empty."""
        ...

    def item_of(self, key: change_event_pb2.Key) -> Item:
        """Which item a key names."""
        ...

    def content_of(self, item_json: str) -> str:
        """The content in the JSON text of an item."""
        ...

    async def split(self, partition_id: str) -> None:
        """Split an active physical partition (Hook.SPLIT)."""
        ...

    async def merge(self, first: str, second: str) -> None:
        """Merge the two partitions that one split brought (Hook.MERGE)."""
        ...

    async def trim(self) -> timedelta:
        """Forget all history so far (Hook.TRIM).

        Answers by how much it was dated back for that: where history ages by the clock, a time before it did too.
        """
        ...

    async def trouble(self, dice: random.Random) -> None:
        """Throttle, refuse or cut off some of what gateways ask next, and nobody else (Hook.TROUBLE). It passes."""
        ...


def keeps_order(backend: Backend) -> bool:
    """Whether all changes of a key come in order.

    Not on Spanner's emulator while its partitions churn: it gives keys to whichever partitions are alive, so that a
    key's next partition need not descend from its last one. Order holds within each partition there.
    """
    return not getattr(backend, "moves_keys", False)


class BackendKind(NamedTuple):
    """An entry of the registry."""

    hooks: frozenset[Hook]
    make: Callable[[pytest.FixtureRequest], Backend]
    """Makes a backend; may ask for session fixtures, such as a running server."""
