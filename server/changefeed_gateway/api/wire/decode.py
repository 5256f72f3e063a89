"""Requests to core values; what cannot be honoured is refused with the field's name and a remedy."""

import base64
import binascii
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from changefeed.v1 import partition_pb2, position_pb2, read_changes_pb2, resource_pb2, subscribe_pb2, token_pb2
from changefeed_gateway.api.wire.cases import NEW_ITEM_STATE_MODES
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
    PartitionId,
    PhysicalPartition,
    RequestedStart,
    Scope,
    Snapshot,
)
from changefeed_gateway.core.token import MAX_TOKEN_CHARS

MAX_NAME_CHARS: Final = 255
MAX_PARTITION_ID_CHARS: Final = 1_024
MAX_PARTITION_KEY_CHARS: Final = 4_096
MAX_PARTITIONS: Final = 1_000
"""Most partitions in one answer of ListPhysicalPartitions; a thousand of the longest ids stay below 4 MiB."""

_MODES = {wire: mode for mode, wire in NEW_ITEM_STATE_MODES.items()} | {
    read_changes_pb2.NEW_ITEM_STATE_MODE_UNSPECIFIED: NewItemStateMode.INCLUDE_IF_AVAILABLE
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CLOCK_TOLERANCE = timedelta(seconds=1)
"""How far a caller's clock may run ahead of ours before its present counts as the future."""


def read_request(
    message: read_changes_pb2.ReadChangesRequest, *, now: datetime, time_remaining: timedelta | None
) -> ReadRequest:
    """Decode ReadChangesRequest; `time_remaining` is what the call's deadline leaves."""
    return ReadRequest(
        address=address(message.address),
        scope=scope(message),
        start=start(message, now=now),
        mode=_mode(message.new_item_state_mode),
        page_size=_count("max_page_size", message.max_page_size),
        max_wait=_duration("max_wait", message.max_wait),
        time_remaining=time_remaining,
    )


def subscribe_request(message: subscribe_pb2.SubscribeRequest, *, now: datetime) -> SubscribeRequest:
    """Decode SubscribeRequest."""
    asked = message.HasField("heartbeat_interval")
    return SubscribeRequest(
        address=address(message.address),
        scope=scope(message),
        start=start(message, now=now),
        mode=_mode(message.new_item_state_mode),
        batch_size=_count("max_batch_size", message.max_batch_size),
        heartbeat=_duration("heartbeat_interval", message.heartbeat_interval) if asked else None,
        max_events=_count("max_events", message.max_events),
    )


def address(message: resource_pb2.ResourceAddress) -> Address:
    """Decode an address; connection and collection are required."""
    return Address(
        connection=_required("address.connection", message.connection, MAX_NAME_CHARS),
        database=_text("address.database", message.database, MAX_NAME_CHARS),
        collection=_required("address.collection", message.collection, MAX_NAME_CHARS),
    )


def scope(
    message: read_changes_pb2.ReadChangesRequest
    | subscribe_pb2.SubscribeRequest
    | token_pb2.ResolveStartPositionRequest,
) -> Scope | None:
    """Decode a request's scope; None when it chooses none."""
    chosen = message.scope
    match chosen.WhichOneof("scope"):
        case "entire_collection":
            return EntireCollection()
        case "physical_partition_id":
            field = "scope.physical_partition_id"
            return PhysicalPartition(
                PartitionId(_required(field, chosen.physical_partition_id, MAX_PARTITION_ID_CHARS))
            )
        case "logical_partition":
            field = "scope.logical_partition"
            return LogicalPartition(_required(field, chosen.logical_partition, MAX_PARTITION_KEY_CHARS))
        case _:
            if len(UnknownFieldSet(chosen)):  # a newer client's choice must not quietly mean everything
                raise InvalidRequest.field("scope", "this gateway does not know the chosen scope; choose another")
            return None


def start(
    message: read_changes_pb2.ReadChangesRequest
    | subscribe_pb2.SubscribeRequest
    | token_pb2.ResolveStartPositionRequest,
    *,
    now: datetime,
) -> RequestedStart:
    """Decode a request's start position; `now` is the gateway's clock, which decides what is the future."""
    position = message.start_position
    match position.WhichOneof("start"):
        case "beginning":
            return Beginning()
        case "now":
            return Now()
        case "at_time":
            return AtTime(_past_time("start_position.at_time", position.at_time, now))
        case "snapshot":
            return Snapshot()
        case "continuation_token":
            return FromToken(token("start_position.continuation_token", position.continuation_token))
        case _:
            raise _start_required(position)


def token(field: str, value: str) -> str:
    """Check a token's size; what it says is the core's to judge."""
    if not value:
        raise InvalidRequest.field(field, "empty; send a token as it was received", reason=Reason.TOKEN_MALFORMED)
    if len(value) > MAX_TOKEN_CHARS:
        raise InvalidRequest.field(field, "longer than any token of a gateway", reason=Reason.TOKEN_MALFORMED)
    return value


def partition_page(message: partition_pb2.ListPhysicalPartitionsRequest) -> tuple[int, PartitionId | None]:
    """Decode the page that is asked for: most partitions, and the last one already seen."""
    size = _count("page_size", message.page_size)
    return min(size or MAX_PARTITIONS, MAX_PARTITIONS), _partition_page_token(message.page_token)


def unknown_page_token() -> InvalidRequest:
    """Refuse a page token that this collection does not continue."""
    return InvalidRequest.field(
        "page_token", "not from an answer for this collection, or its partition is gone; start again without it"
    )


def _partition_page_token(value: str) -> PartitionId | None:
    if not value:
        return None
    _text("page_token", value, 8 * MAX_PARTITION_ID_CHARS)
    try:
        raw = base64.b64decode(value.encode("ascii") + b"=" * (-len(value) % 4), altchars=b"-_", validate=True)
        return PartitionId(raw.decode())
    except (binascii.Error, UnicodeError) as error:
        raise unknown_page_token() from error


def _start_required(position: position_pb2.StartPosition) -> InvalidRequest:
    known = "beginning, now, at_time, snapshot or continuation_token"
    unknown = "this gateway does not know the chosen start; " if len(UnknownFieldSet(position)) else ""
    return InvalidRequest.field("start_position", f"{unknown}choose {known}", reason=Reason.START_REQUIRED)


def _mode(value: read_changes_pb2.NewItemStateMode) -> NewItemStateMode:
    mode = _MODES.get(value)
    if mode is None:
        names = ", ".join(mode.name for mode in NewItemStateMode)
        raise InvalidRequest.field("new_item_state_mode", f"unknown value {value}; choose one of {names}")
    return mode


def _text(field: str, value: str, max_chars: int) -> str:
    if len(value) > max_chars:
        raise InvalidRequest.field(field, f"longer than {max_chars} characters")
    if "\0" in value:
        raise InvalidRequest.field(field, "contains a NUL character")
    return value


def _required(field: str, value: str, max_chars: int) -> str:
    if not value:
        raise InvalidRequest.field(field, "required")
    return _text(field, value, max_chars)


def _count(field: str, value: int) -> int:
    if value < 0:
        raise InvalidRequest.field(field, "negative; send 0 for the default")
    return value


def _duration(field: str, message: Duration) -> timedelta:
    """Decode a duration >= 0, to the microsecond below; unset is zero."""
    seconds, nanos = message.seconds, message.nanos
    if seconds < 0 or nanos < 0:
        raise InvalidRequest.field(field, "negative; send a duration of 0 or more")
    if seconds > 315_576_000_000 or nanos > 999_999_999:
        raise InvalidRequest.field(field, "not a duration: out of range")
    return timedelta(seconds=seconds, microseconds=nanos // 1_000)


def _past_time(field: str, message: Timestamp, now: datetime) -> datetime:
    """Decode a time, to the microsecond below: starting a little earlier loses nothing."""
    try:
        if not 0 <= message.nanos <= 999_999_999:
            raise OverflowError("nanos")
        time = _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1_000)
    except OverflowError as error:
        raise InvalidRequest.field(field, "not a time: out of range (years 1 to 9999)") from error
    if time > now + _CLOCK_TOLERANCE:
        raise InvalidRequest.field(field, "in the future; send a past time, or now as the start")
    return min(time, now)
