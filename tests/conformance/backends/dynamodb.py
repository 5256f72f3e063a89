"""DynamoDB as a backend: the vendor's local server, and the wire-level server that splits and trims."""

import asyncio
import itertools
import json
import random
from datetime import timedelta

from types_boto3_dynamodb.literals import StreamViewTypeType
from types_boto3_dynamodb.type_defs import AttributeValueTypeDef, StreamSpecificationTypeDef

from changefeed.v1 import change_event_pb2
from changefeed_gateway.core.model import Address, CapabilityName, ItemState
from changefeed_gateway.core.provider import Provider
from tests.conformance.backend import Hook, Item
from tests.dynamodb.gateway import make_provider
from tests.dynamodb.sdk import table_client
from tests.dynamodb.server.behaviour import Behaviour
from tests.dynamodb.server.errors import internal, throttled
from tests.dynamodb.server.wire import WireServer

BETWEEN_WRITES = timedelta(seconds=2)
"""By the wire-level server's clock: a trim then tells a position behind a change from one before it."""

_MISSING = {
    CapabilityName.LOGICAL_PARTITION_SCOPE,
    CapabilityName.SNAPSHOT_PHYSICAL_PARTITION_SCOPE,
    CapabilityName.SNAPSHOT_LOGICAL_PARTITION_SCOPE,
}
_NUMBERS = itertools.count(1)


class _DynamoBackend:
    """Tables with the key `partition`, `name`; the content is a text."""

    hooks: frozenset[Hook] = frozenset()
    provider_id = "dynamodb"
    capabilities = frozenset(CapabilityName) - {
        CapabilityName.POINT_IN_TIME,
        *_MISSING,
    }
    item_state = ItemState.INCLUDED
    largest_content = 390_000
    view_type: StreamViewTypeType = "NEW_AND_OLD_IMAGES"
    at_timestamp = False
    time_granularity = timedelta(seconds=1)

    def __init__(self, url: str) -> None:
        self._url = url
        self._number = next(_NUMBERS)
        self._created: set[str] = set()

    async def start(self) -> None:
        self._tables = table_client(self._url)
        await self._create(self._name("things"))
        await self._create(self._name("silent"), stream=False)

    async def stop(self) -> None:
        for name in self._created:
            await asyncio.to_thread(self._tables.delete_table, TableName=name)

    async def connect(self) -> Provider:
        provider = make_provider(self._url, at_timestamp=self.at_timestamp, time_granularity=self.time_granularity)
        await provider.start()
        return provider

    def address(self, connection: str) -> Address:
        return Address(connection=connection, database="", collection=self._name("things"))

    def unprovisioned(self, connection: str) -> Address:
        return Address(connection=connection, database="", collection=self._name("silent"))

    async def neighbour(self, connection: str) -> Address:
        await self._create(self._name("neighbours"))
        return Address(connection=connection, database="", collection=self._name("neighbours"))

    async def put(self, item: Item, content: str) -> None:
        await asyncio.to_thread(
            self._tables.put_item,
            TableName=self._name("things"),
            Item={**_key(item), "content": {"S": content}},
        )

    async def delete(self, item: Item) -> None:
        await asyncio.to_thread(self._tables.delete_item, TableName=self._name("things"), Key=_key(item))

    async def recreate(self) -> None:
        await asyncio.to_thread(self._tables.delete_table, TableName=self._name("things"))
        await self._create(self._name("things"))

    def item_of(self, key: change_event_pb2.Key) -> Item:
        partition, name = key.components
        return Item(partition.value, name.value)

    def content_of(self, item_json: str) -> str:
        return str(json.loads(item_json)["content"])

    async def split(self, partition_id: str) -> None:
        raise NotImplementedError("DynamoDB Local never splits a shard")

    async def merge(self, first: str, second: str) -> None:
        raise NotImplementedError("DynamoDB never merges shards")

    async def trim(self) -> timedelta:
        raise NotImplementedError("DynamoDB Local cannot be made to trim")

    async def trouble(self, dice: random.Random) -> None:
        raise NotImplementedError("DynamoDB Local cannot be made to refuse")

    async def _create(self, name: str, *, stream: bool = True) -> None:
        specification: StreamSpecificationTypeDef = {"StreamEnabled": stream}
        if stream:
            specification["StreamViewType"] = self.view_type
        await asyncio.to_thread(
            self._tables.create_table,
            TableName=name,
            KeySchema=[
                {"AttributeName": "partition", "KeyType": "HASH"},
                {"AttributeName": "name", "KeyType": "RANGE"},
            ],
            AttributeDefinitions=[
                {"AttributeName": "partition", "AttributeType": "S"},
                {"AttributeName": "name", "AttributeType": "S"},
            ],
            BillingMode="PAY_PER_REQUEST",
            StreamSpecification=specification,
        )
        self._created.add(name)

    def _name(self, what: str) -> str:
        return f"{what}_{self._number}"


class LocalBackend(_DynamoBackend):
    """DynamoDB Local: one for all tests of a process, tables of its own for each test."""

    time_granularity = timedelta(minutes=1)


class WireBackend(_DynamoBackend):
    """A wire-level server of the test's own, where time passes with every write."""

    hooks = frozenset({Hook.SPLIT, Hook.TRIM, Hook.FORGET, Hook.TROUBLE})
    capabilities = frozenset(CapabilityName) - _MISSING
    at_timestamp = True

    def __init__(self) -> None:
        self._server = WireServer(Behaviour(shards=3))
        super().__init__("")

    async def start(self) -> None:
        self._server.__enter__()
        self._url = self._server.url
        # Its clock stays behind the gateway's, for which no commit time may lie in the future.
        self._server.pass_time(-timedelta(seconds=50))
        await super().start()

    async def stop(self) -> None:
        self._server.__exit__(None, None, None)

    async def put(self, item: Item, content: str) -> None:
        await super().put(item, content)
        self._server.pass_time(BETWEEN_WRITES)

    async def delete(self, item: Item) -> None:
        await super().delete(item)
        self._server.pass_time(BETWEEN_WRITES)

    async def split(self, partition_id: str) -> None:
        self._server.split(partition_id)

    async def trim(self) -> timedelta:
        self._server.trim()
        return timedelta(0)

    async def trouble(self, dice: random.Random) -> None:
        operation = dice.choice(("Scan", "DescribeTable", "DescribeStream", "GetShardIterator", "GetRecords"))
        times = dice.choice((1, 2, 8))
        match dice.randrange(3):
            case 0:
                self._server.fail(operation, throttled(), times=times)
            case 1:
                self._server.fail(operation, internal(), times=times)
            case _:
                self._server.drop(operation, times=times, in_the_middle=dice.random() < 0.5)


def _key(item: Item) -> dict[str, AttributeValueTypeDef]:
    return {"partition": {"S": item.partition}, "name": {"S": item.name}}
