from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StartPosition(_message.Message):
    __slots__ = ("beginning", "now", "at_time", "continuation_token", "snapshot")
    BEGINNING_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    AT_TIME_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    beginning: Beginning
    now: Now
    at_time: _timestamp_pb2.Timestamp
    continuation_token: str
    snapshot: Snapshot
    def __init__(self, beginning: _Optional[_Union[Beginning, _Mapping]] = ..., now: _Optional[_Union[Now, _Mapping]] = ..., at_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., continuation_token: _Optional[str] = ..., snapshot: _Optional[_Union[Snapshot, _Mapping]] = ...) -> None: ...

class Beginning(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Now(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
