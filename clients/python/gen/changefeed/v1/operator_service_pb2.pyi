from changefeed.v1 import resource_pb2 as _resource_pb2
from changefeed.v1 import subscribe_pb2 as _subscribe_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StreamScope(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STREAM_SCOPE_UNSPECIFIED: _ClassVar[StreamScope]
    STREAM_SCOPE_ENTIRE_COLLECTION: _ClassVar[StreamScope]
    STREAM_SCOPE_PHYSICAL_PARTITION: _ClassVar[StreamScope]
    STREAM_SCOPE_LOGICAL_PARTITION: _ClassVar[StreamScope]
STREAM_SCOPE_UNSPECIFIED: StreamScope
STREAM_SCOPE_ENTIRE_COLLECTION: StreamScope
STREAM_SCOPE_PHYSICAL_PARTITION: StreamScope
STREAM_SCOPE_LOGICAL_PARTITION: StreamScope

class ListStreamsRequest(_message.Message):
    __slots__ = ("connection", "collection", "page_size", "page_token")
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    connection: str
    collection: str
    page_size: int
    page_token: str
    def __init__(self, connection: _Optional[str] = ..., collection: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListStreamsResponse(_message.Message):
    __slots__ = ("gateway", "streams", "next_page_token")
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    gateway: str
    streams: _containers.RepeatedCompositeFieldContainer[StreamStatus]
    next_page_token: str
    def __init__(self, gateway: _Optional[str] = ..., streams: _Optional[_Iterable[_Union[StreamStatus, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class StreamStatus(_message.Message):
    __slots__ = ("stream_id", "request_id", "principal", "host", "address", "scope", "physical_partition_id", "state", "start_time", "events", "bytes", "events_per_second", "lag", "changes_behind", "token_expire_time", "blocked")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    PHYSICAL_PARTITION_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    EVENTS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    CHANGES_BEHIND_FIELD_NUMBER: _ClassVar[int]
    TOKEN_EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    stream_id: int
    request_id: str
    principal: str
    host: str
    address: _resource_pb2.ResourceAddress
    scope: StreamScope
    physical_partition_id: str
    state: _subscribe_pb2.SubscriptionState
    start_time: _timestamp_pb2.Timestamp
    events: int
    bytes: int
    events_per_second: float
    lag: _duration_pb2.Duration
    changes_behind: int
    token_expire_time: _timestamp_pb2.Timestamp
    blocked: _duration_pb2.Duration
    def __init__(self, stream_id: _Optional[int] = ..., request_id: _Optional[str] = ..., principal: _Optional[str] = ..., host: _Optional[str] = ..., address: _Optional[_Union[_resource_pb2.ResourceAddress, _Mapping]] = ..., scope: _Optional[_Union[StreamScope, str]] = ..., physical_partition_id: _Optional[str] = ..., state: _Optional[_Union[_subscribe_pb2.SubscriptionState, str]] = ..., start_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., events: _Optional[int] = ..., bytes: _Optional[int] = ..., events_per_second: _Optional[float] = ..., lag: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., changes_behind: _Optional[int] = ..., token_expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., blocked: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...
