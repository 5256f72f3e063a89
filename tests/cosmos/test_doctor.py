"""What doctor says of an account and its containers: each fault by its own finding, with a remedy."""

from collections.abc import Mapping
from typing import Any

import pytest

from changefeed_gateway.core.finding import Finding
from changefeed_gateway.providers.cosmos.cursor import Mode
from changefeed_gateway.providers.cosmos.doctor import examine
from changefeed_gateway.providers.cosmos.sdk import Endpoint
from tests.cosmos.gateway import BRIEF, make_options
from tests.cosmos.scene import THINGS
from tests.cosmos.server.errors import forbidden, throttled, unavailable, wrong_signature
from tests.cosmos.server.wire import WireServer
from tests.faults import ALWAYS

pytestmark = pytest.mark.req("US4.1")


async def look(server: WireServer, *names: str, **options: Any) -> Mapping[str, Finding]:
    chosen = make_options(server, containers=frozenset(names or (THINGS,)), retries=BRIEF, **options)
    return {finding.subject: finding async for finding in examine(chosen)}


def check_wrong(finding: Finding, *words: str) -> None:
    """It is unhealthy, and says what to do."""
    assert not finding.healthy
    for word in words:
        assert word in finding.detail + finding.remedy
    assert finding.remedy


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_container_that_can_be_read_is_healthy(server: WireServer, mode: Mode) -> None:
    server.create_container(THINGS, "/pk", ranges=3)
    found = await look(server, mode=mode)
    assert all(finding.healthy for finding in found.values())
    assert found[f"feed of {THINGS}"].detail.startswith("3 partitions, readable; a look at an idle one takes 2")
    assert mode in found["mode"].detail


async def test_a_token_of_the_other_mode_is_explained(server: WireServer) -> None:
    finding = (await look(server))["mode"]
    assert "latest_version is refused" in finding.detail


async def test_an_account_that_cannot_be_reached_is_named(server: WireServer) -> None:
    endpoint = Endpoint(url="http://127.0.0.1:9", key=server.key)
    check_wrong((await look(server, endpoint=endpoint))["account"], "endpoint")


async def test_a_refused_key_is_named(server: WireServer) -> None:
    server.fail("GetAccount", wrong_signature(), times=ALWAYS)
    check_wrong((await look(server))["account"], "Keys page")


async def test_a_container_that_is_not_there_is_named(server: WireServer) -> None:
    check_wrong((await look(server, "nothing"))["container nothing"], "names of database and container")


async def test_a_name_that_no_container_can_have_is_named(server: WireServer) -> None:
    check_wrong((await look(server, "a/b"))["container a/b"], "up to 255")


async def test_a_database_that_is_not_there_is_named(server: WireServer) -> None:
    server.create_container(THINGS, "/pk")
    check_wrong((await look(server, database="other"))[f"container {THINGS}"], "no such database")


async def test_a_mode_that_is_off_is_named(server: WireServer) -> None:
    server.create_container(THINGS, "/pk")
    server.behaviour.all_versions_and_deletes = False
    check_wrong((await look(server))[f"feed of {THINGS}"], "Features page", "latest_version")


async def test_throttling_is_named(server: WireServer) -> None:
    server.create_container(THINGS, "/pk")
    server.fail("ReadChangeFeed", throttled(60_000), times=ALWAYS)
    check_wrong((await look(server))[f"feed of {THINGS}"], "request units", "longest_pause")


async def test_a_missing_right_is_named(server: WireServer) -> None:
    server.create_container(THINGS, "/pk")
    server.fail("ReadChangeFeed", forbidden(), times=ALWAYS)
    check_wrong((await look(server))[f"feed of {THINGS}"], "readChangeFeed", "Data Reader")


async def test_an_outage_is_named(server: WireServer) -> None:
    server.create_container(THINGS, "/pk")
    server.fail("ReadContainer", unavailable(), times=ALWAYS)
    check_wrong((await look(server))[f"container {THINGS}"], "try again")
