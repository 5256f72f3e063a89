from changefeed.v1 import position_pb2 as _position_pb2
from changefeed.v1 import resource_pb2 as _resource_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ResolveStartPositionRequest(_message.Message):
    __slots__ = ("address", "scope", "start_position")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    START_POSITION_FIELD_NUMBER: _ClassVar[int]
    address: _resource_pb2.ResourceAddress
    scope: _resource_pb2.FeedScope
    start_position: _position_pb2.StartPosition
    def __init__(self, address: _Optional[_Union[_resource_pb2.ResourceAddress, _Mapping]] = ..., scope: _Optional[_Union[_resource_pb2.FeedScope, _Mapping]] = ..., start_position: _Optional[_Union[_position_pb2.StartPosition, _Mapping]] = ...) -> None: ...

class ResolveStartPositionResponse(_message.Message):
    __slots__ = ("continuation_token", "token_expire_time")
    CONTINUATION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    continuation_token: str
    token_expire_time: _timestamp_pb2.Timestamp
    def __init__(self, continuation_token: _Optional[str] = ..., token_expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class InspectContinuationTokenRequest(_message.Message):
    __slots__ = ("address", "continuation_token")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    address: _resource_pb2.ResourceAddress
    continuation_token: str
    def __init__(self, address: _Optional[_Union[_resource_pb2.ResourceAddress, _Mapping]] = ..., continuation_token: _Optional[str] = ...) -> None: ...

class InspectContinuationTokenResponse(_message.Message):
    __slots__ = ("usable", "problem", "schema_version", "provider", "scope", "issue_time", "key_id", "token_expire_time")
    USABLE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    ISSUE_TIME_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    usable: bool
    problem: _status_pb2.Status
    schema_version: int
    provider: str
    scope: _resource_pb2.FeedScope
    issue_time: _timestamp_pb2.Timestamp
    key_id: str
    token_expire_time: _timestamp_pb2.Timestamp
    def __init__(self, usable: bool = ..., problem: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., schema_version: _Optional[int] = ..., provider: _Optional[str] = ..., scope: _Optional[_Union[_resource_pb2.FeedScope, _Mapping]] = ..., issue_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., key_id: _Optional[str] = ..., token_expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
