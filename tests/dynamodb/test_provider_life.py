"""What a provider keeps, what it does when it closes, and how it answers for its health."""

import asyncio
import gc
from collections.abc import AsyncIterator
from datetime import timedelta

import grpc
import pytest
from botocore.exceptions import NoCredentialsError

from changefeed_gateway.core.errors import (
    ChangeFeedError,
    NotFound,
    ProviderAuthenticationFailed,
    Reason,
    TransientFailure,
)
from changefeed_gateway.core.model import Address, Beginning, Feed, Now, Page, PageRead, PartitionId, PhysicalPartition
from changefeed_gateway.providers.dynamodb.provider import DynamoDBProvider
from changefeed_gateway.providers.dynamodb.reading import ShardReader
from changefeed_gateway.providers.dynamodb.sdk import Endpoint, Retries, Sdk
from tests.conformance.client import BEGINNING, physical, refused
from tests.dynamodb.gateway import make_provider
from tests.dynamodb.scene import Scene
from tests.dynamodb.server.errors import throttled
from tests.dynamodb.server.wire import WireServer
from tests.dynamodb.shop import TABLE, Shop
from tests.faults import ALWAYS

ADDRESS = Address(connection="subject", database="", collection=TABLE)


@pytest.fixture
def table(server: WireServer) -> WireServer:
    """A server with a table whose stream is on."""
    Shop(server.url).create()
    return server


@pytest.fixture
async def provider(table: WireServer) -> AsyncIterator[DynamoDBProvider]:
    provider = make_provider(table.url, tables=frozenset([TABLE]))
    yield provider
    await provider.aclose()


def read_shard(provider: DynamoDBProvider, feed: Feed, shard: str, start: Beginning | Now) -> asyncio.Task[Page]:
    """Begin to read a shard."""
    scope = PhysicalPartition(PartitionId(shard))
    read = PageRead(scope=scope, start=start, max_changes=10, max_bytes=10**6, max_item_bytes=10**6)
    return asyncio.create_task(provider.read_page(feed, read))


# --- Made-up shards


def readers() -> int:
    """How many are in memory: one of the shard that exists, and those that the last errors lead to."""
    gc.collect()
    return sum(isinstance(found, ShardReader) for found in gc.get_objects())


@pytest.mark.req("P7")
async def test_shards_that_nobody_has_seen_leave_nothing_behind(scene: Scene) -> None:
    await scene.client.read(BEGINNING, scope=physical(scene.shard))
    for number in range(20):
        shard = f"shardId-{number:020d}-abcdef12"
        await refused(
            scene.client.read(BEGINNING, scope=physical(shard)),
            "NOT_FOUND",
            "PARTITION_NOT_FOUND",
            grpc.StatusCode.NOT_FOUND,
        )
    assert readers() < 5


@pytest.mark.req("P7")
async def test_shards_that_nobody_has_seen_leave_nothing_behind_when_the_service_is_throttled(
    provider: DynamoDBProvider, table: WireServer
) -> None:
    feed = await provider.open_feed(ADDRESS)
    # The loop is the session's: what other tests keep running there has nothing to do with this.
    before = asyncio.all_tasks()
    table.fail("GetShardIterator", throttled(), times=ALWAYS)
    reads = [read_shard(provider, feed, f"shardId-{number:020d}-abcdef12", Beginning()) for number in range(20)]
    # Some go away before they are told.
    for read in reads[::2]:
        read.cancel()
    await asyncio.gather(*reads, return_exceptions=True)
    del reads, read
    table.clear_faults()
    with pytest.raises(NotFound):
        await read_shard(provider, feed, f"shardId-{99:020d}-abcdef12", Now())
    # What was asked for those who went away is answered all the same.
    if own := asyncio.all_tasks() - before:
        await asyncio.wait(own)
    assert readers() < 5


# --- Closing


async def test_who_waits_when_the_provider_closes_is_told_so_and_not_cancelled(
    provider: DynamoDBProvider, table: WireServer
) -> None:
    feed = await provider.open_feed(ADDRESS)
    [shard] = table.open_shards(TABLE)
    table.stall("GetRecords")
    under_way = [read_shard(provider, feed, shard, Beginning()) for _ in range(2)]
    await asyncio.to_thread(table.calls.wait_for, "GetRecords", 1)
    to_come = [read_shard(provider, feed, shard, Now()) for _ in range(2)]
    await asyncio.sleep(0)
    await provider.aclose()
    for read in (*under_way, *to_come):
        with pytest.raises(TransientFailure, match="closing") as found:
            await read
        assert (found.value.reason, found.value.retry_after) == (Reason.DRAINING.value, timedelta(seconds=1))
    table.clear_faults()


async def test_a_call_that_waits_for_a_thread_when_the_provider_closes_is_told_so_and_not_cancelled(
    table: WireServer,
) -> None:
    provider = make_provider(table.url, max_calls=1)
    await provider.open_feed(ADDRESS)
    table.stall("DescribeTable")
    opening = [asyncio.create_task(provider.open_feed(ADDRESS)) for _ in range(3)]
    await asyncio.to_thread(table.calls.wait_for, "DescribeTable", 2)
    await provider.aclose()
    table.clear_faults()
    answers = await asyncio.gather(*opening, return_exceptions=True)
    assert sum(isinstance(answer, TransientFailure) for answer in answers) == 2
    with pytest.raises(TransientFailure, match="closing"):
        await provider.ping()


# --- Credentials


async def test_who_connects_while_there_are_no_credentials_is_told_with_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Looking for them takes seconds where there are none, as of an instance that has no role."""
    looks = 0

    def look(sdk: Sdk) -> None:
        nonlocal looks
        looks += 1
        raise NoCredentialsError

    monkeypatch.setattr(Sdk, "_make_clients", look)
    sdk = Sdk(Endpoint(region="eu-central-1"), Retries(), max_calls=4)
    try:
        for found in await asyncio.gather(*(sdk.connect() for _ in range(50)), return_exceptions=True):
            assert isinstance(found, ProviderAuthenticationFailed)
    finally:
        sdk.close()
    assert looks == 1


# --- Health


async def test_a_ping_asks_both_apis_each_time(provider: DynamoDBProvider, table: WireServer) -> None:
    for _ in range(2):
        table.calls.clear()
        await provider.ping()
        assert table.calls.counts() == {"DescribeTable": 1, "DescribeStream": 1}


@pytest.mark.parametrize("operation", ["DescribeTable", "DescribeStream"])
async def test_a_ping_fails_while_an_api_does_not_answer_or_refuses(
    provider: DynamoDBProvider, table: WireServer, operation: str
) -> None:
    table.drop(operation, times=ALWAYS)
    with pytest.raises(TransientFailure):
        await provider.ping()
    table.clear_faults()
    table.deny(operation)
    with pytest.raises(ChangeFeedError, match=operation):
        await provider.ping()
    table.clear_faults()
    await provider.ping()


async def test_a_table_that_is_missing_or_has_no_stream_is_no_illness_of_its_connection(
    provider: DynamoDBProvider, table: WireServer
) -> None:
    shop = Shop(table.url)
    await asyncio.to_thread(shop.switch, None)
    await provider.ping()
    await asyncio.to_thread(shop.tables.delete_table, TableName=TABLE)
    await provider.ping()


async def test_a_ping_of_a_connection_that_names_no_table_needs_no_right_to_any(table: WireServer) -> None:
    provider = make_provider(table.url)
    try:
        await provider.ping()
        table.deny("DescribeTable")
        await provider.ping()
        table.clear_faults()
        table.drop("DescribeTable", times=ALWAYS)
        with pytest.raises(TransientFailure):
            await provider.ping()
    finally:
        await provider.aclose()
