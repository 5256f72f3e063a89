"""Examines the tables of a connection: is there a stream, what does it carry, and may the gateway read it?"""

from collections.abc import AsyncIterator
from typing import Final

from changefeed_gateway.core.errors import ChangeFeedError, FeedNotProvisioned, NotFound, ProviderAuthorizationFailed
from changefeed_gateway.core.finding import Finding
from changefeed_gateway.core.model import ItemState
from changefeed_gateway.core.provider import Examination
from changefeed_gateway.providers.dynamodb.errors import ShardGone, StreamGone
from changefeed_gateway.providers.dynamodb.provider import DynamoDBOptions
from changefeed_gateway.providers.dynamodb.sdk import Sdk
from changefeed_gateway.providers.dynamodb.shards import list_shards
from changefeed_gateway.providers.dynamodb.table import Stream, find_stream

_ALLOW: Final = (
    "allow dynamodb:DescribeTable (and dynamodb:Scan, for snapshots) on the table, and dynamodb:DescribeStream,"
    " dynamodb:GetShardIterator and dynamodb:GetRecords on its stream"
)


async def examine(options: DynamoDBOptions) -> Examination:
    """Look at credentials and region, then at each table of the settings."""
    sdk = Sdk(options.endpoint, options.retries, max_calls=1)
    try:
        try:
            await sdk.connect()
        except ChangeFeedError as error:
            yield _wrong("credentials", error, "check region, profile and role_arn, and the AWS configuration files")
            return
        yield Finding(subject="region", healthy=True, detail=sdk.region)
        if not options.tables:
            detail = "none is named: doctor looks at those under tables"
            yield Finding(subject="tables", healthy=True, detail=detail)
        for table in sorted(options.tables):
            async for finding in _examine(sdk, table):
                yield finding
    finally:
        sdk.close()


async def _examine(sdk: Sdk, table: str) -> AsyncIterator[Finding]:
    try:
        stream = await find_stream(sdk, table)
    except NotFound as error:
        yield _wrong(f"table {table}", error, "check its name, the region and the account")
    except FeedNotProvisioned as error:
        yield _wrong(f"stream of {table}", error, "switch the stream on: changes made before are not in it")
    except ChangeFeedError as error:
        yield _wrong(f"table {table}", error, _remedy(error))
    else:
        yield _view_type(table, stream)
        yield await _readable(sdk, table, stream)


def _view_type(table: str, stream: Stream) -> Finding:
    with_items = stream.item_state is ItemState.INCLUDED
    return Finding(
        subject=f"items of {table}",
        healthy=with_items,
        detail=f"the stream's view type is {stream.view_type}",
        remedy=""
        if with_items
        else "changes carry keys only; for items switch the stream off and on with NEW_IMAGE or NEW_AND_OLD_IMAGES,"
        " which makes a new stream and ends every token",
    )


async def _readable(sdk: Sdk, table: str, stream: Stream) -> Finding:
    """Make each call that a reader makes, once."""
    subject = f"stream of {table}"
    try:
        listing = await list_shards(sdk, stream.arn)
        for shard in listing.shards[-1:]:
            iterator = await sdk.call(
                "GetShardIterator", StreamArn=stream.arn, ShardId=shard.shard_id, ShardIteratorType="LATEST"
            )
            await sdk.call("GetRecords", ShardIterator=iterator.body, Limit=1)
    except ChangeFeedError as error:
        return _wrong(subject, error, _remedy(error))
    except (StreamGone, ShardGone):
        return Finding(subject=subject, healthy=False, detail="it changed meanwhile", remedy="run doctor again")
    return Finding(subject=subject, healthy=True, detail=f"{len(listing.shards)} shards, readable")


def _remedy(error: ChangeFeedError) -> str:
    return _ALLOW if isinstance(error, ProviderAuthorizationFailed) else "see the message"


def _wrong(subject: str, error: ChangeFeedError, remedy: str) -> Finding:
    return Finding(subject=subject, healthy=False, detail=str(error), remedy=remedy)
