"""DynamoDB Local answers unmodified boto3."""

import asyncio

from tests.dynamodb.sdk import stream_client, table_client


async def test_the_local_server_has_tables_and_streams(dynamodb_local: str) -> None:
    def write_and_look() -> int:
        tables, streams = table_client(dynamodb_local), stream_client(dynamodb_local)
        created = tables.create_table(
            TableName="smoke",
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
            StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
        )
        arn = created["TableDescription"]["LatestStreamArn"]
        tables.put_item(TableName="smoke", Item={"pk": {"S": "a"}})
        [shard] = streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]
        iterator = streams.get_shard_iterator(
            StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        return len(streams.get_records(ShardIterator=iterator)["Records"])

    assert await asyncio.to_thread(write_and_look) == 1
