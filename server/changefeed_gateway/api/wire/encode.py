"""Core values to answers; pages and batches join ready records instead of building their events."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import assert_never

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from changefeed.v1 import (
    capabilities_pb2,
    partition_pb2,
    read_changes_pb2,
    resource_pb2,
    subscribe_pb2,
    token_pb2,
)
from changefeed_gateway.api.wire.cases import CLOSING_REASONS, ITEM_STATES, PARTITION_STATES, SUBSCRIPTION_STATES
from changefeed_gateway.api.wire.records import varint
from changefeed_gateway.core.answer import (
    Batch,
    ChildToken,
    Closing,
    Heartbeat,
    Opened,
    ReadAnswer,
    ResolvedStart,
    Retired,
    SnapshotFinished,
    StateChanged,
    StreamItem,
    TokenReport,
)
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import (
    EntireCollection,
    Feed,
    LogicalPartition,
    Partition,
    PartitionId,
    PhysicalPartition,
    PortabilityWarning,
    Scope,
    SnapshotProgress,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BATCH_TAG = b"\x12"
"""SubscribeResponse.batch: field 2, length-delimited."""
_SEQUENCE_TAG = b"\x38"
"""SubscribeResponse.delivery_sequence: field 7, varint. It may stand anywhere, so what is shared comes before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """How an answer came about, as far as only the API knows."""

    operation: str
    request_id: str
    duration: timedelta


def timestamp(time: datetime | None) -> Timestamp | None:
    """Encode an aware time exactly; None stays unset."""
    if time is None:
        return None
    since = time - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1_000)


def duration(interval: timedelta | None) -> Duration | None:
    """Encode an interval >= 0 exactly; None stays unset."""
    if interval is None:
        return None
    return Duration(seconds=interval.days * 86_400 + interval.seconds, nanos=interval.microseconds * 1_000)


def read_changes_response(answer: ReadAnswer, circumstances: Circumstances) -> bytes:
    """Serialise a page: its records as they are, then everything else."""
    rest = read_changes_pb2.ReadChangesResponse(
        continuation_token=answer.token,
        partition_retired=answer.retired,
        child_partitions=_children(answer.children),
        diagnostics=read_changes_pb2.Diagnostics(
            provider=answer.feed.provider_id,
            operation=circumstances.operation,
            duration=duration(circumstances.duration),
            request_id=circumstances.request_id,
            provider_calls=answer.provider_calls,
            request_charge=answer.request_charge,
        ),
        more_available=answer.more_available,
        token_expire_time=timestamp(answer.expire_time),
        watermark=timestamp(answer.watermark),
        warnings=_warnings((*answer.feed.warnings, *answer.warnings)),
        snapshot=_progress(answer.snapshot),
    )
    return b"".join((*answer.records, rest.SerializeToString()))


def subscribe_response(item: StreamItem, *, sequence: int, request_id: str) -> bytes:
    """Serialise one message of a stream."""
    if isinstance(item, Batch | Heartbeat):
        body = [item.encoded] if item.encoded else _batch(item) if isinstance(item, Batch) else _heartbeat(item)
        if item.shared and not item.encoded:
            item.encoded = b"".join(body)
        return b"".join((*body, _SEQUENCE_TAG, varint(sequence)))
    message = _stream_message(item, request_id)
    message.delivery_sequence = sequence
    return message.SerializeToString()


def _batch(item: Batch) -> list[bytes]:
    """A batch, in parts to be joined; without the sequence, which alone is a stream's own."""
    rest = subscribe_pb2.ChangeBatch(
        continuation_token=item.token,
        token_expire_time=timestamp(item.expire_time),
        watermark=timestamp(item.watermark),
        snapshot=_progress(item.snapshot),
    ).SerializeToString()
    size = sum(map(len, item.records)) + len(rest)
    return [_BATCH_TAG, varint(size), *item.records, rest]


def _heartbeat(item: Heartbeat) -> list[bytes]:
    heartbeat = subscribe_pb2.Heartbeat(
        continuation_token=item.token,
        token_expire_time=timestamp(item.expire_time),
        watermark=timestamp(item.watermark),
    )
    return [subscribe_pb2.SubscribeResponse(heartbeat=heartbeat).SerializeToString()]


def _stream_message(
    item: Opened | Retired | SnapshotFinished | StateChanged | Closing, request_id: str
) -> subscribe_pb2.SubscribeResponse:
    match item:
        case Opened():
            return subscribe_pb2.SubscribeResponse(opened=_opened(item, request_id))
        case Retired():
            retired = subscribe_pb2.PartitionRetired(
                partition_id=item.partition_id,
                child_partitions=_children(item.children),
                continuation_token=item.token,
            )
            return subscribe_pb2.SubscribeResponse(partition_retired=retired)
        case SnapshotFinished():
            finished = subscribe_pb2.SnapshotFinished(
                continuation_token=item.token,
                token_expire_time=timestamp(item.expire_time),
                snapshot=_progress(item.snapshot),
            )
            return subscribe_pb2.SubscribeResponse(snapshot_finished=finished)
        case StateChanged():
            changed = subscribe_pb2.StateChanged(state=SUBSCRIPTION_STATES[item.state])
            return subscribe_pb2.SubscribeResponse(state_changed=changed)
        case Closing():
            closing = subscribe_pb2.Closing(
                reason=CLOSING_REASONS[item.reason],
                continuation_token=item.token,
                reconnect_after=duration(item.reconnect_after),
            )
            return subscribe_pb2.SubscribeResponse(closing=closing)
        case _:
            assert_never(item)


def _opened(item: Opened, request_id: str) -> subscribe_pb2.SubscriptionOpened:
    return subscribe_pb2.SubscriptionOpened(
        continuation_token=item.token,
        request_id=request_id,
        heartbeat_interval=duration(item.heartbeat),
        provider=item.feed.provider_id,
        warnings=_warnings((*item.feed.warnings, *item.warnings)),
        token_expire_time=timestamp(item.expire_time),
    )


def capabilities_response(feed: Feed, limits: Limits) -> capabilities_pb2.GetCapabilitiesResponse:
    """Encode what a collection can do."""
    return capabilities_pb2.GetCapabilitiesResponse(
        provider=feed.provider_id,
        capabilities=[
            capabilities_pb2.Capability(name=c.name.value, supported=c.supported, detail=c.detail)
            for c in feed.capabilities
        ],
        retention=duration(feed.retention),
        item_state=ITEM_STATES[feed.item_state],
        commit_time=feed.commit_time,
        warnings=_warnings(feed.warnings),
        limits=capabilities_pb2.Limits(
            default_page_size=limits.default_page_size,
            max_page_size=limits.max_page_size,
            max_item_bytes=limits.max_item_bytes,
            max_wait=duration(limits.max_wait),
            min_heartbeat_interval=duration(limits.min_heartbeat),
            max_heartbeat_interval=duration(limits.max_heartbeat),
        ),
    )


def partitions_response(
    partitions: Sequence[Partition], *, next_after: PartitionId | None
) -> partition_pb2.ListPhysicalPartitionsResponse:
    """Encode a page of partitions; `next_after` is its last one when more follow."""
    return partition_pb2.ListPhysicalPartitionsResponse(
        partitions=[
            partition_pb2.PhysicalPartition(
                partition_id=partition.partition_id,
                parent_partition_ids=partition.parents,
                state=PARTITION_STATES[partition.state],
            )
            for partition in partitions
        ],
        next_page_token="" if next_after is None else _partition_page_token(next_after),
    )


def resolved_start_response(resolved: ResolvedStart) -> token_pb2.ResolveStartPositionResponse:
    """Encode a start position's token."""
    return token_pb2.ResolveStartPositionResponse(
        continuation_token=resolved.token, token_expire_time=timestamp(resolved.expire_time)
    )


def token_report_response(
    report: TokenReport, problem: status_pb2.Status | None
) -> token_pb2.InspectContinuationTokenResponse:
    """Encode what a token is; `problem` is the report's as a status."""
    return token_pb2.InspectContinuationTokenResponse(
        usable=report.problem is None,
        problem=problem,
        schema_version=report.schema_version,
        provider=report.provider_id,
        scope=_scope(report.scope),
        issue_time=timestamp(report.issue_time),
        key_id=report.key_id,
        token_expire_time=timestamp(report.expire_time),
    )


def _scope(scope: Scope | None) -> resource_pb2.FeedScope | None:
    match scope:
        case None:
            return None
        case EntireCollection():
            return resource_pb2.FeedScope(entire_collection=resource_pb2.EntireCollection())
        case PhysicalPartition(partition_id):
            return resource_pb2.FeedScope(physical_partition_id=partition_id)
        case LogicalPartition(partition_key):
            return resource_pb2.FeedScope(logical_partition=partition_key)
        case _:
            assert_never(scope)


def _children(children: Sequence[ChildToken]) -> list[partition_pb2.ChildPartition]:
    return [
        partition_pb2.ChildPartition(
            partition_id=child.partition_id,
            parent_partition_ids=child.parents,
            continuation_token=child.token,
        )
        for child in children
    ]


def _progress(progress: SnapshotProgress | None) -> read_changes_pb2.SnapshotProgress | None:
    if progress is None:
        return None
    return read_changes_pb2.SnapshotProgress(
        items=progress.items, estimated_items=progress.estimate, finished=progress.finished
    )


def _warnings(warnings: Sequence[PortabilityWarning]) -> list[read_changes_pb2.PortabilityWarning]:
    return [read_changes_pb2.PortabilityWarning(code=w.code, message=w.message) for w in warnings]


def _partition_page_token(partition_id: PartitionId) -> str:
    return base64.urlsafe_b64encode(partition_id.encode()).decode().rstrip("=")
