"""What a collection says it can do, and a collection that captures nothing."""

from collections.abc import Awaitable

import grpc
import pytest

from changefeed.v1 import change_event_pb2
from changefeed_gateway.core.model import CapabilityName, ItemState
from tests.conformance.client import NOW, refused
from tests.conformance.world import CONNECTION, World
from tests.docs.pages import DOCS, rows
from tests.gateway import QUICK

WIRE_STATES = {
    ItemState.INCLUDED: change_event_pb2.ITEM_STATE_INCLUDED,
    ItemState.INCLUDED_CURRENT: change_event_pb2.ITEM_STATE_INCLUDED_CURRENT,
    ItemState.UNAVAILABLE: change_event_pb2.ITEM_STATE_UNAVAILABLE,
}


def side_by_side(backend_name: str) -> dict[str, str] | None:
    """What docs/providers/README.md says of a database: cells by their row's heading; None where it has no column."""
    table = {row[0].strip("`"): row for row in rows(DOCS / "providers" / "README.md")}
    columns = [number for number, cell in enumerate(table["backends"]) if f"`{backend_name}`" in cell]
    whole = len(table["backends"])
    return {heading: row[columns[0]] for heading, row in table.items() if len(row) == whole} if columns else None


@pytest.mark.req("CF-09", "US4.3")
async def test_the_page_of_all_databases_says_what_the_collection_answers(world: World, backend_name: str) -> None:
    said = side_by_side(backend_name)
    if said is None:
        assert world.backend.provider_id == "memory", "the page has every database"
        return
    answer = await world.client.capabilities()
    for capability in answer.capabilities:
        assert said[capability.name].partition(":")[0] == ("yes" if capability.supported else "no")
    assert f"ITEM_STATE_{said['items']}" == change_event_pb2.ItemState.Name(answer.item_state)


@pytest.mark.req("CF-09", "US4.2", "US4.3")
async def test_capabilities_are_those_of_the_documented_matrix(world: World) -> None:
    answer = await world.client.capabilities()
    assert answer.provider == world.backend.provider_id
    assert {c.name for c in answer.capabilities} == {name.value for name in CapabilityName}
    assert len(answer.capabilities) == len(CapabilityName)
    assert await world.client.supported() == {name.value for name in world.backend.capabilities}
    assert all(c.supported or c.detail for c in answer.capabilities), "what is missing says why"
    assert answer.item_state == WIRE_STATES[world.backend.item_state]


@pytest.mark.req("CF-09")
async def test_capabilities_name_the_limits_in_force(world: World) -> None:
    limits = (await world.client.capabilities()).limits
    assert limits.default_page_size == QUICK.default_page_size
    assert limits.max_page_size == QUICK.max_page_size
    assert limits.max_item_bytes == QUICK.max_item_bytes
    assert limits.max_wait.ToTimedelta() == QUICK.max_wait
    assert limits.min_heartbeat_interval.ToTimedelta() == QUICK.min_heartbeat
    assert limits.max_heartbeat_interval.ToTimedelta() == QUICK.max_heartbeat


@pytest.mark.req("US4.1", "E2", "P5")
async def test_a_collection_without_a_feed_says_so_and_refuses_to_be_read(world: World) -> None:
    address = world.backend.unprovisioned(CONNECTION)
    if address is None:
        return
    silent = world.client.of(address)
    answer = await silent.capabilities()
    assert {c.name for c in answer.capabilities} == {name.value for name in CapabilityName}
    assert not any(c.supported for c in answer.capabilities)
    assert all(c.detail for c in answer.capabilities)
    answers: list[Awaitable[object]] = [
        silent.read(NOW),
        silent.partitions(),
        silent.resolve(NOW),
        silent.subscribe(NOW).next(),
    ]
    for each in answers:
        found = await refused(each, "INVALID_REQUEST", "FEED_NOT_PROVISIONED", grpc.StatusCode.FAILED_PRECONDITION)
        assert found.metadata["retryable"] == "false"
        assert found.metadata["provider"] == world.backend.provider_id
