"""What a request asks of the policy, by its message; a request that is not covered here is let through nowhere."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from changefeed.v1 import capabilities_pb2, partition_pb2, read_changes_pb2, resource_pb2, subscribe_pb2, token_pb2
from changefeed_gateway.api.wire import decode
from changefeed_gateway.core.errors import InternalFailure
from changefeed_gateway.core.model import Address, EntireCollection, Scope


class AddressedRequest(Protocol):
    """Any request of the service."""

    @property
    def address(self) -> resource_pb2.ResourceAddress:
        """The collection that is meant."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What must be granted for one request."""

    address: Address
    scopes: tuple[Scope, ...] = ()
    """None at all: any scope of the address will do."""
    items: bool = False


def demand(message: AddressedRequest, scope_of: Callable[[str], Scope]) -> Demand:
    """Say what a request asks for; `scope_of` opens a continuation token. Raises InvalidRequest, as both do."""
    address = decode.address(message.address)
    match message:
        case read_changes_pb2.ReadChangesRequest() | subscribe_pb2.SubscribeRequest():
            items = message.new_item_state_mode != read_changes_pb2.NEW_ITEM_STATE_MODE_OMIT
            return Demand(address=address, scopes=_scopes(message, scope_of), items=items)
        case token_pb2.ResolveStartPositionRequest():
            return Demand(address=address, scopes=_scopes(message, scope_of))
        case token_pb2.InspectContinuationTokenRequest():
            token = decode.token("continuation_token", message.continuation_token)
            return Demand(address=address, scopes=(scope_of(token),))
        case partition_pb2.ListPhysicalPartitionsRequest():
            # Each of them holds changes of every partition key.
            return Demand(address=address, scopes=(EntireCollection(),))
        case capabilities_pb2.GetCapabilitiesRequest():
            return Demand(address=address)
        case _:
            raise InternalFailure(f"what {type(message).__name__} asks of the policy is not said")


def _scopes(
    message: read_changes_pb2.ReadChangesRequest
    | subscribe_pb2.SubscribeRequest
    | token_pb2.ResolveStartPositionRequest,
    scope_of: Callable[[str], Scope],
) -> tuple[Scope, ...]:
    """The scope that is named and the token's own: both must be open to the caller."""
    named = decode.scope(message)
    token = message.start_position.continuation_token
    if token:
        own = scope_of(decode.token("start_position.continuation_token", token))
        return (own,) if named is None else (named, own)
    return (named or EntireCollection(),)
