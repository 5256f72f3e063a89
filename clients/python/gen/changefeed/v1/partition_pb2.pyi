from changefeed.v1 import resource_pb2 as _resource_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PartitionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PARTITION_STATE_UNSPECIFIED: _ClassVar[PartitionState]
    PARTITION_STATE_ACTIVE: _ClassVar[PartitionState]
    PARTITION_STATE_RETIRED: _ClassVar[PartitionState]
PARTITION_STATE_UNSPECIFIED: PartitionState
PARTITION_STATE_ACTIVE: PartitionState
PARTITION_STATE_RETIRED: PartitionState

class ListPhysicalPartitionsRequest(_message.Message):
    __slots__ = ("address", "page_size", "page_token")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    address: _resource_pb2.ResourceAddress
    page_size: int
    page_token: str
    def __init__(self, address: _Optional[_Union[_resource_pb2.ResourceAddress, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPhysicalPartitionsResponse(_message.Message):
    __slots__ = ("partitions", "next_page_token")
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    partitions: _containers.RepeatedCompositeFieldContainer[PhysicalPartition]
    next_page_token: str
    def __init__(self, partitions: _Optional[_Iterable[_Union[PhysicalPartition, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class PhysicalPartition(_message.Message):
    __slots__ = ("partition_id", "parent_partition_ids", "state")
    PARTITION_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_PARTITION_IDS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    partition_id: str
    parent_partition_ids: _containers.RepeatedScalarFieldContainer[str]
    state: PartitionState
    def __init__(self, partition_id: _Optional[str] = ..., parent_partition_ids: _Optional[_Iterable[str]] = ..., state: _Optional[_Union[PartitionState, str]] = ...) -> None: ...

class ChildPartition(_message.Message):
    __slots__ = ("partition_id", "parent_partition_ids", "continuation_token")
    PARTITION_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_PARTITION_IDS_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    partition_id: str
    parent_partition_ids: _containers.RepeatedScalarFieldContainer[str]
    continuation_token: str
    def __init__(self, partition_id: _Optional[str] = ..., parent_partition_ids: _Optional[_Iterable[str]] = ..., continuation_token: _Optional[str] = ...) -> None: ...
