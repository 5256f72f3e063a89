from changefeed.v1 import resource_pb2 as _resource_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ChangeType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHANGE_TYPE_UNSPECIFIED: _ClassVar[ChangeType]
    CHANGE_TYPE_CREATE: _ClassVar[ChangeType]
    CHANGE_TYPE_UPDATE: _ClassVar[ChangeType]
    CHANGE_TYPE_DELETE: _ClassVar[ChangeType]
    CHANGE_TYPE_TRUNCATE: _ClassVar[ChangeType]
    CHANGE_TYPE_SNAPSHOT: _ClassVar[ChangeType]

class KeyType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEY_TYPE_UNSPECIFIED: _ClassVar[KeyType]
    KEY_TYPE_STRING: _ClassVar[KeyType]
    KEY_TYPE_NUMBER: _ClassVar[KeyType]
    KEY_TYPE_BOOLEAN: _ClassVar[KeyType]
    KEY_TYPE_BINARY: _ClassVar[KeyType]
    KEY_TYPE_NULL: _ClassVar[KeyType]

class ItemState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ITEM_STATE_UNSPECIFIED: _ClassVar[ItemState]
    ITEM_STATE_INCLUDED: _ClassVar[ItemState]
    ITEM_STATE_INCLUDED_CURRENT: _ClassVar[ItemState]
    ITEM_STATE_OMITTED: _ClassVar[ItemState]
    ITEM_STATE_UNAVAILABLE: _ClassVar[ItemState]
    ITEM_STATE_TOO_LARGE: _ClassVar[ItemState]
    ITEM_STATE_NOT_APPLICABLE: _ClassVar[ItemState]

class Origin(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORIGIN_UNSPECIFIED: _ClassVar[Origin]
    ORIGIN_APPLICATION: _ClassVar[Origin]
    ORIGIN_EXPIRY: _ClassVar[Origin]
    ORIGIN_SYSTEM: _ClassVar[Origin]
CHANGE_TYPE_UNSPECIFIED: ChangeType
CHANGE_TYPE_CREATE: ChangeType
CHANGE_TYPE_UPDATE: ChangeType
CHANGE_TYPE_DELETE: ChangeType
CHANGE_TYPE_TRUNCATE: ChangeType
CHANGE_TYPE_SNAPSHOT: ChangeType
KEY_TYPE_UNSPECIFIED: KeyType
KEY_TYPE_STRING: KeyType
KEY_TYPE_NUMBER: KeyType
KEY_TYPE_BOOLEAN: KeyType
KEY_TYPE_BINARY: KeyType
KEY_TYPE_NULL: KeyType
ITEM_STATE_UNSPECIFIED: ItemState
ITEM_STATE_INCLUDED: ItemState
ITEM_STATE_INCLUDED_CURRENT: ItemState
ITEM_STATE_OMITTED: ItemState
ITEM_STATE_UNAVAILABLE: ItemState
ITEM_STATE_TOO_LARGE: ItemState
ITEM_STATE_NOT_APPLICABLE: ItemState
ORIGIN_UNSPECIFIED: Origin
ORIGIN_APPLICATION: Origin
ORIGIN_EXPIRY: Origin
ORIGIN_SYSTEM: Origin

class ChangeEvent(_message.Message):
    __slots__ = ("event_id", "change_type", "key", "item_state", "new_item_json", "commit_timestamp", "partition_id", "sequence", "origin", "address", "provider", "annotations_json")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    CHANGE_TYPE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    ITEM_STATE_FIELD_NUMBER: _ClassVar[int]
    NEW_ITEM_JSON_FIELD_NUMBER: _ClassVar[int]
    COMMIT_TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    PARTITION_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    change_type: ChangeType
    key: Key
    item_state: ItemState
    new_item_json: str
    commit_timestamp: _timestamp_pb2.Timestamp
    partition_id: str
    sequence: str
    origin: Origin
    address: _resource_pb2.ResourceAddress
    provider: str
    annotations_json: str
    def __init__(self, event_id: _Optional[str] = ..., change_type: _Optional[_Union[ChangeType, str]] = ..., key: _Optional[_Union[Key, _Mapping]] = ..., item_state: _Optional[_Union[ItemState, str]] = ..., new_item_json: _Optional[str] = ..., commit_timestamp: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., partition_id: _Optional[str] = ..., sequence: _Optional[str] = ..., origin: _Optional[_Union[Origin, str]] = ..., address: _Optional[_Union[_resource_pb2.ResourceAddress, _Mapping]] = ..., provider: _Optional[str] = ..., annotations_json: _Optional[str] = ...) -> None: ...

class Key(_message.Message):
    __slots__ = ("partition_key", "sort_key", "components")
    PARTITION_KEY_FIELD_NUMBER: _ClassVar[int]
    SORT_KEY_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    partition_key: str
    sort_key: str
    components: _containers.RepeatedCompositeFieldContainer[KeyComponent]
    def __init__(self, partition_key: _Optional[str] = ..., sort_key: _Optional[str] = ..., components: _Optional[_Iterable[_Union[KeyComponent, _Mapping]]] = ...) -> None: ...

class KeyComponent(_message.Message):
    __slots__ = ("name", "value", "type")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    type: KeyType
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ..., type: _Optional[_Union[KeyType, str]] = ...) -> None: ...
