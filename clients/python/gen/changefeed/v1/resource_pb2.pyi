from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ResourceAddress(_message.Message):
    __slots__ = ("connection", "database", "collection")
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    DATABASE_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    connection: str
    database: str
    collection: str
    def __init__(self, connection: _Optional[str] = ..., database: _Optional[str] = ..., collection: _Optional[str] = ...) -> None: ...

class FeedScope(_message.Message):
    __slots__ = ("entire_collection", "physical_partition_id", "logical_partition")
    ENTIRE_COLLECTION_FIELD_NUMBER: _ClassVar[int]
    PHYSICAL_PARTITION_ID_FIELD_NUMBER: _ClassVar[int]
    LOGICAL_PARTITION_FIELD_NUMBER: _ClassVar[int]
    entire_collection: EntireCollection
    physical_partition_id: str
    logical_partition: str
    def __init__(self, entire_collection: _Optional[_Union[EntireCollection, _Mapping]] = ..., physical_partition_id: _Optional[str] = ..., logical_partition: _Optional[str] = ...) -> None: ...

class EntireCollection(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
