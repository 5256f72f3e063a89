from changefeed.v1 import change_event_pb2 as _change_event_pb2
from changefeed.v1 import partition_pb2 as _partition_pb2
from changefeed.v1 import position_pb2 as _position_pb2
from changefeed.v1 import resource_pb2 as _resource_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NewItemStateMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NEW_ITEM_STATE_MODE_UNSPECIFIED: _ClassVar[NewItemStateMode]
    NEW_ITEM_STATE_MODE_OMIT: _ClassVar[NewItemStateMode]
    NEW_ITEM_STATE_MODE_INCLUDE_IF_AVAILABLE: _ClassVar[NewItemStateMode]
    NEW_ITEM_STATE_MODE_REQUIRE: _ClassVar[NewItemStateMode]
NEW_ITEM_STATE_MODE_UNSPECIFIED: NewItemStateMode
NEW_ITEM_STATE_MODE_OMIT: NewItemStateMode
NEW_ITEM_STATE_MODE_INCLUDE_IF_AVAILABLE: NewItemStateMode
NEW_ITEM_STATE_MODE_REQUIRE: NewItemStateMode

class ReadChangesRequest(_message.Message):
    __slots__ = ("address", "scope", "start_position", "new_item_state_mode", "max_page_size", "max_wait")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    START_POSITION_FIELD_NUMBER: _ClassVar[int]
    NEW_ITEM_STATE_MODE_FIELD_NUMBER: _ClassVar[int]
    MAX_PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_FIELD_NUMBER: _ClassVar[int]
    address: _resource_pb2.ResourceAddress
    scope: _resource_pb2.FeedScope
    start_position: _position_pb2.StartPosition
    new_item_state_mode: NewItemStateMode
    max_page_size: int
    max_wait: _duration_pb2.Duration
    def __init__(self, address: _Optional[_Union[_resource_pb2.ResourceAddress, _Mapping]] = ..., scope: _Optional[_Union[_resource_pb2.FeedScope, _Mapping]] = ..., start_position: _Optional[_Union[_position_pb2.StartPosition, _Mapping]] = ..., new_item_state_mode: _Optional[_Union[NewItemStateMode, str]] = ..., max_page_size: _Optional[int] = ..., max_wait: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ReadChangesResponse(_message.Message):
    __slots__ = ("events", "continuation_token", "partition_retired", "child_partitions", "diagnostics", "more_available", "token_expire_time", "watermark", "warnings", "snapshot")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PARTITION_RETIRED_FIELD_NUMBER: _ClassVar[int]
    CHILD_PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    DIAGNOSTICS_FIELD_NUMBER: _ClassVar[int]
    MORE_AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_change_event_pb2.ChangeEvent]
    continuation_token: str
    partition_retired: bool
    child_partitions: _containers.RepeatedCompositeFieldContainer[_partition_pb2.ChildPartition]
    diagnostics: Diagnostics
    more_available: bool
    token_expire_time: _timestamp_pb2.Timestamp
    watermark: _timestamp_pb2.Timestamp
    warnings: _containers.RepeatedCompositeFieldContainer[PortabilityWarning]
    snapshot: SnapshotProgress
    def __init__(self, events: _Optional[_Iterable[_Union[_change_event_pb2.ChangeEvent, _Mapping]]] = ..., continuation_token: _Optional[str] = ..., partition_retired: bool = ..., child_partitions: _Optional[_Iterable[_Union[_partition_pb2.ChildPartition, _Mapping]]] = ..., diagnostics: _Optional[_Union[Diagnostics, _Mapping]] = ..., more_available: bool = ..., token_expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., watermark: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., warnings: _Optional[_Iterable[_Union[PortabilityWarning, _Mapping]]] = ..., snapshot: _Optional[_Union[SnapshotProgress, _Mapping]] = ...) -> None: ...

class SnapshotProgress(_message.Message):
    __slots__ = ("items", "estimated_items", "finished")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_ITEMS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    items: int
    estimated_items: int
    finished: bool
    def __init__(self, items: _Optional[int] = ..., estimated_items: _Optional[int] = ..., finished: bool = ...) -> None: ...

class Diagnostics(_message.Message):
    __slots__ = ("provider", "operation", "duration", "request_id", "provider_calls", "request_charge")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_CALLS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_CHARGE_FIELD_NUMBER: _ClassVar[int]
    provider: str
    operation: str
    duration: _duration_pb2.Duration
    request_id: str
    provider_calls: int
    request_charge: float
    def __init__(self, provider: _Optional[str] = ..., operation: _Optional[str] = ..., duration: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., request_id: _Optional[str] = ..., provider_calls: _Optional[int] = ..., request_charge: _Optional[float] = ...) -> None: ...

class PortabilityWarning(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
