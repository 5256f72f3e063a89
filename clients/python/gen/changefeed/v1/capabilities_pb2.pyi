from changefeed.v1 import change_event_pb2 as _change_event_pb2
from changefeed.v1 import read_changes_pb2 as _read_changes_pb2
from changefeed.v1 import resource_pb2 as _resource_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetCapabilitiesRequest(_message.Message):
    __slots__ = ("address",)
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: _resource_pb2.ResourceAddress
    def __init__(self, address: _Optional[_Union[_resource_pb2.ResourceAddress, _Mapping]] = ...) -> None: ...

class GetCapabilitiesResponse(_message.Message):
    __slots__ = ("provider", "capabilities", "retention", "item_state", "commit_time", "warnings", "limits")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    ITEM_STATE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_TIME_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    provider: str
    capabilities: _containers.RepeatedCompositeFieldContainer[Capability]
    retention: _duration_pb2.Duration
    item_state: _change_event_pb2.ItemState
    commit_time: str
    warnings: _containers.RepeatedCompositeFieldContainer[_read_changes_pb2.PortabilityWarning]
    limits: Limits
    def __init__(self, provider: _Optional[str] = ..., capabilities: _Optional[_Iterable[_Union[Capability, _Mapping]]] = ..., retention: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., item_state: _Optional[_Union[_change_event_pb2.ItemState, str]] = ..., commit_time: _Optional[str] = ..., warnings: _Optional[_Iterable[_Union[_read_changes_pb2.PortabilityWarning, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class Capability(_message.Message):
    __slots__ = ("name", "supported", "detail")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SUPPORTED_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    name: str
    supported: bool
    detail: str
    def __init__(self, name: _Optional[str] = ..., supported: bool = ..., detail: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("default_page_size", "max_page_size", "max_item_bytes", "max_wait", "min_heartbeat_interval", "max_heartbeat_interval")
    DEFAULT_PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_ITEM_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_FIELD_NUMBER: _ClassVar[int]
    MIN_HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    MAX_HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    default_page_size: int
    max_page_size: int
    max_item_bytes: int
    max_wait: _duration_pb2.Duration
    min_heartbeat_interval: _duration_pb2.Duration
    max_heartbeat_interval: _duration_pb2.Duration
    def __init__(self, default_page_size: _Optional[int] = ..., max_page_size: _Optional[int] = ..., max_item_bytes: _Optional[int] = ..., max_wait: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., min_heartbeat_interval: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., max_heartbeat_interval: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...
