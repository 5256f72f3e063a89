"""What grants give, to whom, and that nothing else is given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed_gateway.core.errors import AuthorizationFailed
from changefeed_gateway.core.model import (
    Address,
    EntireCollection,
    LogicalPartition,
    PartitionId,
    PhysicalPartition,
    Scope,
)
from changefeed_gateway.core.policy import ANONYMOUS, NOBODY, Grant, Policy, Principal, Right, is_among

ALICE = Principal(name="jwt:alice", groups=frozenset({"readers"}), claims=(("tenant", "k1"),))
ORDERS = Address(connection="main", database="", collection="orders")
WHOLE: Scope = EntireCollection()
OWN: Scope = LogicalPartition("k1")
OTHER: Scope = LogicalPartition("k2")
PART: Scope = PhysicalPartition(PartitionId("k1"))


def grant(*principals: str, connections: tuple[str, ...] = ("main",), **more: object) -> Grant:
    return Grant(principals=principals, connections=connections, **more)  # type: ignore[arg-type]


def opened(policy: Policy, principal: Principal, *, items: bool = True) -> set[Scope]:
    """The scopes that a principal may read."""
    found = set()
    for scope in (WHOLE, OWN, OTHER, PART):
        try:
            policy.access(principal, Right.READ, ORDERS).check(scope, items=items)
        except AuthorizationFailed:
            continue
        found.add(scope)
    return found


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("jwt:alice", True),
        ("group:readers", True),
        ("*", True),
        ("jwt:*", True),
        ("jwt:al*", True),
        ("group:read*", True),
        ("jwt:alic", False),
        ("jwt:alice2", False),
        ("cert:alice", False),
        ("token:*", False),
        ("readers", False),
        ("group:", False),
    ],
)
def test_a_grant_is_for_those_it_names(pattern: str, matches: bool) -> None:
    assert bool(opened(Policy([grant(pattern)]), ALICE)) is matches
    assert is_among(ALICE, [pattern]) is matches


def test_nobody_is_among_nobody() -> None:
    policy = Policy([grant("*"), grant("anonymous")])
    assert opened(policy, NOBODY) == set()
    assert not policy.knows(NOBODY, "main")


def test_without_a_grant_everything_is_refused_and_an_open_policy_refuses_nothing() -> None:
    assert opened(Policy([]), ALICE) == set()
    assert opened(Policy.open(), ANONYMOUS) == {WHOLE, OWN, OTHER, PART}
    assert Policy.open().may(ANONYMOUS, Right.OPERATE, ORDERS, WHOLE)


def test_a_tenant_reads_its_own_logical_partition_only() -> None:
    for bound in (grant("jwt:alice", partition_keys=("k1",)), grant("*", partition_key_claim="tenant")):
        assert opened(Policy([bound]), ALICE) == {OWN}
        assert not Policy([bound]).access(ALICE, Right.READ, ORDERS).is_whole


def test_who_lacks_the_claim_that_a_grant_asks_for_has_nothing_of_it() -> None:
    policy = Policy([grant("*", partition_key_claim="tenant")])
    assert opened(policy, Principal(name="jwt:bob")) == set()
    assert not policy.may(Principal(name="jwt:bob"), Right.READ, ORDERS, OWN)


def test_items_and_scope_come_of_one_grant_not_of_two() -> None:
    policy = Policy([grant("*", items=False), grant("*", partition_keys=("k1",))])
    assert opened(policy, ALICE, items=False) == {WHOLE, OWN, OTHER, PART}
    assert opened(policy, ALICE) == {OWN}
    assert not policy.access(ALICE, Right.READ, ORDERS).is_whole


def test_rights_are_each_given_by_themselves() -> None:
    policy = Policy([grant("*", rights=frozenset({Right.OPERATE}))])
    assert policy.may(ALICE, Right.OPERATE, ORDERS, WHOLE)
    assert not policy.may(ALICE, Right.READ, ORDERS, WHOLE)


@pytest.mark.parametrize("address", [("other", "orders"), ("main", "secrets"), ("main", "orders2"), ("main", "*")])
def test_what_is_not_named_is_refused_in_the_same_words(address: tuple[str, str]) -> None:
    policy = Policy([grant("jwt:alice", collections=("orders",))])
    with pytest.raises(AuthorizationFailed) as elsewhere:
        policy.access(ALICE, Right.READ, Address(connection=address[0], database="", collection=address[1]))
    with pytest.raises(AuthorizationFailed) as no_grant:
        Policy([]).access(ALICE, Right.READ, ORDERS)
    assert (str(elsewhere.value), elsewhere.value.metadata) == (str(no_grant.value), no_grant.value.metadata)


_names = st.sampled_from(["jwt:a", "jwt:b", "group:g", "*", "jwt:*"])
_grants = st.lists(
    st.builds(
        Grant,
        principals=st.lists(_names, min_size=1, max_size=2).map(tuple),
        connections=st.sampled_from([("main",), ("other",), ("*",)]),
        collections=st.sampled_from([("orders",), ("*",), ("secrets",)]),
        partition_keys=st.none() | st.lists(st.sampled_from(["k1", "k2"]), max_size=2).map(tuple),
        items=st.booleans(),
    ),
    max_size=6,
)


@given(_grants, st.sampled_from(["jwt:a", "jwt:b"]), st.sampled_from([WHOLE, OWN, OTHER, PART]), st.booleans())
def test_a_policy_gives_exactly_what_some_grant_gives(
    grants: list[Grant], name: str, scope: Scope, items: bool
) -> None:
    principal = Principal(name=name, groups=frozenset({"g"}))

    def gives(each: Grant) -> bool:
        return (
            is_among(principal, each.principals)
            and each.covers(Right.READ, "main", "orders")
            and (
                each.partition_keys is None
                or (isinstance(scope, LogicalPartition) and scope.partition_key in each.partition_keys)
            )
            and (each.items or not items)
        )

    try:
        Policy(grants).access(principal, Right.READ, ORDERS).check(scope, items=items)
        given_ = True
    except AuthorizationFailed:
        given_ = False
    assert given_ is any(gives(each) for each in grants)
