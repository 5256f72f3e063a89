"""What doctor says of tables: each fault by its own finding."""

from collections.abc import Mapping

import pytest
from types_boto3_dynamodb.literals import StreamViewTypeType

from changefeed_gateway.core.finding import Finding
from changefeed_gateway.providers.dynamodb.doctor import examine
from changefeed_gateway.providers.dynamodb.provider import DynamoDBOptions
from changefeed_gateway.providers.dynamodb.sdk import Endpoint
from tests.dynamodb.gateway import RETRIES
from tests.dynamodb.server.errors import access_denied
from tests.dynamodb.server.wire import WireServer
from tests.dynamodb.shop import TABLE, Shop
from tests.faults import ALWAYS


async def look(server: WireServer, table: str = TABLE) -> Mapping[str, Finding]:
    endpoint = Endpoint(region="eu-test-1", endpoint_url=server.url)
    options = DynamoDBOptions(endpoint=endpoint, tables=frozenset({table}), retries=RETRIES)
    return {finding.subject: finding async for finding in examine(options)}


@pytest.mark.req("US4.1")
async def test_a_table_with_a_stream_is_healthy(server: WireServer) -> None:
    Shop(server.url).create()
    found = await look(server)
    assert all(finding.healthy for finding in found.values())
    assert found[f"stream of {TABLE}"].detail == "1 shards, readable"


@pytest.mark.parametrize("view_type", ["KEYS_ONLY", "OLD_IMAGE"])
async def test_a_stream_without_new_items_is_named(server: WireServer, view_type: StreamViewTypeType) -> None:
    Shop(server.url).create(view_type)
    finding = (await look(server))[f"items of {TABLE}"]
    assert not finding.healthy
    assert view_type in finding.detail
    assert "NEW_IMAGE" in finding.remedy


async def test_a_stream_that_is_off_is_named(server: WireServer) -> None:
    Shop(server.url).create(None)
    finding = (await look(server))[f"stream of {TABLE}"]
    assert not finding.healthy
    assert "StreamEnabled" in finding.detail


async def test_a_table_that_is_not_there_is_named(server: WireServer) -> None:
    finding = (await look(server, "nothing"))["table nothing"]
    assert not finding.healthy
    assert finding.remedy


@pytest.mark.parametrize("operation", ["DescribeTable", "DescribeStream", "GetShardIterator", "GetRecords"])
async def test_each_missing_permission_is_named(server: WireServer, operation: str) -> None:
    Shop(server.url).create()
    server.fail(operation, access_denied(operation, "table"), times=ALWAYS)
    wrong = [finding for finding in (await look(server)).values() if not finding.healthy]
    assert [f"dynamodb:{operation}" in finding.detail for finding in wrong] == [True]
    assert "allow" in wrong[0].remedy
