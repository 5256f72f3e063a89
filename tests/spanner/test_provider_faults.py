"""Every refusal of the service reaches a caller as the documented category, reason and code, and without a secret."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import grpc
import pytest
import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from structlog.testing import capture_logs

from changefeed_gateway.app.logs import configure_logging
from changefeed_gateway.settings import LoggingSettings
from tests.conformance.client import BEGINNING, NOW, Refusal, after, at_time, physical, refused
from tests.conformance.journal import ids
from tests.faults import ALWAYS
from tests.spanner.gateway import IMPATIENT, RETRIES
from tests.spanner.scene import CHANGES, MAIN, Scene, made, thing
from tests.spanner.server.behaviour import Behaviour
from tests.spanner.server.errors import (
    ServiceError,
    aborted,
    access_denied,
    invalid,
    throttled,
    unauthenticated,
    unavailable,
)

pytestmark = pytest.mark.req("E3", "P6")

OPERATIONS = ("Metadata", "Statement", "Initial", "Partition")
"""All that a page from now calls: the catalog, the time, the partitions, and one of them."""
TOKEN = "secret-partition-token-in-a-text"


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with made() as scene:
        yield scene


@pytest.fixture(autouse=True)
def _quick_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep what is logged as it is: to draw the traceback of an error with all it holds takes seconds."""
    if "capfd" in request.fixturenames:
        yield
        return
    with capture_logs():
        yield


async def check_expired(answer: Awaitable[object], reason: str = "CHECKPOINT_EXPIRED") -> None:
    """Expect the one answer for history that is gone."""
    await refused(answer, "CHECKPOINT_EXPIRED", reason, grpc.StatusCode.OUT_OF_RANGE)


async def check_recreated(answer: Awaitable[object]) -> None:
    found = await refused(answer, "INVALID_REQUEST", "TOKEN_RESOURCE_RECREATED", grpc.StatusCode.INVALID_ARGUMENT)
    assert found.fields == ["start_position.continuation_token"]


def check_harmless(found: Refusal) -> None:
    """Nothing of the service's own text in what a caller is told."""
    assert TOKEN not in str(found)


def error(code: grpc.StatusCode, text: str) -> ServiceError:
    return ServiceError(code, text)


# --- Expiry and re-creation


@pytest.mark.req("US2.2", "CF-08")
@pytest.mark.parametrize("bounds_told", [True, False])
async def test_a_start_before_what_is_kept_is_expiry(bounds_told: bool) -> None:
    async with made(Behaviour(bounds_told=bounds_told)) as scene:
        scene.put(thing(1))
        token = (await scene.client.read(NOW)).continuation_token
        scene.put(thing(2))
        scene.server.trim(MAIN, CHANGES)
        await check_expired(scene.client.read(after(token)))


async def test_a_partition_that_aged_out_is_expiry_in_either_text() -> None:
    async with made(Behaviour(aged_out_text=True)) as scene:
        partition = scene.partition
        token = (await scene.client.read(NOW, scope=physical(partition))).continuation_token
        scene.server.split(MAIN, CHANGES, partition)
        scene.put(thing(1))
        scene.server.trim(MAIN, CHANGES)
        await check_expired(scene.client.read(after(token)))


async def test_a_time_before_what_is_kept_is_named_so(scene: Scene) -> None:
    long_ago = Timestamp(seconds=int(datetime(2001, 1, 1, tzinfo=UTC).timestamp()))
    await check_expired(scene.client.read(at_time(long_ago)), "START_TIME_BEFORE_RETENTION")


async def test_a_stream_that_was_made_anew_refuses_the_tokens_of_the_first(scene: Scene) -> None:
    scene.put(thing(1))
    tokens = [
        (await scene.client.read(start, scope=scope)).continuation_token
        for start in (NOW, BEGINNING)
        for scope in (None, physical(scene.partition))
    ]
    scene.server.recreate_stream(MAIN, CHANGES)
    for token in tokens:
        await check_recreated(scene.client.read(after(token)))
        await check_recreated(scene.client.read(after(token), wait=5))
        await check_recreated(scene.client.resolve(after(token)))


async def test_a_stream_made_anew_within_its_retention_is_told_from_one_whose_history_ran_out(scene: Scene) -> None:
    token = (await scene.client.read(NOW)).continuation_token
    scene.server.recreate_stream(MAIN, CHANGES)
    scene.server.pass_time(timedelta(days=8))
    # Spanner says when a stream was made only as long as it holds everything since.
    await check_expired(scene.client.read(after(token)))


async def test_a_foreign_partition_in_a_token_of_ours_is_another_life_of_the_stream(scene: Scene) -> None:
    token = (await scene.client.read(NOW)).continuation_token
    foreign = invalid("Specified partition_token is invalid, as it does not belong to the Change Stream")
    scene.server.fail("Partition", foreign)
    await check_recreated(scene.client.read(after(token)))


# --- The collection


async def test_a_stream_that_is_not_there_is_not_provisioned(scene: Scene) -> None:
    token = (await scene.client.read(NOW)).continuation_token
    scene.server.drop_stream(MAIN, CHANGES)
    code = grpc.StatusCode.FAILED_PRECONDITION
    for start in (NOW, BEGINNING, after(token)):
        found = await refused(scene.client.read(start), "INVALID_REQUEST", "FEED_NOT_PROVISIONED", code)
        assert "CREATE CHANGE STREAM" in found.message


@pytest.mark.parametrize("postgres", [False, True])
async def test_a_stream_that_is_dropped_under_a_reader_is_not_provisioned(postgres: bool) -> None:
    async with made(postgres=postgres) as scene, scene.client.subscribe(NOW) as stream:
        await stream.until_live()
        scene.server.drop_stream(MAIN, CHANGES)
        await stream.to_the_end()
        answer = scene.client.read(after(stream.token))
        code = grpc.StatusCode.FAILED_PRECONDITION
        await refused(answer, "INVALID_REQUEST", "FEED_NOT_PROVISIONED", code)


@pytest.mark.parametrize("text", ["Database not found: x", "Instance not found: x"])
async def test_a_database_or_an_instance_that_is_not_there_is_not_found(scene: Scene, text: str) -> None:
    scene.server.fail("*", error(grpc.StatusCode.NOT_FOUND, text), times=ALWAYS)
    await refused(scene.client.read(NOW), "NOT_FOUND", "DATABASE_NOT_FOUND", grpc.StatusCode.NOT_FOUND)


async def test_a_mutable_key_range_is_refused_by_its_name() -> None:
    options = {"value_capture_type": "NEW_ROW", "partition_mode": "MUTABLE_KEY_RANGE"}
    async with made(options=options) as scene:
        code = grpc.StatusCode.FAILED_PRECONDITION
        found = await refused(scene.client.read(NOW), "INVALID_REQUEST", "FEED_NOT_PROVISIONED", code)
        assert "MUTABLE_KEY_RANGE" in found.message


# --- The end of a partition, which is never taken for granted


async def test_a_bounded_query_that_ends_without_its_child_record_is_asked_again_at_its_bound(scene: Scene) -> None:
    partition = scene.partition
    start = (await scene.client.resolve(NOW, scope=physical(partition))).continuation_token
    scene.put(thing(1))
    children = scene.server.split(MAIN, CHANGES, partition)
    scene.server.omit_child_records(MAIN, CHANGES, partition, times=1)
    scene.put(thing(2))
    page = await scene.client.read(after(start))
    assert page.partition_retired
    assert len(page.events) == 1
    assert [child.partition_id for child in page.child_partitions] == children


@pytest.mark.req("P1")
@pytest.mark.parametrize("after_messages", [0, 1, 2])
async def test_a_bounded_query_that_ends_early_takes_nothing_with_it(after_messages: int) -> None:
    async with made(Behaviour(records_per_message=1)) as scene:
        for number in range(4):
            scene.put(thing(number))
        scene.server.end_early("Partition", after_messages=after_messages)
        events = (await scene.client.read_all(BEGINNING)).events
        assert [event.key.partition_key for event in events] == ["0", "1", "2", "3"]


@pytest.mark.req("P1")
async def test_a_bounded_query_that_ends_early_behind_a_heartbeat_tells_nothing_of_the_rest() -> None:
    async with made(Behaviour(records_per_message=1)) as scene:
        start = after((await scene.client.resolve(NOW)).continuation_token)
        for number in range(4):
            scene.put(thing(number))
        scene.server.beat_early(MAIN, CHANGES, scene.partition, times=2)
        scene.server.end_early("Partition", after_messages=0)
        scene.server.end_early("Partition", after_messages=1)
        page = await scene.client.read(start)
        events = [*page.events, *(await scene.client.read_all(after(page.continuation_token))).events]
        assert [event.key.partition_key for event in events] == ["0", "1", "2", "3"]


@pytest.mark.req("E3")
async def test_bounded_queries_that_always_end_early_are_a_failure_and_not_asked_in_a_loop(scene: Scene) -> None:
    scene.put(thing(1))
    token = (await scene.client.resolve(BEGINNING)).continuation_token
    scene.server.calls.clear()
    for _ in range(RETRIES.attempts):
        scene.server.end_early("Partition", after_messages=0)
        scene.server.end_early("Partition", after_messages=2)
    code = grpc.StatusCode.UNAVAILABLE
    await refused(scene.client.read(after(token)), "TRANSIENT_FAILURE", "PROVIDER_UNAVAILABLE", code)
    assert scene.server.calls.count("Partition") == 2 * RETRIES.attempts


@pytest.mark.req("P1")
@pytest.mark.parametrize("after_messages", [1, 2, 3])
async def test_a_bounded_query_that_ends_between_two_transactions_of_one_time_takes_nothing_with_it(
    after_messages: int,
) -> None:
    async with made(Behaviour(records_per_message=1)) as scene:
        time = scene.put(thing(0)).timestamp
        for number in range(1, 4):
            scene.put(thing(number), at=time)
        start = after((await scene.client.resolve(BEGINNING)).continuation_token)
        scene.server.end_early("Partition", after_messages=after_messages)
        page = await scene.client.read(start)
        events = [*page.events, *(await scene.client.read_all(after(page.continuation_token))).events]
        assert [event.key.partition_key for event in events] == ["0", "1", "2", "3"]


@pytest.mark.req("P1")
async def test_a_bounded_query_that_ends_early_before_its_partition_does_takes_nothing_with_it() -> None:
    async with made(Behaviour(records_per_message=1)) as scene:
        partition = scene.partition
        start = after((await scene.client.resolve(NOW, scope=physical(partition))).continuation_token)
        for number in range(4):
            scene.put(thing(number))
        children = scene.server.split(MAIN, CHANGES, partition)
        scene.server.end_early("Partition", after_messages=1)
        events: list[str] = []
        while not (page := await scene.client.read(start)).partition_retired:
            events += [event.key.partition_key for event in page.events]
            start = after(page.continuation_token)
        assert [*events, *(event.key.partition_key for event in page.events)] == ["0", "1", "2", "3"]
        assert [child.partition_id for child in page.child_partitions] == children


async def test_a_query_that_never_names_the_children_is_never_taken_for_finished(scene: Scene) -> None:
    partition = scene.partition
    start = (await scene.client.resolve(NOW, scope=physical(partition))).continuation_token
    scene.put(thing(1))
    scene.server.split(MAIN, CHANGES, partition)
    scene.server.omit_child_records(MAIN, CHANGES, partition)
    page = await scene.client.read(after(start))
    assert len(page.events) == 1
    assert not page.partition_retired
    await refused(
        scene.client.read(after(page.continuation_token)), "PROVIDER_ERROR", "HISTORY_GAP", grpc.StatusCode.DATA_LOSS
    )


async def test_an_endless_query_that_ends_is_asked_again(scene: Scene) -> None:
    async with scene.client.subscribe(NOW) as stream:
        await stream.until_live()
        for number in range(3):
            scene.server.end_queries(MAIN, CHANGES, scene.partition)
            scene.put(thing(number))
            await stream.until_events(number + 1)
    assert len(set(ids(stream.events))) == 3


async def test_a_position_behind_the_end_of_a_partition_leads_to_its_children(scene: Scene) -> None:
    """Now is asked for, and the partition ends before it is read: its end is in the refusal's text."""
    partition = scene.partition
    [child] = [scene.server.move(MAIN, CHANGES, partition)]
    scene.put(thing(1))
    token = (await scene.client.resolve(NOW, scope=physical(partition))).continuation_token
    page = await scene.client.read(after(token))
    assert page.partition_retired
    assert [c.partition_id for c in page.child_partitions] == [child]


async def test_an_end_that_the_service_does_not_tell_is_a_loud_failure() -> None:
    async with made(Behaviour(bounds_told=False)) as scene:
        partition = scene.partition
        scene.server.move(MAIN, CHANGES, partition)
        answer = scene.client.resolve(NOW, scope=physical(partition))
        await refused(answer, "PROVIDER_ERROR", "PROVIDER_ERROR", grpc.StatusCode.UNKNOWN)


async def test_a_merge_of_three_waits_for_all_its_parents() -> None:
    async with made(Behaviour(partitions=3)) as scene:
        token = (await scene.client.read(NOW)).continuation_token
        for number in range(12):
            scene.put(thing(number))
        scene.server.merge(MAIN, CHANGES, *scene.server.alive(MAIN, CHANGES))
        for number in range(12):
            scene.put(thing(number, "b"))
        reading = await scene.client.read_all(after(token), size=2)
        parts: dict[str, list[str]] = {}
        for event in reading.events:
            parts.setdefault(event.key.partition_key, []).append(event.event_id)
        assert len(reading.events) == 24
        order = [event.commit_timestamp.ToNanoseconds() for event in reading.events]
        assert max(order[:12]) < min(order[12:])


# --- Throttling and outages


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_throttling_says_when_to_come_back(scene: Scene, operation: str) -> None:
    scene.server.fail(operation, throttled(), times=ALWAYS)
    found = await refused(scene.client.read(NOW), "THROTTLED", "PROVIDER_THROTTLED", grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert found.retry_delay
    assert found.metadata["retryable"] == "true"
    assert sum(scene.server.calls.errors.values()) <= 10


OUTAGES = [
    unavailable(),
    aborted(),
    error(grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
    error(grpc.StatusCode.CANCELLED, f"The operation was cancelled by {TOKEN}"),
    error(grpc.StatusCode.UNKNOWN, f"Stream removed from {TOKEN}"),
]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.code.name)
async def test_an_outage_says_when_to_come_back(scene: Scene, operation: str, outage: ServiceError) -> None:
    scene.server.fail(operation, outage, times=ALWAYS)
    await check_outage(scene)
    # Google's own iterator asks a thousand times in two seconds.
    assert sum(scene.server.calls.errors.values()) <= 10


async def check_outage(scene: Scene, reason: str = "PROVIDER_UNAVAILABLE") -> None:
    """Expect an error to come back after, and then an answer."""
    found = await refused(scene.client.read(NOW), "TRANSIENT_FAILURE", reason, grpc.StatusCode.UNAVAILABLE)
    assert found.retry_delay
    check_harmless(found)
    scene.server.clear_faults()
    scene.put(thing(1))
    assert len((await scene.client.read_all(BEGINNING)).events) == 1


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_moment_of_trouble_is_sat_out(scene: Scene, operation: str) -> None:
    scene.put(thing(1))
    scene.server.fail(operation, unavailable())
    assert not (await scene.client.read(NOW)).events
    assert scene.server.calls.errors[operation, "UNAVAILABLE"] == 1


@pytest.mark.parametrize("text", ["HTTP/2 error code: INTERNAL_ERROR", "Connection closed with unknown cause"])
async def test_a_connection_that_breaks_off_is_sat_out(scene: Scene, text: str) -> None:
    scene.server.fail("Partition", error(grpc.StatusCode.INTERNAL, text))
    assert not (await scene.client.read(NOW)).events
    assert scene.server.calls.errors["Partition", "INTERNAL"] == 1


async def test_a_deadline_of_the_service_is_a_timeout(scene: Scene) -> None:
    scene.server.fail("Partition", error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded"), times=ALWAYS)
    await check_outage(scene, "PROVIDER_TIMEOUT")


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_service_that_does_not_answer_is_a_timeout(operation: str) -> None:
    async with made(retries=IMPATIENT) as scene:
        scene.server.stall(operation)
        await check_outage(scene, "PROVIDER_TIMEOUT")


@pytest.mark.parametrize("after_messages", [0, 1, 2])
async def test_a_query_that_breaks_in_the_middle_goes_on_where_it_was(after_messages: int) -> None:
    async with made(Behaviour(records_per_message=1)) as scene:
        for number in range(6):
            scene.put(thing(number))
        scene.server.fail("Partition", unavailable(), times=2, after_messages=after_messages)
        assert len((await scene.client.read_all(BEGINNING)).events) == 6


@pytest.mark.parametrize("code", [grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN], ids=lambda code: code.name)
async def test_a_stream_goes_on_when_the_service_cancels_the_query_that_follows(
    scene: Scene, code: grpc.StatusCode
) -> None:
    async with scene.client.subscribe(NOW) as stream:
        await stream.until_live()
        for number in range(3):
            scene.server.fail("Partition", error(code, "Ended"), after_messages=1)
            scene.server.end_queries(MAIN, CHANGES, scene.partition)
            scene.put(thing(number))
            await stream.until_events(number + 1)
    assert scene.server.calls.errors["Partition", code.name] == 3
    assert len(set(ids(stream.events))) == 3


@pytest.mark.parametrize("postgres", [False, True])
async def test_a_record_that_is_cut_anywhere_is_joined_and_a_cut_answer_is_no_answer(postgres: bool) -> None:
    behaviour = Behaviour(chunk_every=7, records_per_message=1, resume_tokens=False)
    async with made(behaviour, postgres=postgres) as scene:
        scene.put(thing(1, "ünï" * 50), thing(2, '"\\' * 20))
        scene.put(thing(3, ""))
        scene.server.end_early("Partition", after_messages=2)
        events = (await scene.client.read_all(BEGINNING)).events
        assert [event.key.partition_key for event in events] == ["1", "2", "3"]


async def test_a_session_that_the_service_forgot_is_made_again(scene: Scene) -> None:
    await scene.client.read(NOW)
    forgotten = error(grpc.StatusCode.NOT_FOUND, "Session not found: projects/x")
    scene.server.fail("Statement", forgotten)
    await scene.client.read(NOW)
    scene.server.fail("Partition", forgotten)
    await scene.client.read(NOW)
    assert scene.server.calls.count("CreateSession") == 3


# --- Permission, and what cannot be mapped


@pytest.mark.parametrize("operation", ["CreateSession", *OPERATIONS])
async def test_a_missing_permission_is_named(scene: Scene, operation: str) -> None:
    scene.server.fail(operation, access_denied(f"database {TOKEN}"), times=ALWAYS)
    found = await refused(
        scene.client.read(NOW), "PROVIDER_ERROR", "PROVIDER_AUTHORIZATION_FAILED", grpc.StatusCode.UNAVAILABLE
    )
    assert "spanner.databases.select" in found.message
    assert found.metadata["retryable"] == "false"
    check_harmless(found)


@pytest.mark.parametrize(
    "refusal",
    [
        unauthenticated(),
        # As gRPC tells of what Google's library raises when it renews a token.
        error(
            grpc.StatusCode.UNAVAILABLE,
            "Getting metadata from plugin failed with error: ('invalid_grant: Invalid JWT Signature.', {})",
        ),
    ],
    ids=["told", "renewed"],
)
async def test_refused_credentials_are_the_connections(scene: Scene, refusal: ServiceError) -> None:
    scene.server.fail("*", refusal, times=ALWAYS)
    found = await refused(
        scene.client.read(NOW), "PROVIDER_ERROR", "PROVIDER_AUTHENTICATION_FAILED", grpc.StatusCode.UNAVAILABLE
    )
    assert found.metadata["retryable"] == "false"


UNKNOWN = [
    error(grpc.StatusCode.OUT_OF_RANGE, f"Something new about {TOKEN}"),
    error(grpc.StatusCode.INVALID_ARGUMENT, f"Something new about {TOKEN}"),
    error(grpc.StatusCode.NOT_FOUND, f"Something new about {TOKEN}"),
    error(grpc.StatusCode.INTERNAL, f"A fault about {TOKEN}"),
    error(grpc.StatusCode.DATA_LOSS, f"Lost {TOKEN}"),
    error(grpc.StatusCode.INVALID_ARGUMENT, "If end_timestamp is specified, start_timestamp must be <= end_timestamp."),
    error(grpc.StatusCode.INVALID_ARGUMENT, "start_timestamp must not be null."),
    error(grpc.StatusCode.OUT_OF_RANGE, "heartbeat_milliseconds must be within min 1000 and max 300000."),
    error(grpc.StatusCode.UNIMPLEMENTED, "Change stream TVF must not be combined with other SQL operations."),
    error(grpc.StatusCode.INVALID_ARGUMENT, "Change stream queries must be strong reads"),
]


@pytest.mark.parametrize("failure", UNKNOWN, ids=lambda failure: failure.message[:20])
async def test_an_unknown_refusal_is_the_providers_error_and_never_an_end(scene: Scene, failure: ServiceError) -> None:
    token = (await scene.client.read(NOW)).continuation_token
    scene.server.fail("Partition", failure, times=ALWAYS)
    for start in (NOW, after(token)):
        code = grpc.StatusCode.UNKNOWN
        found = await refused(scene.client.read(start), "PROVIDER_ERROR", "PROVIDER_ERROR", code)
        check_harmless(found)


async def test_a_time_in_the_future_is_the_callers_mistake(scene: Scene) -> None:
    moment = Timestamp(seconds=scene.server.now() // 10**9 + 60)
    code = grpc.StatusCode.INVALID_ARGUMENT
    found = await refused(scene.client.read(at_time(moment)), "INVALID_REQUEST", "FIELD_INVALID", code)
    assert found.fields == ["start_position.at_time"]
    too_far = error(grpc.StatusCode.OUT_OF_RANGE, "Specified start_timestamp is too far in the future.")
    scene.server.fail("Initial", too_far)
    moment = Timestamp(seconds=scene.server.now() // 10**9)
    await refused(scene.client.read(at_time(moment)), "INVALID_REQUEST", "FIELD_INVALID", code)


# --- Secrets


@pytest.mark.usefixtures("restored_logging")
async def test_no_text_of_the_service_is_in_anything_that_was_logged_or_printed(
    scene: Scene, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    # As the gateway writes it, not as a test's console draws it.
    configure_logging(LoggingSettings(format="json"))
    # A logger that is kept would write so for the tests that follow.
    structlog.configure(cache_logger_on_first_use=False)
    scene.put(thing(1, "a document of a customer"))
    troubles: list[Callable[[], None]] = [
        lambda: scene.server.fail("*", access_denied(TOKEN)),
        lambda: scene.server.fail("*", error(grpc.StatusCode.UNAVAILABLE, TOKEN), times=3),
        lambda: scene.server.fail("Partition", error(grpc.StatusCode.INTERNAL, TOKEN), times=3),
        lambda: scene.server.fail("Partition", error(grpc.StatusCode.OUT_OF_RANGE, TOKEN), times=3),
    ]
    partition = scene.partition
    for trouble in troubles:
        trouble()
        with suppress(grpc.aio.AioRpcError):
            await scene.client.read(BEGINNING)
        with suppress(grpc.aio.AioRpcError):
            await scene.client.subscribe(BEGINNING).until("state_changed")
        scene.server.clear_faults()
    await asyncio.sleep(0)
    out, err = capfd.readouterr()
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("changefeed_gateway")]
    for secret in (TOKEN, partition, "a document of a customer"):
        assert secret not in "\n".join([out, err, *ours])
