"""Shows on a real AWS account what no local server can: run it by `make verify-dynamodb`, with credentials.

It makes one table, writes to it, reads its stream through the provider, and deletes the table. It costs a few requests.
"""

import asyncio
import sys
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from changefeed_gateway.core.errors import ChangeFeedError
from changefeed_gateway.core.model import Address, AtTime, Beginning, Now, Page, PageRead, PhysicalPartition, Start
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.providers.dynamodb.provider import DynamoDBOptions, DynamoDBProvider

TABLE = f"changefeed-verify-{uuid.uuid4().hex[:8]}"


async def read(provider: Provider, start: Start, *, wait: float = 0.0) -> Page:
    """A page of the stream's last shard."""
    feed = await provider.open_feed(Address(connection="verify", database="", collection=TABLE))
    shard = (await provider.list_partitions(feed))[-1]
    return await provider.read_page(
        feed,
        PageRead(
            scope=PhysicalPartition(shard.partition_id),
            start=start,
            max_changes=100,
            max_bytes=1_000_000,
            max_item_bytes=1_000_000,
            max_wait=timedelta(seconds=wait),
        ),
    )


async def verify() -> None:
    """Print what was seen; raise what was refused."""
    tables = boto3.client("dynamodb")
    await asyncio.to_thread(
        tables.create_table,
        TableName=TABLE,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    )
    try:
        await asyncio.to_thread(tables.get_waiter("table_exists").wait, TableName=TABLE)
        provider = DynamoDBProvider(DynamoDBOptions(at_timestamp=True))
        before = await read(provider, Now())
        number = "12345678901234567890123456789012345678"
        item: dict[str, Any] = {"id": {"S": "a"}, "n": {"N": number}, "b": {"B": b"\x00\xff"}}
        await asyncio.to_thread(tables.put_item, TableName=TABLE, Item=item)
        starts: dict[str, Start] = {"beginning": Beginning(), "now": Now()}
        for name, start in starts.items():
            page = await read(provider, start, wait=15)
            print(f"{name}: {[(c.change_type.value, c.item) for c in page.changes]}")
        moment = datetime.now(UTC) - timedelta(minutes=1)
        page = await read(provider, AtTime(moment))
        print(f"AT_TIMESTAMP a minute ago: {len(page.changes)} changes (1 expected)")
        print(f"the position of `now` before the write: {before.cursor.hex()}")
        await provider.aclose()
    finally:
        await asyncio.to_thread(tables.delete_table, TableName=TABLE)


def main() -> int:
    try:
        if boto3.Session().get_credentials() is None:
            print("no AWS credentials were found: set a profile or AWS_ACCESS_KEY_ID; nothing was done")
            return 2
        asyncio.run(verify())
    except (BotoCoreError, ClientError, ChangeFeedError) as error:
        print(f"refused: {type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
