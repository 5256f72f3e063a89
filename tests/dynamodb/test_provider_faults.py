"""Every refusal of the service reaches a caller as the documented category, reason and code, and without a secret."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.conformance.client import BEGINNING, NOW, Refusal, after, at_time, physical, refused
from tests.dynamodb.scene import Scene
from tests.dynamodb.sdk import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN
from tests.dynamodb.server.errors import ServiceError, access_denied, internal, invalid, third_reader, throttled
from tests.dynamodb.shop import TABLE
from tests.faults import ALWAYS

pytestmark = pytest.mark.req("E3", "P6")

OPERATIONS = ("DescribeTable", "DescribeStream", "GetShardIterator", "GetRecords")
"""All that a page from the beginning calls."""


async def check_expired(answer: Awaitable[object]) -> None:
    """Expect the one answer for history that is gone."""
    await refused(answer, "CHECKPOINT_EXPIRED", "CHECKPOINT_EXPIRED", grpc.StatusCode.OUT_OF_RANGE)


def check_harmless(found: Refusal) -> None:
    """Nothing of the credentials in what a caller is told."""
    for secret in (ACCESS_KEY, SECRET_KEY, SESSION_TOKEN):
        assert secret not in str(found)


# --- Expiry, in every form that the service shows it


async def test_trimmed_data_found_when_an_iterator_is_made_is_expiry(scene: Scene) -> None:
    await scene.write(scene.shop.put, "a", 1)
    token = (await scene.client.read_all(BEGINNING)).token
    await scene.write(scene.shop.put, "a", 2)
    await scene.restart()
    scene.server.trim()
    await check_expired(scene.client.read(after(token)))


async def test_trimmed_data_found_between_the_iterator_and_the_records_is_expiry(scene: Scene) -> None:
    await scene.write(scene.shop.put, "a", 1)
    token = (await scene.client.read_all(BEGINNING)).token
    scene.server.fail("GetRecords", ServiceError("TrimmedDataAccessException", "trimmed"))
    await check_expired(scene.client.read(after(token)))


async def test_a_shard_that_vanished_is_expiry(scene: Scene) -> None:
    await scene.write(scene.shop.put, "a", 1)
    shard = scene.shard
    reading = await scene.client.read_all(BEGINNING, scope=physical(shard))
    await scene.write(scene.shop.put, "a", 2)
    scene.server.rotate(shard)
    scene.server.trim()
    await scene.restart()
    await check_expired(scene.client.read(after(reading.token)))


async def test_the_beginning_is_there_when_an_older_place_of_that_kind_is_not(scene: Scene) -> None:
    """Both are before everything that the shard holds, and wait for their turn at one time."""
    shard = physical(scene.shard)
    old = after((await scene.client.read(BEGINNING, scope=shard)).continuation_token)
    await scene.write(scene.shop.put, "a", 1)
    await scene.restart()
    scene.server.pass_time(timedelta(hours=25))
    await scene.write(scene.shop.put, "a", 2)
    scene.server.stall("GetShardIterator")
    scene.server.calls.clear()
    first = asyncio.create_task(scene.client.read(old, scope=shard))
    await asyncio.to_thread(scene.server.calls.wait_for, "GetShardIterator", 1)
    reads = [asyncio.create_task(scene.client.read(start, scope=shard, size=1)) for start in (old, BEGINNING)]
    await asyncio.to_thread(scene.server.calls.wait_for, "DescribeTable", 3)
    scene.server.clear_faults()
    await check_expired(first)
    await check_expired(reads[0])
    assert len((await reads[1]).events) == 1


async def test_a_place_behind_which_nothing_lies_lives_as_long_as_its_token_says(scene: Scene) -> None:
    await scene.write(scene.shop.put, "a", 1)
    page = (await scene.client.read_all(BEGINNING)).pages[-1]
    later = page.token_expire_time.seconds + 50
    scene.server.pass_time(timedelta(seconds=50))
    # Nothing but empty pages moves it.
    while page.token_expire_time.seconds < later:
        page = await scene.client.read(after(page.continuation_token))
    await scene.restart()
    scene.server.pass_time(timedelta(seconds=page.token_expire_time.seconds - scene.server.account.clock.now() - 25))
    assert not (await scene.client.read(after(page.continuation_token))).events


async def test_an_expired_iterator_is_no_expiry_of_the_token(scene: Scene) -> None:
    await scene.write(scene.shop.put, "a", 1)
    async with scene.client.subscribe(BEGINNING) as stream:
        await stream.until_live()
        scene.server.expire_iterators()
        await scene.write(scene.shop.put, "a", 2)
        await stream.until_events(2)
    assert scene.server.calls.errors["GetRecords", "ExpiredIteratorException"]


async def test_iterators_that_always_expire_end_in_an_error_and_not_in_a_loop(scene: Scene) -> None:
    await scene.write(scene.shop.put, "a", 1)
    scene.server.fail("GetRecords", ServiceError("ExpiredIteratorException", "expired"), times=ALWAYS)
    found = await refused(
        scene.client.read(BEGINNING), "TRANSIENT_FAILURE", "PROVIDER_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE
    )
    assert found.retry_delay
    assert scene.server.calls.count("GetShardIterator") < 20


# --- The collection


async def test_a_table_that_does_not_exist_is_not_found(scene: Scene) -> None:
    await scene.write(scene.shop.tables.delete_table, TableName=TABLE)
    await refused(scene.client.read(NOW), "NOT_FOUND", "COLLECTION_NOT_FOUND", grpc.StatusCode.NOT_FOUND)


async def test_a_stream_that_is_off_is_not_provisioned(scene: Scene) -> None:
    token = (await scene.client.read(NOW)).continuation_token
    await scene.write(scene.shop.switch, None)
    code = grpc.StatusCode.FAILED_PRECONDITION
    for start in (NOW, BEGINNING, after(token)):
        found = await refused(scene.client.read(start), "INVALID_REQUEST", "FEED_NOT_PROVISIONED", code)
        assert "stream" in found.message


async def test_a_stream_that_was_switched_off_and_on_is_another_incarnation(scene: Scene) -> None:
    token = (await scene.client.read(NOW)).continuation_token
    scene.server.recreate_stream(TABLE, "NEW_IMAGE")
    code = grpc.StatusCode.INVALID_ARGUMENT
    await refused(scene.client.read(after(token)), "INVALID_REQUEST", "TOKEN_RESOURCE_RECREATED", code)
    await scene.restart()
    await refused(scene.client.read(after(token)), "INVALID_REQUEST", "TOKEN_RESOURCE_RECREATED", code)


@pytest.mark.parametrize("on_again", [True, False])
async def test_a_stream_that_goes_while_it_is_read_says_what_there_is_instead(scene: Scene, on_again: bool) -> None:
    await scene.write(scene.shop.put, "a", 1)
    scene.server.stall("DescribeStream")
    reading = asyncio.create_task(scene.client.read(BEGINNING))
    await asyncio.to_thread(scene.server.calls.wait_for, "DescribeStream", 1)
    old = scene.server.stream(TABLE).arn
    await scene.write(scene.shop.switch, None)
    if on_again:
        await scene.write(scene.shop.switch, "NEW_IMAGE")
    scene.server.forget_stream(old)
    scene.server.clear_faults()
    reason = "TOKEN_RESOURCE_RECREATED" if on_again else "FEED_NOT_PROVISIONED"
    code = grpc.StatusCode.INVALID_ARGUMENT if on_again else grpc.StatusCode.FAILED_PRECONDITION
    await refused(reading, "INVALID_REQUEST", reason, code)


# --- Throttling and limits


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        *((operation, throttled()) for operation in OPERATIONS),
        ("GetRecords", third_reader()),
        ("GetRecords", throttled("ProvisionedThroughputExceededException")),
        ("DescribeTable", throttled("RequestLimitExceeded")),
    ],
    ids=lambda value: value.code if isinstance(value, ServiceError) else value,
)
async def test_throttling_says_when_to_come_back(scene: Scene, operation: str, error: ServiceError) -> None:
    await scene.write(scene.shop.put, "a", 1)
    scene.server.fail(operation, error, times=ALWAYS)
    found = await refused(
        scene.client.read(BEGINNING), "THROTTLED", "PROVIDER_THROTTLED", grpc.StatusCode.RESOURCE_EXHAUSTED
    )
    assert found.retry_delay
    assert found.retry_delay > timedelta(0)
    assert found.metadata["retryable"] == "true"
    assert scene.server.calls.errors[operation, error.code] <= 10
    check_harmless(found)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_moment_of_throttling_is_sat_out(scene: Scene, operation: str) -> None:
    await scene.write(scene.shop.put, "a", 1)
    scene.server.fail(operation, throttled())
    assert len((await scene.client.read_all(BEGINNING)).events) == 1
    assert scene.server.calls.errors[operation, "ThrottlingException"] == 1


# --- Outages


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "error", [internal(), ServiceError("InternalFailure", "failed", 500), ServiceError("ServiceUnavailable", "", 503)]
)
async def test_an_outage_says_when_to_come_back(scene: Scene, operation: str, error: ServiceError) -> None:
    await scene.write(scene.shop.put, "a", 1)
    scene.server.fail(operation, error, times=ALWAYS)
    await check_outage(scene)


async def check_outage(scene: Scene, reason: str = "PROVIDER_UNAVAILABLE") -> None:
    """Expect an error to come back after, and then an answer."""
    found = await refused(scene.client.read(BEGINNING), "TRANSIENT_FAILURE", reason, grpc.StatusCode.UNAVAILABLE)
    assert found.retry_delay
    check_harmless(found)
    scene.server.clear_faults()
    assert len((await scene.client.read_all(BEGINNING)).events) == 1


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_connection_that_always_breaks_is_an_outage(scene: Scene, operation: str) -> None:
    await scene.write(scene.shop.put, "a", 1)
    scene.server.drop(operation, times=ALWAYS)
    await check_outage(scene)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_an_answer_that_breaks_off_is_an_outage_and_never_an_empty_answer(scene: Scene, operation: str) -> None:
    await scene.write(scene.shop.put, "a", 1)
    scene.server.drop(operation, times=ALWAYS, in_the_middle=True)
    await check_outage(scene)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_service_that_does_not_answer_is_a_timeout(impatient_scene: Scene, operation: str) -> None:
    scene = impatient_scene
    await scene.write(scene.shop.put, "a", 1)
    scene.server.stall(operation)
    await check_outage(scene, "PROVIDER_TIMEOUT")


# --- Permission


@pytest.mark.parametrize("code", ["UnrecognizedClientException", "InvalidSignatureException"])
async def test_refused_credentials_are_named_and_never_shown(scene: Scene, code: str) -> None:
    # What AWS says of a wrong signature repeats the whole request, headers included.
    text = f"The canonical string should have been 'POST / host x-amz-security-token:{SESSION_TOKEN} {ACCESS_KEY}'"
    scene.server.fail("*", ServiceError(code, text), times=ALWAYS)
    found = await refused(
        scene.client.read(BEGINNING), "PROVIDER_ERROR", "PROVIDER_AUTHENTICATION_FAILED", grpc.StatusCode.UNAVAILABLE
    )
    assert found.metadata["retryable"] == "false"
    check_harmless(found)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_missing_permission_names_the_call(scene: Scene, operation: str) -> None:
    await scene.write(scene.shop.put, "a", 1)
    scene.server.fail(operation, access_denied(operation, f"table/{TABLE} {ACCESS_KEY}"), times=ALWAYS)
    found = await refused(
        scene.client.read(BEGINNING), "PROVIDER_ERROR", "PROVIDER_AUTHORIZATION_FAILED", grpc.StatusCode.UNAVAILABLE
    )
    assert f"dynamodb:{operation}" in found.message
    assert found.metadata["retryable"] == "false"
    check_harmless(found)


# --- What cannot be mapped, and what is ours


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_an_unknown_refusal_is_the_providers_error(scene: Scene, operation: str) -> None:
    await scene.write(scene.shop.put, "a", 1)
    scene.server.fail(operation, invalid(f"something odd about {ACCESS_KEY}"), times=ALWAYS)
    found = await refused(scene.client.read(BEGINNING), "PROVIDER_ERROR", "PROVIDER_ERROR", grpc.StatusCode.UNKNOWN)
    check_harmless(found)


async def test_an_endpoint_without_times_lacks_the_capability(timed_scene: Scene) -> None:
    timed_scene.server.behaviour.at_timestamp = False
    moment = Timestamp(seconds=int(timed_scene.server.account.clock.now()) - 60)
    await refused(
        timed_scene.client.read(at_time(moment)),
        "UNSUPPORTED_CAPABILITY",
        "CHANGE_FEED_POINT_IN_TIME",
        grpc.StatusCode.UNIMPLEMENTED,
    )


async def test_a_time_in_the_future_is_the_callers_mistake(timed_scene: Scene) -> None:
    moment = Timestamp(seconds=int(timed_scene.server.account.clock.now()) + 3600)
    found = await refused(
        timed_scene.client.read(at_time(moment)),
        "INVALID_REQUEST",
        "FIELD_INVALID",
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    assert found.fields == ["start_position.at_time"]


async def test_a_shard_without_a_next_iterator_is_retired_and_no_error(scene: Scene) -> None:
    await scene.write(scene.shop.put, "a", 1)
    shard = scene.shard
    children = scene.server.split(shard)
    reading = await scene.client.read_all(BEGINNING, scope=physical(shard))
    assert reading.pages[-1].partition_retired
    assert sorted(c.partition_id for c in reading.pages[-1].child_partitions) == sorted(children)


# --- Secrets


async def test_no_secret_is_in_anything_that_was_logged_or_printed(
    scene: Scene, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    troubles: list[Callable[[], None]] = [
        lambda: scene.server.fail("*", ServiceError("InvalidSignatureException", f"{ACCESS_KEY} {SESSION_TOKEN}")),
        lambda: scene.server.fail("*", throttled(), times=3),
        lambda: scene.server.drop("*", times=3),
        lambda: scene.server.fail("*", invalid(f"no good: {SESSION_TOKEN}")),
    ]
    for trouble in troubles:
        trouble()
        with suppress(grpc.aio.AioRpcError):
            await scene.client.read(BEGINNING)
        with suppress(grpc.aio.AioRpcError):
            await scene.client.subscribe(BEGINNING).until("state_changed")
        scene.server.clear_faults()
    out, err = capfd.readouterr()
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("changefeed_gateway")]
    for secret in (ACCESS_KEY, SECRET_KEY, SESSION_TOKEN):
        assert secret not in "\n".join([out, err, *ours])
