"""What callers see of a provider that fails, stalls or goes away: through a whole gateway."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest

from changefeed.v1 import change_feed_service_pb2_grpc
from changefeed_client.client import OPTIONS
from changefeed_gateway.core.errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    ChangeFeedError,
    CheckpointExpired,
    FeedNotProvisioned,
    HistoryGap,
    InternalFailure,
    InvalidRequest,
    NotFound,
    ProviderAccessFailed,
    ProviderAuthenticationFailed,
    ProviderAuthorizationFailed,
    ProviderFailure,
    Throttled,
    TransientFailure,
)
from changefeed_gateway.core.model import Address, Feed
from changefeed_gateway.providers.memory.collection import CollectionOptions
from changefeed_gateway.providers.memory.provider import MemoryProvider
from changefeed_gateway.providers.memory.store import MemoryStore
from tests.conformance.client import BEGINNING, NOW, Client, after, refusal, wire_address
from tests.conftest import StartGateway
from tests.gateway import QUICK

SECRET = "a secret of the driver"


class Subject:
    """A collection of one partition, its provider and a caller."""

    def __init__(self) -> None:
        store = MemoryStore()
        self.collection = store.create("things", CollectionOptions(partitions=1))
        self.other = store.create("others", CollectionOptions(partitions=1))
        self.provider = MemoryProvider(store)
        self.faults = self.provider.faults
        self.client: Client

    async def serve(self, start_gateway: StartGateway) -> None:
        limits = replace(QUICK, outage_patience=timedelta(milliseconds=300))
        gateway = await start_gateway({"here": self.provider}, limits=limits)
        address = Address(connection="here", database="", collection="things")
        self.client = Client(gateway.stub, wire_address(address))

    def put(self, name: str) -> None:
        self.collection.put("p", name, {})


@pytest.fixture
async def subject(start_gateway: StartGateway) -> Subject:
    subject = Subject()
    await subject.serve(start_gateway)
    return subject


ERRORS: list[tuple[ChangeFeedError, grpc.StatusCode, str]] = [
    (InvalidRequest("no"), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (FeedNotProvisioned("no"), grpc.StatusCode.FAILED_PRECONDITION, "INVALID_REQUEST"),
    (CheckpointExpired("no"), grpc.StatusCode.OUT_OF_RANGE, "CHECKPOINT_EXPIRED"),
    (NotFound("no"), grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
    (AuthenticationFailed("no"), grpc.StatusCode.UNAUTHENTICATED, "AUTHENTICATION_FAILED"),
    (AuthorizationFailed("no"), grpc.StatusCode.PERMISSION_DENIED, "AUTHORIZATION_FAILED"),
    (ProviderAuthenticationFailed("no"), grpc.StatusCode.UNAVAILABLE, "PROVIDER_ERROR"),
    (ProviderAuthorizationFailed("no"), grpc.StatusCode.UNAVAILABLE, "PROVIDER_ERROR"),
    (Throttled("no"), grpc.StatusCode.RESOURCE_EXHAUSTED, "THROTTLED"),
    (TransientFailure("no"), grpc.StatusCode.UNAVAILABLE, "TRANSIENT_FAILURE"),
    (ProviderFailure(SECRET), grpc.StatusCode.UNKNOWN, "PROVIDER_ERROR"),
    (HistoryGap("no"), grpc.StatusCode.DATA_LOSS, "PROVIDER_ERROR"),
    (InternalFailure(SECRET), grpc.StatusCode.INTERNAL, "INTERNAL"),
]


@pytest.mark.parametrize(("error", "code", "category"), ERRORS, ids=[type(e).__name__ for e, _, _ in ERRORS])
async def test_every_failure_of_a_read_reaches_the_caller_as_what_it_is(
    subject: Subject, error: ChangeFeedError, code: grpc.StatusCode, category: str
) -> None:
    token = (await subject.client.read(NOW)).continuation_token
    subject.faults.fail_read(error)
    found = await refusal(subject.client.read(after(token)))
    assert (found.code, found.category, found.reason) == (code, category, error.reason)
    assert found.metadata["provider"] == "memory"
    assert found.metadata["retryable"] == str(type(error).retryable).lower()
    assert (found.retry_delay is not None) == (type(error).retryable or isinstance(error, ProviderAccessFailed))
    assert SECRET not in found.message
    assert not (await subject.client.read(after(token))).events


async def test_a_client_that_retries_what_is_unavailable_is_held_back_until_an_operator_has_acted(
    start_gateway: StartGateway,
) -> None:
    asked = 0

    class Refused(MemoryProvider):
        async def open_feed(self, address: Address) -> Feed:
            nonlocal asked
            asked += 1
            raise ProviderAuthorizationFailed("grant it changefeed_reader")

    gateway = await start_gateway({"here": Refused(MemoryStore())})
    async with grpc.aio.insecure_channel(gateway.target, options=OPTIONS) as channel:
        address = wire_address(Address(connection="here", database="", collection="things"))
        client = Client(change_feed_service_pb2_grpc.ChangeFeedServiceStub(channel), address)
        found = await refusal(client.read(BEGINNING))
    assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "PROVIDER_AUTHORIZATION_FAILED")
    assert found.retry_delay == timedelta(seconds=30)
    assert asked == 1


async def test_an_exception_that_nobody_foresaw_tells_nothing_of_itself(subject: Subject) -> None:
    token = (await subject.client.read(NOW)).continuation_token
    subject.faults.fail_read(RuntimeError(SECRET))
    found = await refusal(subject.client.read(after(token)))
    assert (found.code, found.category) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert SECRET not in found.message


@pytest.mark.req("P7")
async def test_a_stalled_read_holds_up_nobody_else(subject: Subject) -> None:
    token = (await subject.client.read(NOW)).continuation_token
    stall = subject.faults.stall_reads()
    reading = asyncio.create_task(subject.client.read(after(token)))
    await stall.entered.wait()
    assert (await subject.client.capabilities()).provider == "memory"
    assert len(await subject.client.partitions()) == 1
    subject.put("a")
    stall.release()
    assert len((await reading).events) == 1


async def test_a_caller_that_gives_up_on_a_stalled_read_loses_nothing(subject: Subject) -> None:
    subject.put("a")
    stall = subject.faults.stall_reads()
    reading = asyncio.create_task(subject.client.read(BEGINNING))
    await stall.entered.wait()
    reading.cancel()
    await asyncio.wait([reading])
    stall.release()
    assert len((await subject.client.read(BEGINNING)).events) == 1


@pytest.mark.req("P1")
async def test_a_live_stream_sits_out_a_short_outage(subject: Subject) -> None:
    async with subject.client.subscribe(NOW) as stream:
        await stream.until_live()
        for number in range(3):
            subject.faults.fail_read(TransientFailure("out"), nth=number + 1)
        for number in range(5):
            subject.put(str(number))
        events = await stream.until_events(5)
    assert [event.key.components[1].value for event in events] == ["0", "1", "2", "3", "4"]


@pytest.mark.req("P1")
async def test_a_stream_that_catches_up_sits_out_a_short_outage(subject: Subject) -> None:
    for number in range(20):
        subject.put(str(number))
    async with subject.client.subscribe(BEGINNING, size=3) as stream:
        await stream.until("batch")
        subject.faults.fail_read(TransientFailure("out"))
        subject.faults.fail_read(Throttled("too fast"), nth=2)
        events = await stream.until_events(20)
    assert [event.key.components[1].value for event in events] == [str(n) for n in range(20)]


@pytest.mark.req("P1", "P4")
async def test_a_stream_that_an_outage_ends_resumes(subject: Subject) -> None:
    async with subject.client.subscribe(NOW) as stream:
        await stream.until_live()
        for number in range(200):
            subject.faults.fail_read(TransientFailure("out"), nth=number + 1)
        subject.put("a")
        subject.put("b")
        found = await refusal(stream.until_events(3))
    assert (found.code, found.category) == (grpc.StatusCode.UNAVAILABLE, "TRANSIENT_FAILURE")
    assert found.retry_delay is not None
    subject.faults.recover()
    rest = await subject.client.read_all(after(stream.token))
    names = [e.key.components[1].value for e in (*stream.events, *rest.events)]
    assert names == ["a", "b"]


async def test_a_collection_that_cannot_be_opened_is_not_read(subject: Subject) -> None:
    subject.faults.fail_open(TransientFailure("down"))
    reads = subject.faults.reads
    answers: list[Awaitable[object]] = [
        subject.client.read(NOW),
        subject.client.subscribe(NOW).next(),
        subject.client.capabilities(),
    ]
    for answer in answers:
        assert (await refusal(answer)).code is grpc.StatusCode.UNAVAILABLE
    assert subject.faults.reads == reads
    subject.faults.fail_open(None)
    await subject.client.read(NOW)


async def test_refused_credentials_of_the_gateway_are_no_problem_of_a_token(subject: Subject) -> None:
    token = (await subject.client.read(NOW)).continuation_token
    subject.faults.fail_open(ProviderAuthorizationFailed("grant it"))
    found = await refusal(subject.client.inspect(token))
    assert found.reason == "PROVIDER_AUTHORIZATION_FAILED"
