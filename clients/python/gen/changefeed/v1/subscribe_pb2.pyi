from changefeed.v1 import change_event_pb2 as _change_event_pb2
from changefeed.v1 import partition_pb2 as _partition_pb2
from changefeed.v1 import position_pb2 as _position_pb2
from changefeed.v1 import read_changes_pb2 as _read_changes_pb2
from changefeed.v1 import resource_pb2 as _resource_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SubscriptionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SUBSCRIPTION_STATE_UNSPECIFIED: _ClassVar[SubscriptionState]
    SUBSCRIPTION_STATE_CATCHING_UP: _ClassVar[SubscriptionState]
    SUBSCRIPTION_STATE_LIVE: _ClassVar[SubscriptionState]
    SUBSCRIPTION_STATE_SNAPSHOT: _ClassVar[SubscriptionState]

class ClosingReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CLOSING_REASON_UNSPECIFIED: _ClassVar[ClosingReason]
    CLOSING_REASON_DRAINING: _ClassVar[ClosingReason]
    CLOSING_REASON_MAX_AGE: _ClassVar[ClosingReason]
    CLOSING_REASON_MAX_EVENTS: _ClassVar[ClosingReason]
    CLOSING_REASON_PARTITION_RETIRED: _ClassVar[ClosingReason]
    CLOSING_REASON_FEED_DROPPED: _ClassVar[ClosingReason]
SUBSCRIPTION_STATE_UNSPECIFIED: SubscriptionState
SUBSCRIPTION_STATE_CATCHING_UP: SubscriptionState
SUBSCRIPTION_STATE_LIVE: SubscriptionState
SUBSCRIPTION_STATE_SNAPSHOT: SubscriptionState
CLOSING_REASON_UNSPECIFIED: ClosingReason
CLOSING_REASON_DRAINING: ClosingReason
CLOSING_REASON_MAX_AGE: ClosingReason
CLOSING_REASON_MAX_EVENTS: ClosingReason
CLOSING_REASON_PARTITION_RETIRED: ClosingReason
CLOSING_REASON_FEED_DROPPED: ClosingReason

class SubscribeRequest(_message.Message):
    __slots__ = ("address", "scope", "start_position", "new_item_state_mode", "max_batch_size", "heartbeat_interval", "max_events")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    START_POSITION_FIELD_NUMBER: _ClassVar[int]
    NEW_ITEM_STATE_MODE_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    MAX_EVENTS_FIELD_NUMBER: _ClassVar[int]
    address: _resource_pb2.ResourceAddress
    scope: _resource_pb2.FeedScope
    start_position: _position_pb2.StartPosition
    new_item_state_mode: _read_changes_pb2.NewItemStateMode
    max_batch_size: int
    heartbeat_interval: _duration_pb2.Duration
    max_events: int
    def __init__(self, address: _Optional[_Union[_resource_pb2.ResourceAddress, _Mapping]] = ..., scope: _Optional[_Union[_resource_pb2.FeedScope, _Mapping]] = ..., start_position: _Optional[_Union[_position_pb2.StartPosition, _Mapping]] = ..., new_item_state_mode: _Optional[_Union[_read_changes_pb2.NewItemStateMode, str]] = ..., max_batch_size: _Optional[int] = ..., heartbeat_interval: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., max_events: _Optional[int] = ...) -> None: ...

class SubscribeResponse(_message.Message):
    __slots__ = ("opened", "batch", "heartbeat", "partition_retired", "state_changed", "closing", "snapshot_finished", "delivery_sequence")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    PARTITION_RETIRED_FIELD_NUMBER: _ClassVar[int]
    STATE_CHANGED_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FINISHED_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    opened: SubscriptionOpened
    batch: ChangeBatch
    heartbeat: Heartbeat
    partition_retired: PartitionRetired
    state_changed: StateChanged
    closing: Closing
    snapshot_finished: SnapshotFinished
    delivery_sequence: int
    def __init__(self, opened: _Optional[_Union[SubscriptionOpened, _Mapping]] = ..., batch: _Optional[_Union[ChangeBatch, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., partition_retired: _Optional[_Union[PartitionRetired, _Mapping]] = ..., state_changed: _Optional[_Union[StateChanged, _Mapping]] = ..., closing: _Optional[_Union[Closing, _Mapping]] = ..., snapshot_finished: _Optional[_Union[SnapshotFinished, _Mapping]] = ..., delivery_sequence: _Optional[int] = ...) -> None: ...

class SubscriptionOpened(_message.Message):
    __slots__ = ("continuation_token", "request_id", "heartbeat_interval", "provider", "warnings", "token_expire_time")
    CONTINUATION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    continuation_token: str
    request_id: str
    heartbeat_interval: _duration_pb2.Duration
    provider: str
    warnings: _containers.RepeatedCompositeFieldContainer[_read_changes_pb2.PortabilityWarning]
    token_expire_time: _timestamp_pb2.Timestamp
    def __init__(self, continuation_token: _Optional[str] = ..., request_id: _Optional[str] = ..., heartbeat_interval: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., provider: _Optional[str] = ..., warnings: _Optional[_Iterable[_Union[_read_changes_pb2.PortabilityWarning, _Mapping]]] = ..., token_expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ChangeBatch(_message.Message):
    __slots__ = ("events", "continuation_token", "token_expire_time", "watermark", "snapshot")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_change_event_pb2.ChangeEvent]
    continuation_token: str
    token_expire_time: _timestamp_pb2.Timestamp
    watermark: _timestamp_pb2.Timestamp
    snapshot: _read_changes_pb2.SnapshotProgress
    def __init__(self, events: _Optional[_Iterable[_Union[_change_event_pb2.ChangeEvent, _Mapping]]] = ..., continuation_token: _Optional[str] = ..., token_expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., watermark: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., snapshot: _Optional[_Union[_read_changes_pb2.SnapshotProgress, _Mapping]] = ...) -> None: ...

class SnapshotFinished(_message.Message):
    __slots__ = ("continuation_token", "token_expire_time", "snapshot")
    CONTINUATION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    continuation_token: str
    token_expire_time: _timestamp_pb2.Timestamp
    snapshot: _read_changes_pb2.SnapshotProgress
    def __init__(self, continuation_token: _Optional[str] = ..., token_expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., snapshot: _Optional[_Union[_read_changes_pb2.SnapshotProgress, _Mapping]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("continuation_token", "token_expire_time", "watermark")
    CONTINUATION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    continuation_token: str
    token_expire_time: _timestamp_pb2.Timestamp
    watermark: _timestamp_pb2.Timestamp
    def __init__(self, continuation_token: _Optional[str] = ..., token_expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., watermark: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PartitionRetired(_message.Message):
    __slots__ = ("partition_id", "child_partitions", "continuation_token")
    PARTITION_ID_FIELD_NUMBER: _ClassVar[int]
    CHILD_PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    partition_id: str
    child_partitions: _containers.RepeatedCompositeFieldContainer[_partition_pb2.ChildPartition]
    continuation_token: str
    def __init__(self, partition_id: _Optional[str] = ..., child_partitions: _Optional[_Iterable[_Union[_partition_pb2.ChildPartition, _Mapping]]] = ..., continuation_token: _Optional[str] = ...) -> None: ...

class StateChanged(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: SubscriptionState
    def __init__(self, state: _Optional[_Union[SubscriptionState, str]] = ...) -> None: ...

class Closing(_message.Message):
    __slots__ = ("reason", "continuation_token", "reconnect_after")
    REASON_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RECONNECT_AFTER_FIELD_NUMBER: _ClassVar[int]
    reason: ClosingReason
    continuation_token: str
    reconnect_after: _duration_pb2.Duration
    def __init__(self, reason: _Optional[_Union[ClosingReason, str]] = ..., continuation_token: _Optional[str] = ..., reconnect_after: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...
