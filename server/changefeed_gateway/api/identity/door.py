"""The door: every call passes it, and nothing behind it asks again who calls or whether it may."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc

from changefeed_gateway.api.identity.caller import Authenticator, Identity, Presented
from changefeed_gateway.api.identity.demand import AddressedRequest, demand
from changefeed_gateway.api.wire import decode
from changefeed_gateway.core.errors import AuthenticationFailed
from changefeed_gateway.core.model import Address, EntireCollection, LogicalPartition, Scope
from changefeed_gateway.core.policy import ANONYMOUS, NOBODY, Policy, Principal, Right
from changefeed_gateway.core.quota import Account, Quotas

_AUTHORIZATION: Final = "authorization"
_BEARER: Final = "bearer "

_ANYBODY: Final = Identity(principal=ANONYMOUS)

ScopeOfToken = Callable[[str], Scope]
"""Opens a continuation token and answers its scope. Raises InvalidRequest."""


class Door:
    """Knows callers and asks the policy. Without authenticators everybody is `ANONYMOUS`."""

    def __init__(
        self,
        authenticators: Sequence[Authenticator] = (),
        policy: Policy | None = None,
        quotas: Quotas | None = None,
        *,
        open_health: bool = False,
        scope_of: ScopeOfToken,
    ) -> None:
        """Make a door.

        Args:
            authenticators: The ways to know callers, in the order in which they are tried.
            policy: What principals may do. Without one everybody who is known may nothing, and where nobody is asked
                who they are, everything.
            quotas: How much each principal may take; without, as much as there is.
            open_health: Tell overall health, and no more, to callers without credentials too.
            scope_of: Opens continuation tokens.
        """
        self._authenticators = tuple(authenticators)
        self.policy = policy or (Policy([]) if authenticators else Policy.open())
        self._is_open = not authenticators and policy is None
        self._quotas = quotas or Quotas()
        self._open_health = open_health
        self._scope_of = scope_of

    async def identify(self, context: "grpc.aio.ServicerContext[Any, Any]", *, is_health: bool = False) -> Identity:
        """Who calls. Raises AuthenticationFailed, which says nothing of what is behind the door."""
        if not self._authenticators:
            return _ANYBODY
        presented = _presented(context)
        for authenticator in self._authenticators:
            identity = await authenticator.identify(presented)
            if identity is not None:
                return identity
        if is_health and self._open_health and not presented.bearers:
            return Identity(principal=NOBODY)
        raise AuthenticationFailed(
            "the bearer token is not known here" if presented.bearers else "send credentials: nobody is known without"
        )

    def admit(self, principal: Principal, message: AddressedRequest, facts: dict[str, object]) -> None:
        """Let a request of the service in. Raises AuthorizationFailed, or InvalidRequest for what is no request.

        `facts` are told what was asked for when it is refused: kinds, never a key.
        """
        if self._is_open:
            return
        address = decode.address(message.address)
        access = self.policy.access(principal, Right.READ, address)
        if access.is_whole:
            return
        asked = demand(message, self._scope_of)
        facts["scopes"] = [_kind(scope) for scope in asked.scopes]
        for scope in asked.scopes:
            access.check(scope, items=asked.items)
        del facts["scopes"]

    def may(self, principal: Principal, right: Right, address: Address, scope: Scope) -> bool:
        """Whether a caller has a right on a scope of an address: the one question, for handlers that list several."""
        return self.policy.may(principal, right, address, scope)

    def knows(self, principal: Principal, connection: str) -> bool:
        """Whether a caller may hear of a connection; another one is to it as if it did not exist."""
        return self.policy.knows(principal, connection)

    def account(self, principal: Principal) -> Account:
        """What a principal has taken of its quota."""
        return self._quotas.account(principal)


def _presented(context: "grpc.aio.ServicerContext[Any, Any]") -> Presented:
    values = [str(value) for key, value in context.invocation_metadata() or () if key == _AUTHORIZATION]
    bearers = [value[len(_BEARER) :].strip() for value in values if value[: len(_BEARER)].lower() == _BEARER]
    if len(values) > 1 or len(bearers) != len(values):
        raise AuthenticationFailed("send one authorization of the form `Bearer TOKEN`")
    certificate = {name: tuple(values) for name, values in context.auth_context().items()}
    return Presented(bearers=bearers, certificate=certificate)


def _kind(scope: Scope) -> str:
    match scope:
        case EntireCollection():
            return "entire collection"
        case LogicalPartition():
            return "logical partition"
        case _:
            return "physical partition"
