"""The Python consumer keeps the contract: watch heartbeats, resume, wait as asked, stop on what is final."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from changefeed.v1.read_changes_pb2 import ReadChangesResponse
from changefeed.v1.subscribe_pb2 import (
    CLOSING_REASON_DRAINING,
    CLOSING_REASON_MAX_AGE,
    CLOSING_REASON_MAX_EVENTS,
    ClosingReason,
    SubscribeResponse,
)
from changefeed_client import (
    BEGINNING,
    NOW,
    ChangeFeedClient,
    ChangeFeedRpcError,
    ClientClosed,
    Delivery,
    StreamInterrupted,
    Tail,
    after,
    at_time,
    collection,
    connect,
)
from tests.clients.relay import Relay
from tests.clients.scripted_gateway import (
    EXPIRED,
    Raw,
    Refusal,
    Script,
    ScriptedGateway,
    Silence,
    batch,
    catching_up,
    closing,
    heartbeat,
    live,
    opened,
)

ADDRESS = collection("main/documents")
SHORT = timedelta(milliseconds=300)
UNAVAILABLE = Refusal(
    code=grpc.StatusCode.UNAVAILABLE,
    reason="PROVIDER_UNAVAILABLE",
    category="TRANSIENT_FAILURE",
    retryable=True,
)

Play = Callable[..., Awaitable[tuple[ScriptedGateway, ChangeFeedClient]]]


@pytest.fixture
async def play() -> AsyncIterator[Play]:
    started: list[tuple[ScriptedGateway, ChangeFeedClient]] = []

    async def start(*scripts: Script) -> tuple[ScriptedGateway, ChangeFeedClient]:
        gateway = ScriptedGateway(*scripts)
        started.append((gateway, connect(await gateway.start())))
        return started[-1]

    yield start
    for gateway, client in started:
        await client.aclose()
        await gateway.stop()


async def until_expired(tail: Tail) -> list[Delivery]:
    """What a tail delivers up to the CHECKPOINT_EXPIRED with which every script here ends."""
    found: list[Delivery] = []

    async def collect() -> None:
        async with asyncio.timeout(20), tail:
            async for delivery in tail:
                found.append(delivery)

    with pytest.raises(ChangeFeedRpcError) as caught:
        await collect()
    assert caught.value.category == "CHECKPOINT_EXPIRED"
    return found


def ids(deliveries: list[Delivery]) -> list[str]:
    return [event.event_id for delivery in deliveries for event in delivery.events]


async def test_every_message_with_a_token_is_delivered(play: Play) -> None:
    _, client = await play([opened("t0"), catching_up(), batch("t1", "a", "b"), live(), heartbeat("t2"), EXPIRED])
    found = await until_expired(client.tail(ADDRESS, BEGINNING))
    tokens = [(delivery.continuation_token, delivery.live) for delivery in found]
    assert tokens == [("t0", False), ("t0", False), ("t1", False), ("t1", True), ("t2", True)]
    assert ids(found) == ["a", "b"]


@pytest.mark.req("US2.1", "P4")
async def test_a_broken_stream_resumes_after_the_last_delivery(play: Play) -> None:
    gateway, client = await play(
        [opened("t0"), batch("t1", "a"), UNAVAILABLE],
        [opened("t1"), catching_up(), batch("t2", "b"), EXPIRED],
    )
    found = await until_expired(client.tail(ADDRESS, NOW))
    assert ids(found) == ["a", "b"]
    assert [request.start_position for request in gateway.requests] == [
        NOW,
        after("t1"),
    ]
    # The second opened repeats a token that is known already.
    assert [delivery.continuation_token for delivery in found] == ["t0", "t1", "t2"]


async def test_a_stream_that_breaks_before_opened_starts_where_it_was_told(play: Play) -> None:
    gateway, client = await play([UNAVAILABLE], [opened("t0"), EXPIRED])
    found = await until_expired(client.tail(ADDRESS, NOW))
    assert [delivery.continuation_token for delivery in found] == ["t0"]
    assert [request.start_position for request in gateway.requests] == [NOW, NOW]


async def test_a_stream_that_ends_without_farewell_is_opened_again(play: Play) -> None:
    gateway, client = await play([opened("t0"), batch("t1", "a")], [opened("t1"), EXPIRED])
    found = await until_expired(client.tail(ADDRESS, BEGINNING))
    assert ids(found) == ["a"]
    assert len(gateway.requests) == 2


@pytest.mark.parametrize("reason", [CLOSING_REASON_DRAINING, CLOSING_REASON_MAX_AGE])
async def test_reconnect_after_is_honoured(play: Play, reason: ClosingReason) -> None:
    gateway, client = await play(
        [opened("t0"), closing(reason, "t5", SHORT)],
        [opened("t5"), EXPIRED],
    )
    await until_expired(client.tail(ADDRESS, BEGINNING))
    assert gateway.requests[1].start_position == after("t5")
    assert gateway.arrivals[1] - gateway.arrivals[0] >= SHORT.total_seconds()


async def test_retry_info_is_honoured(play: Play) -> None:
    throttled = Refusal(
        code=grpc.StatusCode.RESOURCE_EXHAUSTED,
        reason="TOO_MANY_STREAMS",
        category="THROTTLED",
        retryable=True,
        retry_after=SHORT,
    )
    gateway, client = await play([throttled], [opened("t0"), EXPIRED])
    await until_expired(client.tail(ADDRESS, BEGINNING))
    assert gateway.arrivals[1] - gateway.arrivals[0] >= SHORT.total_seconds()


async def test_pauses_grow_while_nothing_but_a_preamble_comes(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    useless: Script = [opened("t0"), catching_up(), UNAVAILABLE]
    _, client = await play(*[useless] * 3, [opened("t0"), batch("t1", "a"), UNAVAILABLE], [EXPIRED])
    tail = client.tail(ADDRESS, BEGINNING)
    with caplog.at_level(logging.DEBUG, logger="changefeed_client"):
        await until_expired(tail)
    # The first attempt of each outage is told, the later ones only to who looks closely.
    told = [record.levelno for record in caplog.records if "interrupted" in record.getMessage()]
    assert told == [logging.WARNING, logging.DEBUG, logging.DEBUG, logging.WARNING]
    assert tail.reconnects == 4


async def test_patience_ends_retries(play: Play) -> None:
    _, client = await play(*[[UNAVAILABLE]] * 50)
    async with asyncio.timeout(20), client.tail(ADDRESS, BEGINNING, patience=SHORT) as tail:
        with pytest.raises(ChangeFeedRpcError) as caught:
            await anext(tail)
    assert caught.value.category == "TRANSIENT_FAILURE"


@pytest.mark.parametrize(
    ("code", "reason", "category"),
    [
        (grpc.StatusCode.OUT_OF_RANGE, "CHECKPOINT_EXPIRED", "CHECKPOINT_EXPIRED"),
        (grpc.StatusCode.INVALID_ARGUMENT, "TOKEN_SIGNATURE", "INVALID_REQUEST"),
        (grpc.StatusCode.NOT_FOUND, "COLLECTION_NOT_FOUND", "NOT_FOUND"),
        (grpc.StatusCode.DATA_LOSS, "HISTORY_GAP", "PROVIDER_ERROR"),
    ],
)
async def test_final_errors_end_a_tail(play: Play, code: grpc.StatusCode, reason: str, category: str) -> None:
    refusal = Refusal(code=code, reason=reason, category=category)
    gateway, client = await play([opened("t0"), refusal], [opened("t0")])
    async with asyncio.timeout(20), client.tail(ADDRESS, BEGINNING) as tail:
        await anext(tail)
        with pytest.raises(ChangeFeedRpcError) as caught:
            await anext(tail)
    assert (caught.value.reason, caught.value.category) == (reason, category)
    assert len(gateway.requests) == 1


async def test_max_events_counts_over_reconnects(play: Play) -> None:
    gateway, client = await play(
        [opened("t0"), batch("t1", "a", "b"), UNAVAILABLE],
        [opened("t1"), batch("t2", "c"), closing(CLOSING_REASON_MAX_EVENTS, "t2")],
    )
    async with asyncio.timeout(20), client.tail(ADDRESS, BEGINNING, max_events=3) as tail:
        found = [delivery async for delivery in tail]
    assert ids(found) == ["a", "b", "c"]
    assert [request.max_events for request in gateway.requests] == [3, 1]


async def test_a_message_of_a_later_contract_is_passed_over(play: Play) -> None:
    later = SubscribeResponse.FromString(b"\xfa\x01\x03abc")
    _, client = await play([opened("t0"), later, batch("t1", "a"), EXPIRED])
    found = await until_expired(client.tail(ADDRESS, BEGINNING))
    assert ids(found) == ["a"]


async def test_two_missed_heartbeats_leave_a_dead_connection(play: Play) -> None:
    """The connection stays up and says nothing, as behind a firewall that forgot it: only heartbeats tell."""
    gateway, _ = await play(
        [opened("t0", heartbeat=SHORT), batch("t1", "a"), Silence()],
        [opened("t1"), batch("t2", "b"), EXPIRED],
    )
    relay = Relay(gateway.target)
    client = connect(await relay.start())
    try:
        async with asyncio.timeout(20), client.tail(ADDRESS, BEGINNING) as tail:
            await anext(tail)
            assert ids([await anext(tail)]) == ["a"]
            relay.stall()
            assert ids([await anext(tail)]) == ["b"]
        assert relay.connections == 2
        assert gateway.arrivals[1] - gateway.arrivals[0] >= 2 * SHORT.total_seconds()
    finally:
        await client.aclose()
        await relay.stop()


async def test_silence_beyond_patience_is_an_error(play: Play) -> None:
    _, client = await play([opened("t0", heartbeat=SHORT), Silence()])
    async with asyncio.timeout(20), client.tail(ADDRESS, NOW, patience=timedelta(0)) as tail:
        await anext(tail)
        with pytest.raises(StreamInterrupted):
            await anext(tail)


async def test_pages_follow_tokens_and_wait_as_asked(play: Play) -> None:
    gateway, client = await play()
    throttled = Refusal(
        code=grpc.StatusCode.RESOURCE_EXHAUSTED,
        reason="PROVIDER_THROTTLED",
        category="THROTTLED",
        retryable=True,
        retry_after=SHORT,
    )
    gateway.pages = [
        ReadChangesResponse(continuation_token="t1", more_available=True),
        throttled,
        ReadChangesResponse(continuation_token="t2"),
    ]
    began = asyncio.get_running_loop().time()
    tokens = [page.continuation_token async for page in client.pages(ADDRESS, BEGINNING)]
    assert tokens == ["t1", "t2"]
    assert [read.start_position for read in gateway.reads] == [BEGINNING, after("t1"), after("t1")]
    assert asyncio.get_running_loop().time() - began >= SHORT.total_seconds()


async def test_unary_calls_are_retried_when_the_gateway_is_unavailable(play: Play) -> None:
    gateway, client = await play()
    gateway.pages = [UNAVAILABLE, UNAVAILABLE, ReadChangesResponse(continuation_token="t1")]
    page = await client.read_page(ADDRESS, BEGINNING)
    assert page.continuation_token == "t1"
    assert len(gateway.reads) == 3


async def test_an_error_is_decoded_whole(play: Play) -> None:
    gateway, client = await play()
    gateway.pages = [
        Refusal(
            code=grpc.StatusCode.INVALID_ARGUMENT,
            reason="FIELD_INVALID",
            category="INVALID_REQUEST",
            metadata={"more": "x"},
            retry_after=SHORT,
        )
    ]
    with pytest.raises(ChangeFeedRpcError) as caught:
        await client.read_page(ADDRESS, BEGINNING)
    error = caught.value
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.category, error.reason, error.request_id) == (
        "INVALID_REQUEST",
        "FIELD_INVALID",
        "request-1",
    )
    assert not error.retryable
    assert error.retry_after == SHORT
    assert dict(error.metadata) == {"more": "x"}
    assert [(part.field, part.description) for part in error.violations] == [("a", "b")]
    assert "request-1" in str(error)


async def test_nobody_listening_is_transient() -> None:
    async with connect("127.0.0.1:1") as client:
        with pytest.raises(ChangeFeedRpcError) as caught:
            await client.read_page(ADDRESS, BEGINNING)
    assert caught.value.category == "TRANSIENT_FAILURE"
    assert caught.value.retryable


def test_a_code_of_the_future_is_unknown() -> None:
    error = ChangeFeedRpcError.of_status(status_pb2.Status(code=99, message="m"))
    assert error.code is grpc.StatusCode.UNKNOWN
    assert not error.retryable


def test_positions_refuse_what_is_ambiguous() -> None:
    with pytest.raises(ValueError, match="time zone"):
        at_time(datetime(2026, 1, 1))
    assert at_time(datetime(2026, 1, 1, tzinfo=UTC)).at_time.seconds == 1767225600
    for text in ("", "main", "main/", "/documents"):
        with pytest.raises(ValueError, match="connection/collection"):
            collection(text)


def numbered(message: SubscribeResponse, number: int) -> SubscribeResponse:
    message.delivery_sequence = number
    return message


async def until_reading(tail: Tail) -> asyncio.Task[Delivery]:
    """A task that waits for what the gateway does not say."""
    await anext(tail)
    reading = asyncio.create_task(anext(tail))
    await asyncio.sleep(0)  # its turn, so that it waits
    return reading


@pytest.mark.req("P4")
@pytest.mark.parametrize("empty", [opened(""), batch("", "b"), heartbeat(""), closing(CLOSING_REASON_MAX_EVENTS, "")])
async def test_a_message_without_a_token_is_an_interruption(play: Play, empty: SubscribeResponse) -> None:
    gateway, client = await play(
        [opened("t0"), batch("t1", "a"), empty],
        [opened("t1"), batch("t2", "b"), EXPIRED],
    )
    found = await until_expired(client.tail(ADDRESS, BEGINNING))
    assert ids(found) == ["a", "b"]
    assert all(delivery.continuation_token for delivery in found)
    assert gateway.requests[1].start_position == after("t1")


async def test_a_farewell_without_a_token_keeps_the_last_one(play: Play) -> None:
    gateway, client = await play(
        [opened("t0"), batch("t1", "a"), closing(CLOSING_REASON_DRAINING, "", SHORT)], [opened("t1"), EXPIRED]
    )
    await until_expired(client.tail(ADDRESS, BEGINNING))
    assert gateway.requests[1].start_position == after("t1")
    assert gateway.arrivals[1] - gateway.arrivals[0] >= SHORT.total_seconds()


async def test_a_farewell_of_a_later_contract_is_one(play: Play) -> None:
    later = closing(CLOSING_REASON_DRAINING, "t5")
    later.closing.reason = 99  # type: ignore[assignment]
    gateway, client = await play([opened("t0"), later], [opened("t5"), EXPIRED])
    await until_expired(client.tail(ADDRESS, BEGINNING))
    assert gateway.requests[1].start_position == after("t5")


@pytest.mark.req("P1")
@pytest.mark.parametrize("number", [2, 4, -1])
async def test_a_gap_in_the_messages_is_an_interruption(play: Play, number: int) -> None:
    gateway, client = await play(
        [opened("t0"), batch("t1", "a"), numbered(batch("t3", "c"), number)],
        [opened("t1"), batch("t2", "b"), batch("t3", "c"), EXPIRED],
    )
    found = await until_expired(client.tail(ADDRESS, BEGINNING))
    assert ids(found) == ["a", "b", "c"]
    assert gateway.requests[1].start_position == after("t1")


async def test_a_reader_that_gives_up_waiting_keeps_the_stream_and_what_it_brings(play: Play) -> None:
    gateway, client = await play([opened("t0"), Silence()])
    async with asyncio.timeout(20), client.tail(ADDRESS, BEGINNING) as tail:
        await anext(tail)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(tail), 0.01)
        assert len(gateway.requests) == 1
    assert not tail.reconnects


async def test_pauses_grow_on_under_a_reader_that_gives_up_waiting(play: Play) -> None:
    gateway, client = await play(
        [opened("t0"), closing(CLOSING_REASON_DRAINING, "t5", SHORT)], [opened("t5"), batch("t6", "a"), Silence()]
    )
    async with asyncio.timeout(20), client.tail(ADDRESS, BEGINNING) as tail:
        found: list[Delivery] = []
        while not ids(found):
            with suppress(TimeoutError):
                found.append(await asyncio.wait_for(anext(tail), 0.01))
    assert gateway.arrivals[1] - gateway.arrivals[0] >= SHORT.total_seconds()
    assert len(gateway.requests) == 2


async def test_closing_the_client_ends_its_tails_with_an_error_of_their_own(play: Play) -> None:
    gateway, client = await play([opened("t0"), Silence()], [opened("t0"), Silence()])
    tails = [client.tail(ADDRESS, BEGINNING) for _ in range(2)]
    readings = [await until_reading(tail) for tail in tails]
    async with asyncio.timeout(20):
        await client.aclose()
        for reading in readings:
            with pytest.raises(ClientClosed):
                await reading
        for tail in tails:
            with pytest.raises(ClientClosed):
                await anext(tail)
        with pytest.raises(ClientClosed):
            client.tail(ADDRESS, BEGINNING)
        await gateway.until(lambda: not gateway.open)
        await client.aclose()


async def test_closing_the_client_ends_its_calls_with_an_error_of_their_own(play: Play) -> None:
    gateway, client = await play()
    gateway.pages = [Silence()]
    reading = asyncio.create_task(client.read_page(ADDRESS, BEGINNING))
    async with asyncio.timeout(20):
        await gateway.until(lambda: not gateway.reads)
        await client.aclose()
        with pytest.raises(ClientClosed):
            await reading
        with pytest.raises(ClientClosed):
            await client.read_page(ADDRESS, BEGINNING)


async def test_a_call_that_its_caller_cancels_is_cancelled(play: Play) -> None:
    gateway, client = await play()
    gateway.pages = [Silence()]
    reading = asyncio.create_task(client.read_page(ADDRESS, BEGINNING))
    async with asyncio.timeout(20):
        await gateway.until(lambda: not gateway.reads)
        reading.cancel()
        await client.aclose()
        with pytest.raises(asyncio.CancelledError):
            await reading


async def test_a_tail_closed_by_another_task_says_so_and_then_is_at_its_end(play: Play) -> None:
    _, client = await play([opened("t0"), Silence()])
    tail = client.tail(ADDRESS, BEGINNING)
    reading = await until_reading(tail)
    async with asyncio.timeout(20):
        await asyncio.gather(tail.aclose(), tail.aclose())
        with pytest.raises(ClientClosed):
            await reading
        assert [delivery async for delivery in tail] == []


async def test_two_readers_of_one_tail_are_refused(play: Play) -> None:
    _, client = await play([opened("t0"), Silence()])
    async with asyncio.timeout(20), client.tail(ADDRESS, BEGINNING) as tail:
        reading = await until_reading(tail)
        with pytest.raises(RuntimeError, match="another task"):
            await anext(tail)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading


async def test_a_tail_that_is_dropped_leaves_its_stream(play: Play) -> None:
    gateway, client = await play([opened("t0"), batch("t1", "a"), Silence()])
    async with asyncio.timeout(20):
        async for _ in client.tail(ADDRESS, BEGINNING):
            break
        gc.collect()
        await gateway.until(lambda: not gateway.open)


HOUR = timedelta(hours=1)
BUSY = Refusal(
    code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="BUSY", category="THROTTLED", retryable=True, retry_after=HOUR
)


@pytest.mark.parametrize("script", [[BUSY], [opened("t0"), closing(CLOSING_REASON_DRAINING, "t0", HOUR)]])
async def test_patience_is_not_spent_on_a_pause_that_outlasts_it(play: Play, script: Script) -> None:
    """Whoever has a minute's patience is told at once that the gateway asks for an hour."""
    _, client = await play(script)
    with pytest.raises((ChangeFeedRpcError, StreamInterrupted)) as caught:
        await ended(client.tail(ADDRESS, BEGINNING, patience=timedelta(minutes=1)))
    assert getattr(caught.value, "retry_after", None) == HOUR


async def ended(tail: Tail) -> None:
    async with asyncio.timeout(20), tail:
        async for _ in tail:
            pass


async def test_patience_begins_with_the_outage_and_not_with_the_quiet_before_it(play: Play) -> None:
    """A stream that was quiet for longer than the patience is not given up at its first interruption."""
    patience = timedelta(milliseconds=500)
    _, client = await play(
        [opened("t0", heartbeat=patience), Silence()],
        [opened("t0"), batch("t1", "a"), EXPIRED],
    )
    found = await until_expired(client.tail(ADDRESS, BEGINNING, patience=patience))
    assert ids(found) == ["a"]


@pytest.mark.parametrize("seconds", [-5, 2**62, -(2**62)])
async def test_lengths_of_time_that_are_none_do_no_harm(play: Play, seconds: int) -> None:
    hello, bye = opened("t0"), closing(CLOSING_REASON_DRAINING, "t0")
    hello.opened.heartbeat_interval.seconds = seconds
    bye.closing.reconnect_after.seconds = min(seconds, 0)
    _, client = await play([hello, batch("t1", "a"), bye], [EXPIRED])
    found = await until_expired(client.tail(ADDRESS, BEGINNING))
    assert ids(found) == ["a"]
    status = status_pb2.Status(code=14)
    status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=seconds)))
    retry_after = ChangeFeedRpcError.of_status(status).retry_after
    assert retry_after is not None
    assert retry_after >= timedelta(0)


async def test_details_that_are_none_are_passed_over(play: Play) -> None:
    _, client = await play([opened("t0"), batch("t1", "a"), Raw(grpc.StatusCode.UNAVAILABLE, b"\xff\xff")], [EXPIRED])
    found = await until_expired(client.tail(ADDRESS, BEGINNING))
    assert ids(found) == ["a"]
    status = status_pb2.Status(code=14, message="m")
    status.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")
    assert ChangeFeedRpcError.of_status(status).retryable


async def test_a_wait_beyond_any_calendar_is_waited_for(play: Play) -> None:
    gateway, client = await play()
    gateway.pages = [ReadChangesResponse(continuation_token="t1")]
    page = await client.read_page(ADDRESS, BEGINNING, max_wait=timedelta(days=3_000_000))
    assert page.continuation_token == "t1"


@pytest.mark.req("P4")
async def test_a_page_without_a_token_is_asked_for_again(play: Play) -> None:
    gateway, client = await play()
    gateway.pages = [
        ReadChangesResponse(continuation_token="t1", more_available=True),
        ReadChangesResponse(),
        ReadChangesResponse(continuation_token="t2"),
    ]
    tokens = [page.continuation_token async for page in client.pages(ADDRESS, BEGINNING)]
    assert tokens == ["t1", "t2"]
    assert [read.start_position for read in gateway.reads] == [BEGINNING, after("t1"), after("t1")]
