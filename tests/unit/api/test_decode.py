"""Requests to core values: what is accepted, and how each bad field is refused."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from changefeed.v1 import partition_pb2, position_pb2, read_changes_pb2, resource_pb2, subscribe_pb2, token_pb2
from changefeed_gateway.api.wire import decode, encode
from changefeed_gateway.core.answer import ReadRequest, SubscribeRequest
from changefeed_gateway.core.errors import InvalidRequest, Reason
from changefeed_gateway.core.model import (
    Address,
    AtTime,
    Beginning,
    EntireCollection,
    FromToken,
    LogicalPartition,
    NewItemStateMode,
    Now,
    Partition,
    PartitionId,
    PhysicalPartition,
)
from changefeed_gateway.core.token import MAX_TOKEN_CHARS

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
ADDRESS = resource_pb2.ResourceAddress(connection="main", collection="documents")
BEGINNING = position_pb2.StartPosition(beginning=position_pb2.Beginning())


def read(**fields: Any) -> read_changes_pb2.ReadChangesRequest:
    return read_changes_pb2.ReadChangesRequest(**({"address": ADDRESS, "start_position": BEGINNING} | fields))


def decoded(message: read_changes_pb2.ReadChangesRequest) -> ReadRequest:
    return decode.read_request(message, now=NOW, time_remaining=None)


def subscription(**fields: Any) -> subscribe_pb2.SubscribeRequest:
    return subscribe_pb2.SubscribeRequest(**({"address": ADDRESS, "start_position": BEGINNING} | fields))


def refusal(work: Callable[[], object]) -> tuple[str, str, str]:
    """The one refused field, its description and the reason."""
    with pytest.raises(InvalidRequest) as caught:
        work()
    [violation] = caught.value.fields
    return violation.field, violation.description, caught.value.reason


def test_least_request() -> None:
    assert decoded(read()) == ReadRequest(
        address=Address(connection="main", database="", collection="documents"), scope=None, start=Beginning()
    )
    assert decode.subscribe_request(subscription(), now=NOW) == SubscribeRequest(
        address=Address(connection="main", database="", collection="documents"), scope=None, start=Beginning()
    )


def test_whole_read_request() -> None:
    message = read(
        address=resource_pb2.ResourceAddress(connection="c", database="d", collection="public.orders"),
        scope=resource_pb2.FeedScope(logical_partition='["a",1]'),
        start_position=position_pb2.StartPosition(continuation_token="t"),
        new_item_state_mode=read_changes_pb2.NEW_ITEM_STATE_MODE_REQUIRE,
        max_page_size=7,
        max_wait=Duration(seconds=2, nanos=500_000_999),
    )
    assert decode.read_request(message, now=NOW, time_remaining=timedelta(seconds=9)) == ReadRequest(
        address=Address(connection="c", database="d", collection="public.orders"),
        scope=LogicalPartition('["a",1]'),
        start=FromToken("t"),
        mode=NewItemStateMode.REQUIRE,
        page_size=7,
        max_wait=timedelta(seconds=2, milliseconds=500),
        time_remaining=timedelta(seconds=9),
    )


def test_whole_subscribe_request() -> None:
    message = subscription(
        scope=resource_pb2.FeedScope(physical_partition_id="0-127"),
        start_position=position_pb2.StartPosition(now=position_pb2.Now()),
        new_item_state_mode=read_changes_pb2.NEW_ITEM_STATE_MODE_OMIT,
        max_batch_size=3,
        heartbeat_interval=Duration(),
        max_events=2**40,
    )
    assert decode.subscribe_request(message, now=NOW) == SubscribeRequest(
        address=Address(connection="main", database="", collection="documents"),
        scope=PhysicalPartition(PartitionId("0-127")),
        start=Now(),
        mode=NewItemStateMode.OMIT,
        batch_size=3,
        heartbeat=timedelta(0),
        max_events=2**40,
    )


@pytest.mark.parametrize("mode", NewItemStateMode)
def test_every_item_mode(mode: NewItemStateMode) -> None:
    assert decoded(read(new_item_state_mode=f"NEW_ITEM_STATE_MODE_{mode.name}")).mode is mode


def test_scopes() -> None:
    entire = resource_pb2.FeedScope(entire_collection=resource_pb2.EntireCollection())
    assert decoded(read(scope=entire)).scope == EntireCollection()
    assert decoded(read(scope=resource_pb2.FeedScope())).scope is None


@pytest.mark.parametrize(
    ("fields", "field", "remedy"),
    [
        ({"address": None}, "address.connection", "required"),
        ({"address": resource_pb2.ResourceAddress(collection="c")}, "address.connection", "required"),
        ({"address": resource_pb2.ResourceAddress(connection="c")}, "address.collection", "required"),
        (
            {"address": resource_pb2.ResourceAddress(connection="c" * 256, collection="c")},
            "address.connection",
            "longer than 255 characters",
        ),
        (
            {"address": resource_pb2.ResourceAddress(connection="c", database="d" * 256, collection="c")},
            "address.database",
            "longer than 255 characters",
        ),
        (
            {"address": resource_pb2.ResourceAddress(connection="c", collection="c" * 256)},
            "address.collection",
            "longer than 255 characters",
        ),
        (
            {"address": resource_pb2.ResourceAddress(connection="c", collection="a\0b")},
            "address.collection",
            "NUL",
        ),
        ({"scope": resource_pb2.FeedScope(physical_partition_id="")}, "scope.physical_partition_id", "required"),
        (
            {"scope": resource_pb2.FeedScope(physical_partition_id="p" * 1025)},
            "scope.physical_partition_id",
            "longer than 1024 characters",
        ),
        ({"scope": resource_pb2.FeedScope(logical_partition="")}, "scope.logical_partition", "required"),
        (
            {"scope": resource_pb2.FeedScope(logical_partition="p" * 4097)},
            "scope.logical_partition",
            "longer than 4096 characters",
        ),
        ({"new_item_state_mode": 99}, "new_item_state_mode", "OMIT, INCLUDE_IF_AVAILABLE, REQUIRE"),
        ({"max_page_size": -1}, "max_page_size", "0 for the default"),
        ({"max_wait": Duration(seconds=-1)}, "max_wait", "0 or more"),
        ({"max_wait": Duration(nanos=-1)}, "max_wait", "0 or more"),
        ({"max_wait": Duration(seconds=2**62)}, "max_wait", "out of range"),
        ({"max_wait": Duration(nanos=1_000_000_000)}, "max_wait", "out of range"),
    ],
)
def test_bad_fields(fields: dict[str, Any], field: str, remedy: str) -> None:
    refused, description, reason = refusal(lambda: decoded(read(**fields)))
    assert (refused, reason) == (field, Reason.FIELD_INVALID.value)
    assert remedy in description


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_batch_size": -1}, "max_batch_size"),
        ({"max_events": -1}, "max_events"),
        ({"heartbeat_interval": Duration(seconds=-1)}, "heartbeat_interval"),
        ({"heartbeat_interval": Duration(seconds=315_576_000_001)}, "heartbeat_interval"),
        ({"new_item_state_mode": -1}, "new_item_state_mode"),
    ],
)
def test_bad_fields_of_a_subscription(fields: dict[str, Any], field: str) -> None:
    refused, _, reason = refusal(lambda: decode.subscribe_request(subscription(**fields), now=NOW))
    assert (refused, reason) == (field, Reason.FIELD_INVALID.value)


@pytest.mark.parametrize("start", [None, position_pb2.StartPosition()])
def test_start_is_required(start: position_pb2.StartPosition | None) -> None:
    message = read(start_position=start)
    assert refusal(lambda: decoded(message))[::2] == ("start_position", Reason.START_REQUIRED.value)
    resolve = token_pb2.ResolveStartPositionRequest(start_position=start)
    assert refusal(lambda: decode.start(resolve, now=NOW))[2] == Reason.START_REQUIRED.value


def test_choices_of_a_newer_client_are_refused_and_not_ignored() -> None:
    # Field 99, length-delimited and empty: a case that this contract does not have.
    scope = resource_pb2.FeedScope.FromString(b"\x9a\x06\x00")
    start = position_pb2.StartPosition.FromString(b"\x9a\x06\x00")
    assert refusal(lambda: decoded(read(scope=scope)))[0] == "scope"
    field, description, reason = refusal(lambda: decoded(read(start_position=start)))
    assert (field, reason) == ("start_position", Reason.START_REQUIRED.value)
    assert "does not know" in description


def at(time: Timestamp) -> read_changes_pb2.ReadChangesRequest:
    return read(start_position=position_pb2.StartPosition(at_time=time))


def test_start_at_a_time_is_never_later_than_asked() -> None:
    assert decoded(at(Timestamp(seconds=1, nanos=1_999))).start == AtTime(datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=UTC))
    assert decoded(at(Timestamp(seconds=-1))).start == AtTime(datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC))


@pytest.mark.parametrize("ahead", [timedelta(seconds=2), timedelta(days=1), timedelta(days=365_000)])
def test_start_in_the_future_is_refused(ahead: timedelta) -> None:
    time = Timestamp()
    time.FromDatetime(NOW + ahead)
    field, description, _ = refusal(lambda: decoded(at(time)))
    assert field == "start_position.at_time"
    assert "future" in description


def test_a_clock_that_is_slightly_ahead_means_now() -> None:
    time = Timestamp()
    time.FromDatetime(NOW + timedelta(milliseconds=900))
    assert decoded(at(time)).start == AtTime(NOW)


@pytest.mark.parametrize(
    "time",
    [
        Timestamp(seconds=2**62),
        Timestamp(seconds=-(2**62)),
        Timestamp(seconds=-62_135_596_801),
        Timestamp(nanos=-1),
        Timestamp(nanos=1_000_000_000),
    ],
)
def test_start_at_an_impossible_time(time: Timestamp) -> None:
    field, description, _ = refusal(lambda: decoded(at(time)))
    assert field == "start_position.at_time"
    assert "out of range" in description


@pytest.mark.parametrize("value", ["", "x" * (MAX_TOKEN_CHARS + 1)])
def test_token_sizes(value: str) -> None:
    start = position_pb2.StartPosition(continuation_token=value)
    assert refusal(lambda: decoded(read(start_position=start)))[::2] == (
        "start_position.continuation_token",
        Reason.TOKEN_MALFORMED.value,
    )


def partitions(**fields: Any) -> tuple[int, PartitionId | None]:
    return decode.partition_page(partition_pb2.ListPhysicalPartitionsRequest(address=ADDRESS, **fields))


@pytest.mark.parametrize(("asked", "size"), [(0, 1_000), (1, 1), (1_000, 1_000), (2**31 - 1, 1_000)])
def test_partition_page_sizes(asked: int, size: int) -> None:
    assert partitions(page_size=asked) == (size, None)


def test_negative_partition_page_size() -> None:
    assert refusal(lambda: partitions(page_size=-1))[0] == "page_size"


@given(st.text(min_size=1, max_size=300))
def test_partition_page_token_comes_back(partition_id: str) -> None:
    last = PartitionId(partition_id)
    answer = encode.partitions_response([Partition(partition_id=last)], next_after=last)
    assert partitions(page_token=answer.next_page_token) == (1_000, last)


@pytest.mark.parametrize(
    "token",
    ["!", "a b", "ü", "QQ=Q", "A", base64.urlsafe_b64encode(b"\xff\xfe").decode(), "A" * 9_000],
)
def test_malformed_partition_page_token(token: str) -> None:
    assert refusal(lambda: partitions(page_token=token))[::2] == ("page_token", Reason.FIELD_INVALID.value)
