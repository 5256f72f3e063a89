"""What a caller may do: grants, and the one question that is asked of them."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from changefeed_gateway.core.errors import AuthorizationFailed
from changefeed_gateway.core.model import Address, LogicalPartition, Scope

EVERYBODY: Final = "*"
GROUP: Final = "group:"
"""Begins the pattern of a group's members."""


class Right(Enum):
    """The kinds of things that a call can do; every RPC is of one."""

    READ = "read"
    """Read the changes of a collection, and what else the service says of it."""
    OPERATE = "operate"
    """See what goes on in the gateway, such as who reads what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller, once it is known who it is."""

    name: str
    """How it was found out and who it is, such as `jwt:alice`."""
    groups: frozenset[str] = frozenset()
    claims: tuple[tuple[str, str], ...] = ()
    """What its credentials say of it beside, where a grant asks for it."""

    def claim(self, name: str) -> str | None:
        """The value of a claim; None without it."""
        return dict(self.claims).get(name)


ANONYMOUS: Final = Principal(name="anonymous")
"""Who calls where nobody is asked who they are."""
NOBODY: Final = Principal(name="")
"""Who calls without credentials where some are needed: no pattern is theirs, not even `*`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One rule: lets principals read collections of connections, entirely or some logical partitions of them."""

    principals: tuple[str, ...]
    """Names, `group:` and a name, or the beginning of names with a `*` behind it; `*` is everybody who is known."""
    connections: tuple[str, ...]
    """Names; `*` is every one."""
    collections: tuple[str, ...] = (EVERYBODY,)
    partition_keys: tuple[str, ...] | None = None
    """Only the logical partitions of these keys; None for every scope."""
    partition_key_claim: str = ""
    """Only the logical partition whose key is the value of this claim."""
    items: bool = True
    """False: keys only, never the item."""
    rights: frozenset[Right] = frozenset({Right.READ})

    def keys_of(self, principal: Principal) -> frozenset[str] | None:
        """The partition keys that it opens to a principal; None for every scope."""
        if self.partition_keys is None and not self.partition_key_claim:
            return None
        claimed = principal.claim(self.partition_key_claim) if self.partition_key_claim else None
        return frozenset((*(self.partition_keys or ()), *(() if claimed is None else (claimed,))))

    def covers(self, right: Right, connection: str, collection: str) -> bool:
        """Whether it gives a right on a collection, as far as its scopes go."""
        return (
            right in self.rights
            and (EVERYBODY in self.connections or connection in self.connections)
            and (EVERYBODY in self.collections or collection in self.collections)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """A grant in the hands of one principal."""

    keys: frozenset[str] | None
    items: bool

    def covers(self, scope: Scope) -> bool:
        return self.keys is None or (isinstance(scope, LogicalPartition) and scope.partition_key in self.keys)


@dataclass(frozen=True, slots=True)
class Access:
    """What one principal may do with one collection; only `Policy.access` makes one."""

    held: tuple[_Held, ...]

    @property
    def is_whole(self) -> bool:
        """Whether every scope is open, items included."""
        return any(held.keys is None and held.items for held in self.held)

    def check(self, scope: Scope, *, items: bool) -> None:
        """Raise AuthorizationFailed unless one grant lets this scope be read, with items if they are asked for."""
        covering = [held for held in self.held if held.covers(scope)]
        if not covering:
            raise not_allowed()
        if items and not any(held.items for held in covering):
            raise AuthorizationFailed("keys only: ask for NEW_ITEM_STATE_MODE_OMIT")


class Policy:
    """All grants. What none of them gives is refused, in the same words whether it exists or not."""

    def __init__(self, grants: Sequence[Grant]) -> None:
        self._by_name: dict[str, list[Grant]] = defaultdict(list)
        self._by_beginning: list[tuple[str, Grant]] = []
        for grant in grants:
            for pattern in dict.fromkeys(grant.principals):
                if pattern.endswith(EVERYBODY):
                    self._by_beginning.append((pattern.removesuffix(EVERYBODY), grant))
                else:
                    self._by_name[pattern].append(grant)
        self.claims = frozenset(grant.partition_key_claim for grant in grants) - {""}
        """What the grants ask credentials for, beside who the principal is."""

    @classmethod
    def open(cls) -> "Policy":
        """Everybody may everything: for a gateway that asks nobody who they are."""
        return cls([Grant(principals=(EVERYBODY,), connections=(EVERYBODY,), rights=frozenset(Right))])

    def access(self, principal: Principal, right: Right, address: Address) -> Access:
        """May this principal do things of this right with this address? Says with which parts of it.

        Raises AuthorizationFailed. Looks at nothing but the grants: whether the address exists makes no difference.
        """
        held = tuple(
            _Held(keys=grant.keys_of(principal), items=grant.items)
            for grant in self.grants_of(principal)
            if grant.covers(right, address.connection, address.collection)
        )
        if not any(each.keys is None or each.keys for each in held):
            raise not_allowed()
        return Access(held)

    def may(self, principal: Principal, right: Right, address: Address, scope: Scope) -> bool:
        """Whether `access` would answer, and let this scope in."""
        try:
            self.access(principal, right, address).check(scope, items=False)
        except AuthorizationFailed:
            return False
        return True

    def has(self, principal: Principal, right: Right) -> bool:
        """Whether a principal has a right on anything."""
        return any(right in grant.rights for grant in self.grants_of(principal))

    def knows(self, principal: Principal, connection: str) -> bool:
        """Whether a principal may hear of a connection: it has some right on something there."""
        return any(
            EVERYBODY in grant.connections or connection in grant.connections for grant in self.grants_of(principal)
        )

    def grants_of(self, principal: Principal) -> Iterator[Grant]:
        """The grants whose principals a principal is among."""
        for name in _names(principal):
            yield from self._by_name.get(name, ())
            yield from (grant for beginning, grant in self._by_beginning if _begins(name, beginning))


def is_among(principal: Principal, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns of a grant or a quota is a principal's."""
    return any(
        _begins(name, pattern.removesuffix(EVERYBODY)) if pattern.endswith(EVERYBODY) else name == pattern
        for name in _names(principal)
        for pattern in patterns
    )


def _names(principal: Principal) -> Iterator[str]:
    yield principal.name
    yield from (f"{GROUP}{group}" for group in principal.groups)


def _begins(name: str, beginning: str) -> bool:
    # `*` is everybody once, and not once more for each of their groups.
    return bool(name) and name.startswith(beginning) and bool(beginning or not name.startswith(GROUP))


def not_allowed() -> AuthorizationFailed:
    """The refusal of everything that no grant gives: the same words for what exists and what does not."""
    return AuthorizationFailed("not allowed: ask the gateway's operator for a grant")
