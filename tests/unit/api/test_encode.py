"""Core values to answers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from changefeed.v1 import (
    capabilities_pb2,
    change_event_pb2,
    partition_pb2,
    read_changes_pb2,
    resource_pb2,
    subscribe_pb2,
    token_pb2,
)
from changefeed_gateway.api.wire import encode
from changefeed_gateway.core.answer import (
    Batch,
    ChildToken,
    Closing,
    ClosingReason,
    Heartbeat,
    Opened,
    ReadAnswer,
    Retired,
    StateChanged,
    StreamItem,
    SubscriptionState,
    TokenReport,
)
from changefeed_gateway.core.errors import InvalidRequest
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import (
    Address,
    Capability,
    CapabilityName,
    EntireCollection,
    Feed,
    ItemState,
    LogicalPartition,
    Partition,
    PartitionId,
    PartitionState,
    PhysicalPartition,
    PortabilityWarning,
    Scope,
)

TIME = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
WIRE_TIME = Timestamp(seconds=1_767_323_045, nanos=678_901_000)
FEED = Feed(
    address=Address(connection="main", database="app", collection="documents"),
    provider_id="postgres",
    incarnation="1",
    capabilities=(
        Capability(name=CapabilityName.CHANGE_FEED, supported=True),
        Capability(name=CapabilityName.POINT_IN_TIME, supported=False, detail="not here"),
    ),
    item_state=ItemState.INCLUDED_CURRENT,
    single_order=True,
    commit_time="the clock of the database",
    retention=timedelta(days=7),
    warnings=(PortabilityWarning(code="CONFLATED", message="versions are conflated"),),
)
CHILDREN = (ChildToken(partition_id=PartitionId("l"), parents=(PartitionId("p"), PartitionId("q")), token="t-l"),)
WIRE_CHILDREN = [
    partition_pb2.ChildPartition(partition_id="l", parent_partition_ids=["p", "q"], continuation_token="t-l")
]
WIRE_WARNINGS = [read_changes_pb2.PortabilityWarning(code="CONFLATED", message="versions are conflated")]


def record(event: change_event_pb2.ChangeEvent) -> bytes:
    return read_changes_pb2.ReadChangesResponse(events=[event]).SerializeToString()


EVENTS = [change_event_pb2.ChangeEvent(event_id=str(n), new_item_json="x" * n) for n in (1, 200, 40_000)]
RECORDS = [record(event) for event in EVENTS]


def test_page() -> None:
    answer = ReadAnswer(
        feed=FEED,
        records=RECORDS,
        token="t",
        more_available=True,
        retired=True,
        children=CHILDREN,
        expire_time=TIME,
        watermark=TIME,
        provider_calls=3,
    )
    circumstances = encode.Circumstances(
        operation="ReadChanges", request_id="r", duration=timedelta(seconds=1, microseconds=5)
    )
    raw = encode.read_changes_response(answer, circumstances)
    assert raw.startswith(b"".join(RECORDS))
    assert read_changes_pb2.ReadChangesResponse.FromString(raw) == read_changes_pb2.ReadChangesResponse(
        events=EVENTS,
        continuation_token="t",
        partition_retired=True,
        child_partitions=WIRE_CHILDREN,
        diagnostics=read_changes_pb2.Diagnostics(
            provider="postgres",
            operation="ReadChanges",
            duration=Duration(seconds=1, nanos=5_000),
            request_id="r",
            provider_calls=3,
        ),
        more_available=True,
        token_expire_time=WIRE_TIME,
        watermark=WIRE_TIME,
        warnings=WIRE_WARNINGS,
    )


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (
            Opened(feed=FEED, token="t", heartbeat=timedelta(seconds=10), expire_time=TIME),
            subscribe_pb2.SubscribeResponse(
                opened=subscribe_pb2.SubscriptionOpened(
                    continuation_token="t",
                    request_id="r",
                    heartbeat_interval=Duration(seconds=10),
                    provider="postgres",
                    warnings=WIRE_WARNINGS,
                    token_expire_time=WIRE_TIME,
                )
            ),
        ),
        (
            Batch(records=RECORDS, token="t", expire_time=TIME, watermark=TIME),
            subscribe_pb2.SubscribeResponse(
                batch=subscribe_pb2.ChangeBatch(
                    events=EVENTS, continuation_token="t", token_expire_time=WIRE_TIME, watermark=WIRE_TIME
                )
            ),
        ),
        (
            Batch(records=RECORDS[:1], token="t", expire_time=None, watermark=None),
            subscribe_pb2.SubscribeResponse(batch=subscribe_pb2.ChangeBatch(events=EVENTS[:1], continuation_token="t")),
        ),
        (
            Heartbeat(token="t", expire_time=None, watermark=TIME),
            subscribe_pb2.SubscribeResponse(
                heartbeat=subscribe_pb2.Heartbeat(continuation_token="t", watermark=WIRE_TIME)
            ),
        ),
        (
            Retired(partition_id=PartitionId("p"), children=CHILDREN, token="t"),
            subscribe_pb2.SubscribeResponse(
                partition_retired=subscribe_pb2.PartitionRetired(
                    partition_id="p", child_partitions=WIRE_CHILDREN, continuation_token="t"
                )
            ),
        ),
    ],
)
def test_stream_messages(item: StreamItem, expected: subscribe_pb2.SubscribeResponse) -> None:
    expected.delivery_sequence = 300
    raw = encode.subscribe_response(item, sequence=300, request_id="r")
    assert subscribe_pb2.SubscribeResponse.FromString(raw) == expected


@pytest.mark.parametrize(
    "item",
    [
        Batch(records=RECORDS, token="t", expire_time=TIME, watermark=None, shared=True),
        Heartbeat(token="t", expire_time=None, watermark=TIME, shared=True),
    ],
)
def test_what_many_streams_send_is_made_once_and_only_the_sequence_is_their_own(item: Batch | Heartbeat) -> None:
    alone = replace(item, shared=False)
    made = None
    for sequence in (1, 2, 127, 128, 300, 2**40):
        raw = encode.subscribe_response(item, sequence=sequence, request_id="r")
        assert raw == encode.subscribe_response(alone, sequence=sequence, request_id="another")
        assert subscribe_pb2.SubscribeResponse.FromString(raw).delivery_sequence == sequence
        made = made or item.encoded
        assert item.encoded is made
        assert raw.startswith(made)
    assert not alone.encoded, "what nobody else sends is not kept twice"


@pytest.mark.parametrize("state", SubscriptionState)
def test_state_changes(state: SubscriptionState) -> None:
    raw = encode.subscribe_response(StateChanged(state=state), sequence=1, request_id="r")
    message = subscribe_pb2.SubscribeResponse.FromString(raw)
    assert subscribe_pb2.SubscriptionState.Name(message.state_changed.state) == f"SUBSCRIPTION_STATE_{state.name}"


@pytest.mark.parametrize("reason", ClosingReason)
def test_closings(reason: ClosingReason) -> None:
    item = Closing(reason=reason, token="t", reconnect_after=timedelta(milliseconds=1_500))
    message = subscribe_pb2.SubscribeResponse.FromString(encode.subscribe_response(item, sequence=2, request_id="r"))
    assert subscribe_pb2.ClosingReason.Name(message.closing.reason) == f"CLOSING_REASON_{reason.name}"
    assert message.closing.reconnect_after == Duration(seconds=1, nanos=500_000_000)
    assert (message.closing.continuation_token, message.delivery_sequence) == ("t", 2)


def test_capabilities() -> None:
    limits = Limits()
    assert encode.capabilities_response(FEED, limits) == capabilities_pb2.GetCapabilitiesResponse(
        provider="postgres",
        capabilities=[
            capabilities_pb2.Capability(name="CHANGE_FEED", supported=True),
            capabilities_pb2.Capability(name="CHANGE_FEED_POINT_IN_TIME", detail="not here"),
        ],
        retention=Duration(seconds=7 * 86_400),
        item_state=change_event_pb2.ITEM_STATE_INCLUDED_CURRENT,
        commit_time="the clock of the database",
        warnings=WIRE_WARNINGS,
        limits=capabilities_pb2.Limits(
            default_page_size=limits.default_page_size,
            max_page_size=limits.max_page_size,
            max_item_bytes=limits.max_item_bytes,
            max_wait=Duration(seconds=30),
            min_heartbeat_interval=Duration(nanos=500_000_000),
            max_heartbeat_interval=Duration(seconds=60),
        ),
    )


@pytest.mark.parametrize("state", PartitionState)
def test_partitions(state: PartitionState) -> None:
    partition = Partition(partition_id=PartitionId("c"), parents=(PartitionId("a"), PartitionId("b")), state=state)
    answer = encode.partitions_response([partition], next_after=None)
    assert answer.next_page_token == ""
    [listed] = answer.partitions
    assert (listed.partition_id, list(listed.parent_partition_ids)) == ("c", ["a", "b"])
    assert partition_pb2.PartitionState.Name(listed.state) == f"PARTITION_STATE_{state.name}"


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (EntireCollection(), resource_pb2.FeedScope(entire_collection=resource_pb2.EntireCollection())),
        (PhysicalPartition(PartitionId("p")), resource_pb2.FeedScope(physical_partition_id="p")),
        (LogicalPartition("k"), resource_pb2.FeedScope(logical_partition="k")),
    ],
)
def test_usable_token(scope: Scope, expected: resource_pb2.FeedScope) -> None:
    report = TokenReport(
        problem=None,
        schema_version=1,
        provider_id="postgres",
        scope=scope,
        issue_time=TIME,
        key_id="k1",
        expire_time=TIME,
    )
    assert encode.token_report_response(report, None) == token_pb2.InspectContinuationTokenResponse(
        usable=True,
        schema_version=1,
        provider="postgres",
        scope=expected,
        issue_time=WIRE_TIME,
        key_id="k1",
        token_expire_time=WIRE_TIME,
    )


def test_unusable_token() -> None:
    problem = status_pb2.Status(code=3, message="altered")
    report = TokenReport(problem=InvalidRequest("altered"))
    answer = encode.token_report_response(report, problem)
    assert not answer.usable
    assert answer.problem == problem
    assert not answer.HasField("scope")
    assert not answer.HasField("issue_time")
