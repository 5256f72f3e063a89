"""Traps of the unmodified SDK, which the provider has to walk around: each is shown here, so that its cure is no habit.

If one of these fails with a newer SDK, the trap is gone, and what the provider does about it may go too.
"""

import base64
import gc
import inspect
import json
import sys
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.cosmos.exceptions import CosmosClientTimeoutError, CosmosHttpResponseError

from tests.cosmos.sdk import AVAD, LATEST, container_client, drain, feed_ranges, ids
from tests.cosmos.server.errors import (
    ServiceError,
    forbidden,
    gone,
    internal,
    invalid,
    not_found,
    precondition_failed,
    request_timeout,
    retry_with,
    throttled,
    unavailable,
)
from tests.cosmos.server.wire import WireServer
from tests.faults import ALWAYS


@pytest.fixture
async def container(server: WireServer) -> AsyncIterator[ContainerProxy]:
    server.create_container("things", "/pk", ranges=2)
    async with container_client(server, "things") as client:
        yield client


def spread(*item_ids: str) -> list[dict[str, Any]]:
    """Items that lie in both ranges if there are some of them."""
    return [{"id": item_id, "pk": f"key {item_id}"} for item_id in item_ids]


def opened(token: str) -> dict[str, Any]:
    """What is inside a continuation of the SDK."""
    found: dict[str, Any] = json.loads(base64.b64decode(token))
    return found


async def first_page(container: ContainerProxy, **options: Any) -> tuple[list[dict[str, Any]], str]:
    """One page, and where `by_page` says that it ends."""
    pages: Any = container.query_items_change_feed(**options).by_page()
    page = await anext(pages)
    return [change async for change in page], pages.continuation_token


# --- 1: where a reader is that found nothing


async def test_behind_a_page_without_changes_by_page_knows_no_continuation(container: ContainerProxy) -> None:
    pages: Any = container.query_items_change_feed(mode=AVAD, start_time="Now").by_page()
    with pytest.raises(StopAsyncIteration):
        await anext(pages)
    assert pages.continuation_token is None


async def test_the_hook_is_told_the_etag_of_a_page_without_changes_but_its_headers_are_changed_afterwards(
    server: WireServer, container: ContainerProxy
) -> None:
    server.create("things", {"id": "1", "pk": "a"})
    told, kept = [], []

    def hook(headers: Any, _: Any) -> None:
        told.append(headers["etag"])
        kept.append(headers)

    [left, right] = await feed_ranges(container)
    for feed_range in (left, right):
        await drain(container, mode=AVAD, start_time="Now", feed_range=feed_range, response_hook=hook)
    assert sorted(told) == ['"0"', '"1"']
    assert [opened(headers["etag"])["v"] for headers in kept] == ["v2", "v2"]


# --- 2: a token over several ranges


async def test_a_token_over_several_ranges_that_is_saved_after_a_page_cannot_be_resumed(
    server: WireServer, container: ContainerProxy
) -> None:
    server.create("things", *spread(*"abcdefgh"))
    _, token = await first_page(container, start_time="Beginning", max_item_count=1)
    assert None in [place["token"] for place in opened(token)["continuation"]["continuation"]]
    with pytest.raises(ValueError, match="Missing token"):
        await drain(container, continuation=token)


async def test_now_is_taken_range_by_range_and_what_happens_between_is_lost(
    server: WireServer, container: ContainerProxy
) -> None:
    [left, right] = server.ranges("things")
    items = spread(*"abcdefgh")
    here = [one for one in items if server.range_of("things", one["pk"]) == left]
    there = [one for one in items if server.range_of("things", one["pk"]) == right]
    server.lag("things", 1)
    server.create("things", here[0])
    pages = container.query_items_change_feed(mode=AVAD, start_time="Now", max_item_count=1).by_page()
    assert ids([change async for change in await anext(pages)]) == [here[0]["id"]]
    server.lag("things", 0)
    server.create("things", *there)
    assert server.calls.count("ReadChangeFeed", range_id=right) == 0
    with pytest.raises(StopAsyncIteration):
        await anext(pages)
    assert server.calls.count("ReadChangeFeed", range_id=right) > 0


# --- 3: a point in time


async def test_a_continuation_from_a_point_in_time_cannot_be_resumed(
    server: WireServer, container: ContainerProxy
) -> None:
    server.create("things", {"id": "1", "pk": "a"})
    since = datetime.now(UTC) - timedelta(minutes=5)
    _, token = await drain(container, mode=LATEST, start_time=since)
    with pytest.raises(ValueError, match="is out of range"):
        await drain(container, continuation=token)


# --- 4: a range that is gone


@contextmanager
def recursion_limit(limit: int) -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


async def test_a_range_that_stays_gone_is_asked_for_until_the_stack_ends(
    server: WireServer, container: ContainerProxy
) -> None:
    await feed_ranges(container)
    server.fail("ReadChangeFeed", gone(1002), times=ALWAYS)
    with recursion_limit(len(inspect.stack(0)) + 150), pytest.raises(RecursionError):
        await drain(container, mode=AVAD, start_time="Now")
    assert server.calls.count("ReadChangeFeed") > 30


async def test_a_timeout_ends_the_endless_asking(server: WireServer, container: ContainerProxy) -> None:
    await feed_ranges(container)
    server.fail("ReadChangeFeed", gone(1002), times=ALWAYS)
    with recursion_limit(100_000), pytest.raises(CosmosClientTimeoutError):
        await drain(container, mode=AVAD, start_time="Now", timeout=0.3)


async def test_a_range_that_moves_is_an_error_at_once(server: WireServer, container: ContainerProxy) -> None:
    server.fail("ReadChangeFeed", gone(1008))
    assert await refused(container) == (410, 1008)
    assert server.calls.count("ReadChangeFeed") == 1


async def test_a_split_is_followed_without_a_word(server: WireServer, container: ContainerProxy) -> None:
    [left, _] = await feed_ranges(container)
    server.create("things", *spread(*"abcdefgh"))
    found, _ = await drain(container, start_time="Beginning", feed_range=left)
    server.split("things", "0")
    again, token = await drain(container, start_time="Beginning", feed_range=left)
    assert sorted(ids(again)) == sorted(ids(found))
    assert len(opened(token)["continuation"]["continuation"]) == 2


# --- 5: throttling


@pytest.mark.parametrize(
    ("retries", "requests"),
    [
        ({}, 100),
        ({"retry_total": 0}, 100),
        ({"retry_throttle_total": 0}, 100),
        ({"retry_total": 1}, 4),
        ({"retry_total": 2}, 9),
    ],
)
async def test_two_loops_of_retries_meet_a_throttled_call(
    server: WireServer, retries: dict[str, Any], requests: int
) -> None:
    server.create_container("things", "/pk")
    async with container_client(server, "things", **retries) as container:
        await feed_ranges(container)
        server.fail("ReadChangeFeed", throttled(1), times=ALWAYS)
        assert await refused(container) == (429, 3200)
        assert server.calls.count("ReadChangeFeed") == requests


async def test_a_timeout_ends_the_retries_of_a_throttled_call(server: WireServer, container: ContainerProxy) -> None:
    await feed_ranges(container)
    server.fail("ReadChangeFeed", throttled(100), times=ALWAYS)
    with pytest.raises(CosmosClientTimeoutError):
        await drain(container, mode=AVAD, start_time="Now", timeout=0.3)
    assert server.calls.count("ReadChangeFeed") < 10


# --- 6: other failures


@pytest.mark.parametrize(
    ("error", "requests"),
    [
        (internal(), 4),
        (unavailable(), 4),
        (request_timeout(), 4),
        (invalid("no"), 1),
        (forbidden(), 1),
        (not_found(), 1),
        (precondition_failed(), 1),
        (retry_with(), 1),
    ],
    ids=lambda value: str(value.status) if isinstance(value, ServiceError) else None,
)
async def test_some_failures_are_tried_again_and_a_449_is_not(
    server: WireServer, container: ContainerProxy, error: ServiceError, requests: int
) -> None:
    await feed_ranges(container)
    server.fail("ReadChangeFeed", error, times=ALWAYS)
    assert (await refused(container))[0] == error.status
    assert server.calls.count("ReadChangeFeed") == requests


# --- 7: a container made again


async def test_a_container_made_again_is_read_on_with_the_old_continuation(
    server: WireServer, container: ContainerProxy
) -> None:
    server.create("things", *spread(*"abcdefgh"))
    _, token = await drain(container, mode=LATEST, start_time="Beginning")
    server.recreate_container("things")
    server.create("things", *spread(*"ijklmnopqrstuvwxyz"))
    lost = len(server.container("things").history) - len((await drain(container, continuation=token))[0])
    assert lost == 8
    async with container_client(server, "things") as another:
        with pytest.raises(ValueError, match="Mismatch collection rid"):
            await drain(another, continuation=token)


# --- 8: pages that are larger or smaller than they look


async def test_a_page_may_be_larger_than_was_asked_for(server: WireServer, container: ContainerProxy) -> None:
    server.transaction("things", *({"id": str(number), "pk": "a"} for number in range(9)))
    page, _ = await first_page(container, start_time="Beginning", max_item_count=2, partition_key="a")
    assert len(page) == 9


async def test_a_page_without_documents_is_taken_for_the_end(server: WireServer) -> None:
    server.create_container("few", "/pk")
    server.create("few", {"id": "1", "pk": "a"})
    server.empty_pages("few", "0", 1)
    async with container_client(server, "few") as container:
        found, token = await drain(container, start_time="Beginning")
        assert found == []
        assert server.calls.count("ReadChangeFeed") == 1
        assert ids((await drain(container, continuation=token))[0]) == ["1"]


# --- 9: a replica that lags


async def test_a_now_may_be_before_what_was_read_already(server: WireServer, container: ContainerProxy) -> None:
    [left, _] = server.ranges("things")
    here = next(one for one in spread(*"abcdefgh") if server.range_of("things", one["pk"]) == left)
    _, token = await drain(container, mode=AVAD, start_time="Now")
    server.create("things", here)
    assert ids((await drain(container, continuation=token))[0]) == [here["id"]]
    server.lag("things", 1)
    assert ids((await drain(container, mode=AVAD, start_time="Now"))[0]) == [here["id"]]


# --- Beyond the list


async def test_an_interval_that_spans_two_ranges_is_read_with_all_that_lies_beside_it(server: WireServer) -> None:
    definition = server.create_container("pairs", "/a", "/b").definition
    server.create("pairs", *({"id": f"{a} {b}", "a": a, "b": b} for a in ("red", "blue") for b in (1, 2)))
    async with container_client(server, "pairs") as container:
        found, token = await drain(container, start_time="Beginning", partition_key=["red"])
        assert ids(found) == ["red 1", "red 2"]
        server.split("pairs", "0", definition.epk(["red", 1]))
        server.upsert("pairs", {"id": "blue 1", "a": "blue", "b": 1})
        found, _ = await drain(container, continuation=token)
        assert ids(found) == ["blue 1"]
        found, _ = await drain(container, start_time="Beginning", partition_key=["red"])
        assert sorted(ids(found)) == ["blue 1", "blue 2", "red 1", "red 2"]


async def test_a_client_that_is_refused_at_its_start_leaves_its_connections_open(server: WireServer) -> None:
    # From its start, since the collector may come by before it is called.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(CosmosHttpResponseError):
            await CosmosClient(server.url, "d3Jvbmc=").__aenter__()
        gc.collect()
    assert "Unclosed client session" in "".join(str(one.message) for one in caught)


async def refused(container: ContainerProxy) -> tuple[int, int]:
    """Status and sub-status that a read from now is refused with."""
    with pytest.raises(CosmosHttpResponseError) as caught:
        await drain(container, mode=AVAD, start_time="Now")
    return int(caught.value.status_code or 0), int(caught.value.sub_status or 0)
