"""Every refusal of the service reaches a caller as the documented category, reason and code, and without a secret."""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta

import grpc
import pytest

from tests.conformance.client import NOW, Refusal, after, logical, physical, refusal, refused
from tests.cosmos.scene import THINGS, Scene
from tests.cosmos.server.errors import (
    ServiceError,
    forbidden,
    gone,
    internal,
    invalid,
    request_timeout,
    retry_with,
    throttled,
    unavailable,
    wrong_signature,
)
from tests.cosmos.server.faults import Kind
from tests.cosmos.server.wire import KEY, WireServer
from tests.faults import ALWAYS

pytestmark = pytest.mark.req("E3", "P6")

OPERATIONS = ("ReadContainer", "ReadChangeFeed")
"""All that a page from a token calls."""

UNKNOWN_TEXT = "a text of the service that nobody expects, with the key of an item: fake-item-key-8812"


async def check_expired(answer: Awaitable[object]) -> None:
    """Expect the one answer for history that is gone."""
    found = await refused(answer, "CHECKPOINT_EXPIRED", "CHECKPOINT_EXPIRED", grpc.StatusCode.OUT_OF_RANGE)
    assert "retention of the operation log" not in found.message


async def passing(answer: Awaitable[object], reason: str = "PROVIDER_UNAVAILABLE") -> Refusal:
    """Expect to be told to come back."""
    found = await refused(answer, "TRANSIENT_FAILURE", reason, grpc.StatusCode.UNAVAILABLE)
    assert found.retry_delay
    return found


def check_harmless(found: Refusal) -> None:
    """Nothing of the key, or of the service's own words, in what a caller is told."""
    for secret in (KEY, "fake-item-key", "authorization token", "Request rate is large"):
        assert secret not in str(found)


async def token_of(scene: Scene) -> str:
    """Now, as a token."""
    return (await scene.client.read(NOW)).continuation_token


# --- The collection


@pytest.mark.req("E2")
async def test_an_account_without_all_versions_and_deletes_is_not_provisioned_and_says_how_to(scene: Scene) -> None:
    scene.server.behaviour.all_versions_and_deletes = False
    code = grpc.StatusCode.FAILED_PRECONDITION
    found = await refused(scene.client.read(NOW), "INVALID_REQUEST", "FEED_NOT_PROVISIONED", code)
    for word in ("continuous backup", "enableAllVersionsAndDeletesChangeFeed", "latest_version"):
        assert word in found.message


@pytest.mark.req("E2")
async def test_a_mode_that_is_switched_off_later_is_told_by_every_read(scene: Scene) -> None:
    token = await token_of(scene)
    scene.server.behaviour.all_versions_and_deletes = False
    code = grpc.StatusCode.FAILED_PRECONDITION
    for start in (NOW, after(token)):
        await refused(scene.client.read(start), "INVALID_REQUEST", "FEED_NOT_PROVISIONED", code)


async def test_a_container_that_does_not_exist_is_not_found(scene: Scene) -> None:
    scene.server.delete_container(THINGS)
    await refused(scene.client.read(NOW), "NOT_FOUND", "COLLECTION_NOT_FOUND", grpc.StatusCode.NOT_FOUND)


async def test_a_name_that_no_container_can_have_is_not_found_and_not_asked_for(scene: Scene) -> None:
    scene.server.calls.clear()
    for name in ("a/b", "a?b", "..", "a\\b"):
        answer = scene.client_of(name).read(NOW)
        await refused(answer, "NOT_FOUND", "COLLECTION_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
    assert not scene.server.calls.count()


async def test_a_token_of_a_container_that_was_made_again_is_refused(either_scene: Scene) -> None:
    scene = either_scene
    scene.put("1")
    tokens = [(await scene.client.read(NOW, scope=s)).continuation_token for s in (None, logical("a"))]
    scene.server.recreate_container(THINGS)
    scene.put("1", "2")
    for token in tokens:
        answer = scene.client.read(after(token))
        code = grpc.StatusCode.INVALID_ARGUMENT
        await refused(answer, "INVALID_REQUEST", "TOKEN_RESOURCE_RECREATED", code)


async def test_a_stream_ends_when_its_container_is_made_again(either_scene: Scene) -> None:
    scene = either_scene
    async with scene.client.subscribe(NOW) as stream:
        await stream.until_live()
        scene.put("1")
        await stream.until_events(1)
        scene.server.recreate_container(THINGS)
        scene.put("2", "3")
        closing = await stream.to_the_end()
    assert len(stream.events) == 1
    code = grpc.StatusCode.INVALID_ARGUMENT
    answer = scene.client.read(after(closing.continuation_token))
    await refused(answer, "INVALID_REQUEST", "TOKEN_RESOURCE_RECREATED", code)


# --- Expiry


async def test_a_continuation_that_the_service_refuses_is_expired_where_now_can_be_read(scene: Scene) -> None:
    token = await token_of(scene)
    scene.put("1")
    scene.server.trim(THINGS)
    await check_expired(scene.client.read(after(token)))


async def test_a_refusal_of_everything_is_no_expiry(scene: Scene) -> None:
    token = await token_of(scene)
    scene.server.fail("ReadChangeFeed", invalid(UNKNOWN_TEXT), times=ALWAYS)
    for start in (after(token), NOW):
        found = await refused(scene.client.read(start), "PROVIDER_ERROR", "PROVIDER_ERROR", grpc.StatusCode.UNKNOWN)
        check_harmless(found)


async def test_a_refusal_of_a_latest_version_is_no_expiry(latest_scene: Scene) -> None:
    token = await token_of(latest_scene)
    latest_scene.server.fail("ReadChangeFeed", invalid(UNKNOWN_TEXT))
    answer = latest_scene.client.read(after(token))
    await refused(answer, "PROVIDER_ERROR", "PROVIDER_ERROR", grpc.StatusCode.UNKNOWN)


@pytest.mark.parametrize("sub_status", [1002, 1007, 1008, 0])
async def test_a_range_that_keeps_moving_is_a_passing_failure_and_never_expired(scene: Scene, sub_status: int) -> None:
    token = await token_of(scene)
    scene.server.fail("ReadChangeFeed", gone(sub_status), times=ALWAYS)
    scene.server.calls.clear()
    await passing(scene.client.read(after(token)))
    assert scene.server.calls.count("ReadChangeFeed") < 20


@pytest.mark.parametrize("sub_status", [1002, 1007, 1008, 0])
async def test_a_range_that_moves_once_is_not_noticed(scene: Scene, sub_status: int) -> None:
    token = await token_of(scene)
    scene.put("1")
    scene.server.fail("ReadChangeFeed", gone(sub_status))
    assert len((await scene.client.read(after(token))).events) == 1


@pytest.mark.parametrize("operation", ["ReadContainer", "ReadPartitionKeyRanges", "ReadChangeFeed"])
@pytest.mark.parametrize(
    ("error", "category"), [(gone(1007), "TRANSIENT_FAILURE"), (invalid(UNKNOWN_TEXT), "PROVIDER_ERROR")]
)
async def test_what_a_reader_judges_is_an_error_for_who_reads_nothing(
    server: WireServer, operation: str, error: ServiceError, category: str
) -> None:
    server.create_container(THINGS, "/pk")
    scene = Scene(server)
    await scene.serve()
    try:
        server.fail(operation, error, times=ALWAYS)
        for answer in (scene.client.read(NOW), scene.client.partitions(), scene.client.capabilities()):
            found = await refusal(answer)
            assert found.category == category, found
            check_harmless(found)
    finally:
        await scene.kill()


# --- Credentials


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("error", "reason"),
    [(wrong_signature(), "PROVIDER_AUTHENTICATION_FAILED"), (forbidden(), "PROVIDER_AUTHORIZATION_FAILED")],
)
async def test_refused_credentials_are_the_operators_matter(
    scene: Scene, operation: str, error: ServiceError, reason: str
) -> None:
    token = await token_of(scene)
    scene.server.fail(operation, error, times=ALWAYS)
    found = await refused(scene.client.read(after(token)), "PROVIDER_ERROR", reason, grpc.StatusCode.UNAVAILABLE)
    check_harmless(found)


# --- Too much


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_throttling_that_stays_is_told_with_the_services_time(scene: Scene, operation: str) -> None:
    token = await token_of(scene)
    scene.server.fail(operation, throttled(60_000), times=ALWAYS)
    scene.server.calls.clear()
    found = await refused(
        scene.client.read(after(token)), "THROTTLED", "PROVIDER_THROTTLED", grpc.StatusCode.RESOURCE_EXHAUSTED
    )
    check_harmless(found)
    assert found.retry_delay == timedelta(seconds=60)
    # Nobody waits for longer than there is patience, so it is asked once.
    assert scene.server.calls.count(operation) == 1


async def test_throttling_that_passes_is_waited_for(scene: Scene) -> None:
    token = await token_of(scene)
    scene.put("1")
    scene.server.fail("ReadChangeFeed", throttled(30), times=3)
    assert len((await scene.client.read(after(token))).events) == 1


async def test_throttling_without_a_time_is_told_with_one(scene: Scene) -> None:
    token = await token_of(scene)
    scene.server.fail("ReadChangeFeed", throttled(0), times=ALWAYS)
    found = await refused(
        scene.client.read(after(token)), "THROTTLED", "PROVIDER_THROTTLED", grpc.StatusCode.RESOURCE_EXHAUSTED
    )
    assert found.retry_delay


# --- Outages


OUTAGES = [
    internal(),
    unavailable(),
    unavailable(21015),
    request_timeout(),
    retry_with(),
    ServiceError(404, "NotFound", "read session not available", sub_status=1002),
]


@pytest.mark.parametrize("error", OUTAGES, ids=lambda error: f"{error.status}-{error.sub_status}")
async def test_an_outage_is_a_passing_failure(brief_scene: Scene, error: ServiceError) -> None:
    scene = brief_scene
    token = await token_of(scene)
    scene.server.fail("ReadChangeFeed", error, times=ALWAYS)
    check_harmless(await passing(scene.client.read(after(token))))


@pytest.mark.parametrize("sub_status", [3, 1008])
async def test_a_region_that_is_left_by_its_role_is_a_passing_failure(impatient_scene: Scene, sub_status: int) -> None:
    """The SDK looks for another region for as long as a call may take."""
    scene = impatient_scene
    token = await token_of(scene)
    scene.server.fail("ReadChangeFeed", forbidden(sub_status), times=ALWAYS)
    await passing(scene.client.read(after(token)), "PROVIDER_TIMEOUT")


@pytest.mark.parametrize("kind", [Kind.DROP, Kind.CUT])
async def test_a_broken_connection_is_a_passing_failure(brief_scene: Scene, kind: Kind) -> None:
    scene = brief_scene
    token = await token_of(scene)
    scene.put("1")
    scene.server.drop("ReadChangeFeed", times=ALWAYS, kind=kind)
    await passing(scene.client.read(after(token)))
    scene.server.clear_faults()
    assert len((await scene.client.read(after(token))).events) == 1


async def test_a_service_that_does_not_answer_is_given_up(impatient_scene: Scene) -> None:
    scene = impatient_scene
    token = await token_of(scene)
    scene.server.stall("ReadChangeFeed")
    await passing(scene.client.read(after(token)), "PROVIDER_TIMEOUT")


async def test_a_caller_that_leaves_takes_nothing_with_it(scene: Scene) -> None:
    token = await token_of(scene)
    scene.put("1")
    scene.server.stall("ReadChangeFeed")
    reads = [asyncio.create_task(scene.client.read(after(token))) for _ in range(2)]
    await asyncio.to_thread(scene.server.calls.wait_for, "ReadChangeFeed", 2)
    reads[0].cancel()
    scene.server.clear_faults()
    assert len((await reads[1]).events) == 1


# --- What nobody knows


@pytest.mark.parametrize("status", [402, 418])
async def test_a_refusal_that_nobody_knows_is_a_provider_error(scene: Scene, status: int) -> None:
    token = await token_of(scene)
    scene.server.fail("ReadChangeFeed", ServiceError(status, "Odd", UNKNOWN_TEXT), times=ALWAYS)
    found = await refused(scene.client.read(after(token)), "PROVIDER_ERROR", "PROVIDER_ERROR", grpc.StatusCode.UNKNOWN)
    check_harmless(found)
    assert found.metadata["retryable"] == "false"


# --- Merges


async def test_all_versions_across_a_merge_is_an_error_that_names_its_cause_and_is_not_retried(
    wide_scene: Scene,
) -> None:
    scene = wide_scene
    token = await token_of(scene)
    scene.put_many(20)
    scene.server.merge(THINGS, scene.server.ranges(THINGS)[:2])
    found = await refused(scene.client.read(after(token)), "PROVIDER_ERROR", "HISTORY_GAP", grpc.StatusCode.DATA_LOSS)
    assert "merged" in found.message
    assert found.metadata["retryable"] == "false"
    # Whoever starts anew reads on.
    anew = await token_of(scene)
    scene.put_many(5)
    assert len((await scene.client.read_all(after(anew))).events) == 5


async def test_a_reader_of_one_range_is_told_of_the_merge_too(wide_scene: Scene) -> None:
    scene = wide_scene
    first, second, *_ = scene.server.ranges(THINGS)
    token = (await scene.client.read(NOW, scope=physical(first))).continuation_token
    scene.server.merge(THINGS, [first, second])
    found = await refused(scene.client.read(after(token)), "PROVIDER_ERROR", "HISTORY_GAP", grpc.StatusCode.DATA_LOSS)
    assert "merged" in found.message
