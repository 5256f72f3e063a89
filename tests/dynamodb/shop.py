"""A table to write to and its stream to read, through the SDK."""

from collections.abc import Iterator, Mapping
from typing import Any

from types_boto3_dynamodb.literals import StreamViewTypeType
from types_boto3_dynamodb.type_defs import StreamSpecificationTypeDef
from types_boto3_dynamodbstreams.literals import ShardIteratorTypeType
from types_boto3_dynamodbstreams.type_defs import GetRecordsOutputTypeDef, RecordTypeDef, ShardTypeDef

from tests.dynamodb.sdk import stream_client, table_client

TABLE = "things"


class Shop:
    """Blocking; the key is `pk`, a text, and `sk`, a number."""

    def __init__(self, url: str, table: str = TABLE) -> None:
        self.tables = table_client(url)
        self.streams = stream_client(url)
        self.table = table

    def create(self, view_type: StreamViewTypeType | None = "NEW_AND_OLD_IMAGES") -> None:
        """Make the table, its stream switched on unless the view type is None."""
        self.tables.create_table(
            TableName=self.table,
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
            AttributeDefinitions=[
                {"AttributeName": "pk", "AttributeType": "S"},
                {"AttributeName": "sk", "AttributeType": "N"},
            ],
            BillingMode="PAY_PER_REQUEST",
        )
        if view_type is not None:
            self.switch(view_type)

    def put(self, partition: str, number: int | str = 1, **attributes: Mapping[str, Any]) -> None:
        """Create or replace an item."""
        self.tables.put_item(TableName=self.table, Item={**key(partition, number), **attributes})

    def delete(self, partition: str, number: int | str = 1) -> None:
        """Delete an item."""
        self.tables.delete_item(TableName=self.table, Key=key(partition, number))

    def switch(self, view_type: StreamViewTypeType | None) -> None:
        """Switch the stream on with a view type, or off with None."""
        specification: StreamSpecificationTypeDef = {"StreamEnabled": view_type is not None}
        if view_type is not None:
            specification["StreamViewType"] = view_type
        self.tables.update_table(TableName=self.table, StreamSpecification=specification)

    @property
    def arn(self) -> str:
        """The latest stream, on or off."""
        return self.tables.describe_table(TableName=self.table)["Table"]["LatestStreamArn"]

    def shards(self, limit: int = 100) -> list[ShardTypeDef]:
        """Every listed shard, from as many pages as it takes."""
        found: list[ShardTypeDef] = []
        start: dict[str, Any] = {}
        while True:
            page = self.streams.describe_stream(StreamArn=self.arn, Limit=limit, **start)["StreamDescription"]
            found += page["Shards"]
            if "LastEvaluatedShardId" not in page:
                return found
            start = {"ExclusiveStartShardId": page["LastEvaluatedShardId"]}

    def iterator(self, shard_id: str, kind: ShardIteratorTypeType = "TRIM_HORIZON", **place: Any) -> str:
        """An iterator of the latest stream."""
        return self.streams.get_shard_iterator(StreamArn=self.arn, ShardId=shard_id, ShardIteratorType=kind, **place)[
            "ShardIterator"
        ]

    def get(self, iterator: str, limit: int = 1000) -> GetRecordsOutputTypeDef:
        """One page."""
        return self.streams.get_records(ShardIterator=iterator, Limit=limit)

    def read(self, iterator: str, limit: int = 1000) -> Iterator[RecordTypeDef]:
        """Records up to the shard's end or an empty page."""
        following: str | None = iterator
        while following is not None:
            page = self.get(following, limit)
            yield from page["Records"]
            following = page.get("NextShardIterator") if page["Records"] else None


def key(partition: str, number: int | str = 1) -> dict[str, Any]:
    """The key of an item."""
    return {"pk": {"S": partition}, "sk": {"N": str(number)}}


def numbers(records: Iterator[RecordTypeDef]) -> list[str]:
    """The sort keys of some records."""
    return [record["dynamodb"]["Keys"]["sk"]["N"] for record in records]
