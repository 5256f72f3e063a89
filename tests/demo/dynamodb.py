"""DynamoDB Local, the vendor's own, as a stage of the demo."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer

from changefeed_gateway.cli.demo.mirror import Document, parsed
from changefeed_gateway.settings import DynamoDBConnection, Settings
from tests.demo.editors import InMemory, Item
from tests.dynamodb.dynamodb_local import running_dynamodb_local
from tests.dynamodb.sdk import ACCESS_KEY, SECRET_KEY, session

_TABLE = "documents"
_REGION = "eu-test-1"


class DynamoDBLocal(InMemory):
    """In memory: each run begins anew."""

    database = "DynamoDB Local"

    def __init__(self) -> None:
        super().__init__()
        self._client: Any

    @asynccontextmanager
    async def opened(self, settings: Settings) -> AsyncIterator[Settings]:
        """Start it and make the table; it takes any credentials, but some."""
        os.environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        async with running_dynamodb_local() as url:
            self._client = session().client("dynamodb", endpoint_url=url)
            await asyncio.to_thread(self._create)
            connection = DynamoDBConnection(
                provider="dynamodb",
                region=_REGION,
                endpoint_url=url,
                tables=(_TABLE,),
                # To which DynamoDB Local rounds: what a killed gateway knew as now would be later than what follows.
                time_granularity=timedelta(minutes=1),
            )
            yield settings.model_copy(update={"connections": {"main": connection}})

    def _create(self) -> None:
        self._client.create_table(
            TableName=_TABLE,
            KeySchema=[
                {"AttributeName": "workspace", "KeyType": "HASH"},
                {"AttributeName": "id", "KeyType": "RANGE"},
            ],
            AttributeDefinitions=[
                {"AttributeName": "workspace", "AttributeType": "S"},
                {"AttributeName": "id", "AttributeType": "S"},
            ],
            BillingMode="PAY_PER_REQUEST",
            StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        )

    async def put(self, item: Item) -> None:
        """Create or replace an item."""
        content = {name: TypeSerializer().serialize(value) for name, value in item.items()}
        await asyncio.to_thread(self._client.put_item, TableName=_TABLE, Item=content)

    async def delete(self, item: Item) -> None:
        """Delete an item."""
        key = {name: {"S": item[name]} for name in ("workspace", "id")}
        await asyncio.to_thread(self._client.delete_item, TableName=_TABLE, Key=key)

    async def documents(self) -> Mapping[str, Document]:
        """All items, by a scan."""
        return await asyncio.to_thread(self._scan)

    def _scan(self) -> Mapping[str, Document]:
        pages = self._client.get_paginator("scan").paginate(TableName=_TABLE, ConsistentRead=True)
        read = TypeDeserializer().deserialize
        items = [{name: read(value) for name, value in item.items()} for page in pages for item in page["Items"]]
        return {item["id"]: parsed(item) for item in items}
