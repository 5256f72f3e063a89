"""What doctor says of tables: each fault by its own finding."""

from collections.abc import Mapping
from typing import Any

import pytest

from changefeed_gateway.core.finding import Finding
from changefeed_gateway.providers.spanner.doctor import examine
from changefeed_gateway.providers.spanner.provider import SpannerOptions
from changefeed_gateway.providers.spanner.sdk import Endpoint
from tests.faults import ALWAYS
from tests.spanner.gateway import PACE, RETRIES
from tests.spanner.scene import CHANGES, MAIN, NEW_ROW, THINGS
from tests.spanner.server.behaviour import Behaviour
from tests.spanner.server.errors import access_denied, not_found
from tests.spanner.server.schema import StreamDefinition
from tests.spanner.server.wire import WireServer


async def look(server: WireServer, tables: Mapping[str, str | None] = {"things": None}) -> Mapping[str, Finding]:
    endpoint = Endpoint(project=server.project, instance=server.instance, database=MAIN, emulator_host=server.host)
    options = SpannerOptions(endpoint=endpoint, tables=tables, retries=RETRIES, pace=PACE)
    return {finding.subject: finding async for finding in examine(options)}


async def said(options: Mapping[str, Any], watches: Mapping[str, Any] | None = None) -> Mapping[str, Finding]:
    """Of the table with one stream."""
    async with WireServer(Behaviour()) as server:
        server.create_database(MAIN, [THINGS], [StreamDefinition(CHANGES, watches, options)])
        return await look(server)


@pytest.mark.req("US4.1")
async def test_a_table_with_a_stream_of_whole_rows_is_healthy() -> None:
    found = await said(NEW_ROW)
    assert all(finding.healthy for finding in found.values())
    assert found["change stream of things"].detail == f"{CHANGES}, 1 partitions, readable"


async def test_a_wrong_capture_type_is_named() -> None:
    finding = (await said({}))["items of things"]
    assert not finding.healthy
    assert "OLD_AND_NEW_VALUES" in finding.detail
    assert "NEW_ROW" in finding.remedy


async def test_a_stream_that_watches_some_columns_is_named() -> None:
    found = await said(NEW_ROW, {"things": ["text"]})
    assert not found["items of things"].healthy
    assert "columns" in found["changes of things"].detail


async def test_a_stream_that_leaves_kinds_of_changes_out_is_named() -> None:
    finding = (await said({**NEW_ROW, "exclude_ttl_deletes": True}))["changes of things"]
    assert not finding.healthy
    assert "time to live" in finding.detail


async def test_a_mutable_key_range_is_named() -> None:
    finding = (await said({**NEW_ROW, "partition_mode": "MUTABLE_KEY_RANGE"}))["change stream of things"]
    assert not finding.healthy
    assert "MUTABLE_KEY_RANGE" in finding.detail


async def test_a_table_without_a_stream_one_that_is_not_there_and_a_stream_that_is_not_are_named() -> None:
    async with WireServer(Behaviour()) as server:
        server.create_database(MAIN, [THINGS])
        found = await look(server, {"things": None, "nothing": None})
        assert "no change stream" in found["change stream of things"].detail
        assert not found["table nothing"].healthy
        found = await look(server, {"things": "missing"})
        assert "missing" in found["change stream of things"].detail


async def test_several_streams_on_a_table_are_told_apart_by_the_settings() -> None:
    async with WireServer(Behaviour()) as server:
        streams = [StreamDefinition(name, None, NEW_ROW) for name in ("first", "second")]
        server.create_database(MAIN, [THINGS], streams)
        finding = (await look(server))["change stream of things"]
        assert "first, second" in finding.detail
        assert (await look(server, {"things": "second"}))["change stream of things"].healthy


@pytest.mark.parametrize("operation", ["CreateSession", "Metadata", "Initial", "Partition"])
async def test_a_missing_permission_is_named(operation: str) -> None:
    async with WireServer(Behaviour()) as server:
        server.create_database(MAIN, [THINGS], [StreamDefinition(CHANGES, None, NEW_ROW)])
        server.fail(operation, access_denied("database"), times=ALWAYS)
        wrong = [finding for finding in (await look(server)).values() if not finding.healthy]
        assert [("spanner.databases.select" in finding.detail, finding.remedy[:5]) for finding in wrong] == [
            (True, "grant")
        ]


async def test_a_database_that_is_not_there_is_named() -> None:
    async with WireServer(Behaviour()) as server:
        server.fail("*", not_found("Database not found: x"), times=ALWAYS)
        finding = (await look(server))["database"]
        assert not finding.healthy
