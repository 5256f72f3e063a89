"""The six RPCs over a real server and channel: requests in, answers out, and the byte path."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta

import grpc
import pytest

from changefeed.v1 import (
    capabilities_pb2,
    change_event_pb2,
    change_feed_service_pb2,
    partition_pb2,
    position_pb2,
    read_changes_pb2,
    resource_pb2,
    subscribe_pb2,
    token_pb2,
)
from changefeed_gateway.api.identity.door import Door
from changefeed_gateway.api.interceptors import CallGuard
from changefeed_gateway.api.service import SERVICE_NAME, ChangeFeedService
from changefeed_gateway.core.answer import (
    Batch,
    Closing,
    ClosingReason,
    ReadAnswer,
    ReadRequest,
    StateChanged,
    StreamItem,
    SubscriptionState,
    TokenReport,
)
from changefeed_gateway.core.errors import InvalidRequest, Reason
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import Address, EntireCollection, Now, Partition, PartitionId
from tests.api.gateway import Gateway, error_info
from tests.api.router_double import FEED, OPENED, RouterDouble

ADDRESS = resource_pb2.ResourceAddress(connection="main", collection="documents")
BEGINNING = position_pb2.StartPosition(beginning=position_pb2.Beginning())
READ = read_changes_pb2.ReadChangesRequest(address=ADDRESS, start_position=BEGINNING)
SUBSCRIBE = subscribe_pb2.SubscribeRequest(address=ADDRESS, start_position=BEGINNING)

# A record that no serializer would write: its event's fields stand in falling order. It arrives byte for byte only if
# nothing parses and builds it again.
BACKWARDS = b"\x0a\x08" + b"\x42\x01" + b"7" + b"\x0a\x03" + b"e-7"
EVENT = change_event_pb2.ChangeEvent(event_id="e-7", sequence="7")


def test_the_record_is_one_that_no_serializer_writes() -> None:
    page = read_changes_pb2.ReadChangesResponse.FromString(BACKWARDS)
    assert list(page.events) == [EVENT]
    assert page.SerializeToString() != BACKWARDS


async def test_read_changes_sends_records_as_they_are(gateway: Gateway, router: RouterDouble) -> None:
    router.answer = ReadAnswer(feed=FEED, records=[BACKWARDS] * 3, token="t", more_available=True, provider_calls=2)
    answer = await gateway.call_raw("ReadChanges", READ.SerializeToString())
    assert answer.startswith(BACKWARDS * 3)
    page = read_changes_pb2.ReadChangesResponse.FromString(answer)
    assert list(page.events) == [EVENT] * 3
    assert (page.continuation_token, page.more_available) == ("t", True)
    assert (page.diagnostics.provider, page.diagnostics.operation) == ("memory", "ReadChanges")
    assert page.diagnostics.provider_calls == 2
    assert page.diagnostics.duration.ToTimedelta() > timedelta(0)


async def test_subscribe_sends_records_as_they_are(gateway: Gateway, router: RouterDouble) -> None:
    router.stream = lambda: router.batches([BACKWARDS] * 3)
    call = gateway.subscribe_raw(SUBSCRIBE.SerializeToString())
    await call.read()
    batch = await call.read()
    assert isinstance(batch, bytes)
    assert BACKWARDS * 3 in batch
    message = subscribe_pb2.SubscribeResponse.FromString(batch)
    assert list(message.batch.events) == [EVENT] * 3
    assert (message.batch.continuation_token, message.delivery_sequence) == ("t1", 2)
    call.cancel()


@pytest.mark.req("A1")
def test_every_method_has_a_handler_that_takes_and_gives_bytes(router: RouterDouble) -> None:
    table = ChangeFeedService(router, CallGuard(Limits(), Door(scope_of=router.scope_of))).generic_handler()
    for method in change_feed_service_pb2.DESCRIPTOR.services_by_name["ChangeFeedService"].methods:
        handler = table.service(_Details(f"/{SERVICE_NAME}/{method.name}"))
        assert handler is not None, method.name
        assert handler.request_deserializer is None
        assert handler.response_serializer is None


class _Details(grpc.HandlerCallDetails):
    invocation_metadata = ()

    def __init__(self, method: str) -> None:
        self.method = method


async def test_read_changes_passes_on_what_the_deadline_leaves(gateway: Gateway, router: RouterDouble) -> None:
    await gateway.stub.ReadChanges(READ, timeout=30)
    await gateway.stub.ReadChanges(READ)
    with_deadline, without = router.asked
    assert isinstance(with_deadline, ReadRequest)
    assert with_deadline.time_remaining is not None
    # gRPC rounds a deadline up on its way, by 100 ms at this length.
    assert timedelta(seconds=20) < with_deadline.time_remaining <= timedelta(seconds=30, milliseconds=100)
    assert isinstance(without, ReadRequest)
    assert without.time_remaining is None


async def test_subscribe_counts_its_messages_and_ends_ok(gateway: Gateway, router: RouterDouble) -> None:
    async def stream() -> AsyncGenerator[StreamItem]:
        yield OPENED
        yield StateChanged(state=SubscriptionState.LIVE)
        yield Batch(records=[BACKWARDS], token="t1", expire_time=None, watermark=None)
        yield Closing(reason=ClosingReason.MAX_EVENTS, token="t1", reconnect_after=timedelta(0))

    router.stream = stream
    call = gateway.stub.Subscribe(SUBSCRIBE, metadata=(("x-request-id", "my-id"),))
    messages = [message async for message in call]
    assert [message.WhichOneof("content") for message in messages] == ["opened", "state_changed", "batch", "closing"]
    assert [message.delivery_sequence for message in messages] == [1, 2, 3, 4]
    assert messages[0].opened.request_id == "my-id"
    assert await call.code() is grpc.StatusCode.OK


async def test_cancelled_stream_closes_what_it_reads_from(gateway: Gateway, router: RouterDouble) -> None:
    closed = asyncio.Event()

    async def stream() -> AsyncGenerator[StreamItem]:
        try:
            yield OPENED
            await asyncio.Event().wait()
        finally:
            closed.set()

    router.stream = stream
    call = gateway.stub.Subscribe(SUBSCRIBE)
    await call.read()
    call.cancel()
    async with asyncio.timeout(30):
        await closed.wait()


async def test_stream_error_after_messages_arrives_with_its_details(gateway: Gateway, router: RouterDouble) -> None:
    async def stream() -> AsyncGenerator[StreamItem]:
        yield OPENED
        raise InvalidRequest.field("max_events", "no", reason=Reason.FIELD_INVALID)

    router.stream = stream
    call = gateway.stub.Subscribe(SUBSCRIBE)
    opened = await call.read()
    assert isinstance(opened, subscribe_pb2.SubscribeResponse)
    assert opened.HasField("opened")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(caught.value).reason == "FIELD_INVALID"


async def test_slow_reader_is_thrown_out_and_its_source_closed_first(router: RouterDouble, gateway: Gateway) -> None:
    closed = asyncio.Event()

    async def stream() -> AsyncGenerator[StreamItem]:
        try:
            yield OPENED
            while True:
                yield Batch(records=[b"\x0a\x80\x80\x40" + bytes(1 << 20)], token="t", expire_time=None, watermark=None)
        finally:
            closed.set()

    router.stream = stream
    router.limits = Limits(write_timeout=timedelta(milliseconds=200))
    call = gateway.subscribe_raw(SUBSCRIBE.SerializeToString())
    async with asyncio.timeout(20):
        await closed.wait()  # while nobody has read a byte, and so before the abort can get through
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error_info(caught.value).reason == "CONSUMER_TOO_SLOW"
    assert error_info(caught.value).metadata["retryable"] == "true"


async def test_a_stream_whose_memory_others_need_ends_as_too_slow_before_its_time(
    router: RouterDouble, gateway: Gateway
) -> None:
    offered, closed = asyncio.Event(), asyncio.Event()

    async def stream() -> AsyncGenerator[StreamItem]:
        try:
            yield OPENED
            for number in range(100):
                if number == 3:
                    offered.set()  # more than a connection takes unread
                yield Batch(records=[b"\x0a\x80\x80\x40" + bytes(1 << 20)], token="t", expire_time=None, watermark=None)
        finally:
            closed.set()

    async def to_the_end() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    router.stream = stream
    call = gateway.subscribe_raw(SUBSCRIBE.SerializeToString())
    async with asyncio.timeout(20):  # of the 60 s that a write may take
        await call.read()
        await offered.wait()
        while not closed.is_set():
            router.end_write()
            await asyncio.sleep(0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await to_the_end()
    assert error_info(caught.value).reason == "CONSUMER_TOO_SLOW"
    router.end_write()  # too late for anything


async def test_get_capabilities(gateway: Gateway, router: RouterDouble) -> None:
    answer = await gateway.stub.GetCapabilities(capabilities_pb2.GetCapabilitiesRequest(address=ADDRESS))
    assert answer.provider == "memory"
    assert len(answer.capabilities) == len(FEED.capabilities)
    assert answer.limits.max_page_size == router.limits.max_page_size
    assert router.asked == [Address(connection="main", database="", collection="documents")]


async def test_resolve_start_position(gateway: Gateway, router: RouterDouble) -> None:
    request = token_pb2.ResolveStartPositionRequest(
        address=ADDRESS,
        scope=resource_pb2.FeedScope(entire_collection=resource_pb2.EntireCollection()),
        start_position=position_pb2.StartPosition(now=position_pb2.Now()),
    )
    assert (await gateway.stub.ResolveStartPosition(request)).continuation_token == "resolved"
    address = Address(connection="main", database="", collection="documents")
    assert router.asked == [(address, EntireCollection(), Now())]


async def test_inspect_token_explains_as_a_read_would_refuse(gateway: Gateway, router: RouterDouble) -> None:
    refusal = InvalidRequest.field("start_position.continuation_token", "altered", reason=Reason.TOKEN_SIGNATURE)
    request = token_pb2.InspectContinuationTokenRequest(address=ADDRESS, continuation_token="x")
    assert (await gateway.stub.InspectContinuationToken(request)).usable
    router.report = TokenReport(problem=refusal)
    report = await gateway.stub.InspectContinuationToken(request)
    router.failure = refusal
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.stub.ReadChanges(READ)
    assert not report.usable
    assert (report.problem.code, report.problem.message) == (caught.value.code().value[0], caught.value.details())


async def test_inspect_needs_a_token(gateway: Gateway) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.stub.InspectContinuationToken(token_pb2.InspectContinuationTokenRequest(address=ADDRESS))
    assert error_info(caught.value).reason == "TOKEN_MALFORMED"


async def listed(gateway: Gateway, page_size: int) -> list[list[str]]:
    pages: list[list[str]] = []
    token = ""
    while True:
        request = partition_pb2.ListPhysicalPartitionsRequest(address=ADDRESS, page_size=page_size, page_token=token)
        answer = await gateway.stub.ListPhysicalPartitions(request)
        pages.append([partition.partition_id for partition in answer.partitions])
        token = answer.next_page_token
        if not token:
            return pages


@pytest.mark.parametrize(("page_size", "sizes"), [(0, [5]), (1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9_999, [5])])
async def test_partitions_by_pages(gateway: Gateway, router: RouterDouble, page_size: int, sizes: list[int]) -> None:
    ids = [PartitionId(f"ü/{n}") for n in range(5)]
    router.partitions = [Partition(partition_id=each) for each in ids]
    pages = await listed(gateway, page_size)
    assert [len(page) for page in pages] == sizes
    assert [partition_id for page in pages for partition_id in page] == ids


async def test_no_partitions(gateway: Gateway) -> None:
    assert await listed(gateway, 0) == [[]]


async def test_page_token_whose_partition_is_gone(gateway: Gateway, router: RouterDouble) -> None:
    router.partitions = [Partition(partition_id=PartitionId(each)) for each in "abc"]
    request = partition_pb2.ListPhysicalPartitionsRequest(address=ADDRESS, page_size=1)
    request.page_token = (await gateway.stub.ListPhysicalPartitions(request)).next_page_token
    router.partitions = router.partitions[1:]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.stub.ListPhysicalPartitions(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "start again" in (caught.value.details() or "")
