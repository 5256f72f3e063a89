"""Azure Cosmos DB as a backend, in both modes: a wire-level server of the test's own."""

import json
import random
from datetime import timedelta
from urllib.parse import quote, unquote

from changefeed.v1 import change_event_pb2
from changefeed_gateway.core.model import Address, CapabilityName, ItemState
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.providers.cosmos.cursor import Mode
from tests.conformance.backend import Hook, Item
from tests.cosmos.gateway import make_provider
from tests.cosmos.server.behaviour import Behaviour
from tests.cosmos.server.errors import throttled, unavailable
from tests.cosmos.server.faults import Kind
from tests.cosmos.server.wire import WireServer


class CosmosBackend:
    """Containers with the partition key `/partition`; ids have no characters that the service forbids."""

    hooks = frozenset({Hook.SPLIT, Hook.TRIM, Hook.TROUBLE})
    provider_id = "cosmos"
    capabilities = frozenset(CapabilityName) - {CapabilityName.BEGINNING, CapabilityName.POINT_IN_TIME}
    item_state = ItemState.INCLUDED
    time_granularity = timedelta(seconds=1)
    largest_content = 1_900_000
    mode = Mode.ALL_VERSIONS_AND_DELETES

    def __init__(self) -> None:
        self._server = WireServer(Behaviour(ranges=3))

    async def start(self) -> None:
        self._server.__enter__()
        # Its clock stays behind the gateway's, for which no commit time may lie in the future.
        self._server.pass_time(-timedelta(seconds=2))
        self._server.create_container("things", "/partition")

    async def stop(self) -> None:
        self._server.__exit__(None, None, None)

    async def connect(self) -> Provider:
        provider = make_provider(self._server, mode=self.mode)
        await provider.start()
        return provider

    def address(self, connection: str) -> Address:
        return Address(connection=connection, database="", collection="things")

    def unprovisioned(self, connection: str) -> Address | None:
        self._server.behaviour.all_versions_and_deletes = False
        return self.address(connection)

    async def neighbour(self, connection: str) -> Address:
        self._server.create_container("neighbours", "/partition")
        return Address(connection=connection, database="", collection="neighbours")

    async def put(self, item: Item, content: str) -> None:
        self._server.upsert(
            "things", {"id": _id(item), "partition": item.partition, "name": item.name, "content": content}
        )

    async def delete(self, item: Item) -> None:
        self._server.delete("things", _id(item), item.partition)

    async def recreate(self) -> None:
        self._server.recreate_container("things")

    def item_of(self, key: change_event_pb2.Key) -> Item:
        partition, item_id = key.components
        return Item(partition.value, unquote(item_id.value))

    def content_of(self, item_json: str) -> str:
        return str(json.loads(item_json)["content"])

    async def split(self, partition_id: str) -> None:
        self._server.split("things", partition_id)

    async def merge(self, first: str, second: str) -> None:
        raise NotImplementedError("AllVersionsAndDeletes cannot be read across a merge, and LatestVersion tells none")

    async def trim(self) -> timedelta:
        self._server.trim("things")
        return timedelta(0)

    async def trouble(self, dice: random.Random) -> None:
        operation = dice.choice(("ReadChangeFeed", "ReadChangeFeed", "ReadContainer", "ReadPartitionKeyRanges"))
        times = dice.choice((1, 2, 8))
        match dice.randrange(3):
            case 0:
                self._server.fail(operation, throttled(10), times=times)
            case 1:
                self._server.fail(operation, unavailable(), times=times)
            case _:
                self._server.drop(operation, times=times, kind=dice.choice((Kind.DROP, Kind.CUT)))


class LatestVersionBackend(CosmosBackend):
    """What the settings have to ask for: no deletes, no creates, versions conflated, and nothing is ever forgotten."""

    hooks = frozenset({Hook.SPLIT, Hook.TROUBLE})
    capabilities = frozenset(CapabilityName) - {CapabilityName.DELETES}
    mode = Mode.LATEST_VERSION

    def unprovisioned(self, connection: str) -> Address | None:
        return None


def _id(item: Item) -> str:
    return quote(item.name, safe=" ")
