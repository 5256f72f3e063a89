"""The cases of core enums on the wire."""

from enum import Enum
from typing import TypeVar, cast

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from changefeed.v1 import change_event_pb2, partition_pb2, read_changes_pb2, subscribe_pb2
from changefeed_gateway.core.answer import ClosingReason, SubscriptionState
from changefeed_gateway.core.model import ChangeType, ItemState, KeyType, NewItemStateMode, Origin, PartitionState

_Case = TypeVar("_Case", bound=Enum)
_Wire = TypeVar("_Wire")


def _on_wire(cases: type[_Case], wire: type[_Wire]) -> dict[_Case, _Wire]:
    """Match cases by name, so that a case which the contract lacks fails at import."""
    enum = cast(EnumTypeWrapper, wire)  # the generated types say class, the generated code makes a wrapper
    prefix = enum.keys()[0].removesuffix("UNSPECIFIED")
    return {case: cast(_Wire, enum.Value(prefix + case.name)) for case in cases}


CHANGE_TYPES = _on_wire(ChangeType, change_event_pb2.ChangeType)
CLOSING_REASONS = _on_wire(ClosingReason, subscribe_pb2.ClosingReason)
ITEM_STATES = _on_wire(ItemState, change_event_pb2.ItemState)
KEY_TYPES = _on_wire(KeyType, change_event_pb2.KeyType)
NEW_ITEM_STATE_MODES = _on_wire(NewItemStateMode, read_changes_pb2.NewItemStateMode)
ORIGINS = _on_wire(Origin, change_event_pb2.Origin)
PARTITION_STATES = _on_wire(PartitionState, partition_pb2.PartitionState)
SUBSCRIPTION_STATES = _on_wire(SubscriptionState, subscribe_pb2.SubscriptionState)
