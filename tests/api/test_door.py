"""The door: every RPC x principal x scope, from the services' own descriptors, and what a refusal tells: nothing."""

from collections.abc import AsyncIterator, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.resources import files
from itertools import cycle
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from changefeed.v1 import (
    capabilities_pb2,
    operator_service_pb2,
    partition_pb2,
    position_pb2,
    read_changes_pb2,
    resource_pb2,
    subscribe_pb2,
    token_pb2,
)
from changefeed_gateway.api import call_log
from changefeed_gateway.api.identity.door import Door
from changefeed_gateway.api.identity.static_tokens import StaticTokens
from changefeed_gateway.core.model import (
    Address,
    EntireCollection,
    LogicalPartition,
    Now,
    PartitionId,
    PhysicalPartition,
    Scope,
)
from changefeed_gateway.core.policy import Grant, Policy, Right
from changefeed_gateway.core.router import Router
from changefeed_gateway.providers.memory.collection import CollectionOptions
from changefeed_gateway.providers.memory.provider import MemoryProvider
from changefeed_gateway.providers.memory.store import MemoryStore
from tests.conformance.client import Refusal
from tests.gateway import RunningGateway

SERVICE = "/changefeed.v1.ChangeFeedService/"
LIST_STREAMS = "/changefeed.v1.OperatorService/ListStreams"
HEALTH = "/grpc.health.v1.Health/"
REFLECTION = ("/grpc.reflection.v1alpha.ServerReflection/", "/grpc.reflection.v1.ServerReflection/")
OMIT = read_changes_pb2.NEW_ITEM_STATE_MODE_OMIT
INCLUDE = read_changes_pb2.NEW_ITEM_STATE_MODE_UNSPECIFIED
ADDRESS = Address(connection="main", database="", collection="documents")
NOW = position_pb2.StartPosition(now=position_pb2.Now())

DOCUMENTS = resource_pb2.ResourceAddress(connection="main", collection="documents")
NOT_THERE = (
    resource_pb2.ResourceAddress(connection="main", collection="nothing"),
    resource_pb2.ResourceAddress(connection="nowhere", collection="documents"),
    resource_pb2.ResourceAddress(connection="main", database="none", collection="documents"),
)

OF_EVERY_SCOPE = ("ReadChanges", "Subscribe", "ResolveStartPosition")
SNAPSHOT = position_pb2.StartPosition(snapshot=position_pb2.Snapshot())

LogLine = MutableMapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A principal, and by hand what it may: the test's own words for the grants beside it."""

    grants: tuple[Grant, ...] = ()
    reads: tuple[str, ...] = ()
    """Scopes by the names of SCOPES."""
    items: bool = True
    sees: tuple[str, ...] = ()
    """Connections whose health it is told."""


EVERY = ("entire", "physical", "k1", "k2")


def granted(**more: Any) -> tuple[Grant, ...]:
    return (Grant(principals=("token:me",), **{"connections": ("main",), "collections": ("documents",)} | more),)


SPECS = {
    "without a grant": Spec(),
    "of another connection": Spec(grants=granted(connections=("other",)), sees=("other",)),
    "of another collection": Spec(grants=granted(collections=("silent",)), sees=("main",)),
    "whose grants are for others": Spec(
        grants=tuple(replace(granted()[0], principals=(name,)) for name in ("token:m", "token:me2", "jwt:me", "cert:*"))
    ),
    "of everything": Spec(grants=granted(connections=("*",), collections=("*",)), reads=EVERY, sees=("main", "other")),
    "of the collection": Spec(grants=granted(), reads=EVERY, sees=("main",)),
    "of keys only": Spec(grants=granted(items=False), reads=EVERY, items=False, sees=("main",)),
    "a tenant": Spec(grants=granted(partition_keys=("k1",)), reads=("k1",), sees=("main",)),
    "a tenant of keys only": Spec(
        grants=granted(partition_keys=("k1",), items=False), reads=("k1",), items=False, sees=("main",)
    ),
    "a tenant of nothing": Spec(grants=granted(partition_keys=()), sees=("main",)),
    "an operator": Spec(grants=granted(rights=frozenset({Right.OPERATE})), sees=("main",)),
}


@dataclass(frozen=True)
class Asked:
    """One request: what it asks for, in words, and how."""

    method: str
    message: Message
    scopes: tuple[str, ...] = ()
    items: bool = False
    wrong: bool = False
    """Nobody can have it."""
    says: str = ""
    """What of the request no log and no refusal may repeat."""


class World:
    """A gateway, the scopes of its collection, and a token of each."""

    def __init__(self, gateway: RunningGateway, scopes: dict[str, Scope], tokens: dict[str, str]) -> None:
        self.gateway, self.scopes, self.tokens = gateway, scopes, tokens

    def requests(self, address: resource_pb2.ResourceAddress = DOCUMENTS) -> Iterator[Asked]:
        """Every RPC of the service, with every scope and token."""
        for asks_items, mode in ((False, OMIT), (True, INCLUDE)):
            for start, scope, names in self._places():
                common: dict[str, Any] = {"address": address, "start_position": start, "scope": scope}
                wrong = len(set(names)) > 1
                says = start.continuation_token
                common["new_item_state_mode"] = mode
                read = read_changes_pb2.ReadChangesRequest(**common)
                yield Asked("ReadChanges", read, names, asks_items, wrong, says)
                subscribe = subscribe_pb2.SubscribeRequest(**common)
                yield Asked("Subscribe", subscribe, names, asks_items, wrong, says)
        for start, scope, names in self._places():
            resolve = token_pb2.ResolveStartPositionRequest(address=address, start_position=start, scope=scope)
            says = start.continuation_token
            yield Asked("ResolveStartPosition", resolve, names, wrong=len(set(names)) > 1, says=says)
        for name, token in self.tokens.items():
            inspect = token_pb2.InspectContinuationTokenRequest(address=address, continuation_token=token)
            yield Asked("InspectContinuationToken", inspect, (name,), says=token)
        yield Asked("ListPhysicalPartitions", partition_pb2.ListPhysicalPartitionsRequest(address=address), ("entire",))
        yield Asked("GetCapabilities", capabilities_pb2.GetCapabilitiesRequest(address=address))

    def _places(self) -> Iterator[tuple[position_pb2.StartPosition, resource_pb2.FeedScope | None, tuple[str, ...]]]:
        yield NOW, None, ("entire",)
        yield SNAPSHOT, None, ("entire",)
        yield SNAPSHOT, wire(self.scopes["k2"]), ("k2",)
        for name, scope in self.scopes.items():
            yield NOW, wire(scope), (name,)
            token = position_pb2.StartPosition(continuation_token=self.tokens[name])
            yield token, None, (name,)
            yield token, wire(scope), (name,)
        others = position_pb2.StartPosition(continuation_token=self.tokens["k2"])
        yield others, wire(self.scopes["k1"]), ("k1", "k2")

    async def ask(self, path: str, message: Message, token: str | None = "m" * 20) -> Refusal | bytes:
        """The first answer, or how it was refused."""
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self.gateway.channel.unary_stream(path)
        call = method(message.SerializeToString(), metadata=metadata, timeout=30)
        try:
            answer = await call.read()
        except grpc.aio.AioRpcError as error:
            return Refusal.of_error(error)
        finally:
            call.cancel()
        assert isinstance(answer, bytes)
        return answer


def wire(scope: Scope) -> resource_pb2.FeedScope:
    match scope:
        case EntireCollection():
            return resource_pb2.FeedScope(entire_collection=resource_pb2.EntireCollection())
        case PhysicalPartition(partition_id):
            return resource_pb2.FeedScope(physical_partition_id=partition_id)
        case LogicalPartition(key):
            return resource_pb2.FeedScope(logical_partition=key)


def door(grants: Sequence[Grant], **more: Any) -> Any:
    """What makes the door of a gateway that knows one caller."""

    def make(router: Router) -> Door:
        tokens = StaticTokens(lambda: f"me {'m' * 20}\nyou {'y' * 20}")
        return Door([tokens], Policy(grants), scope_of=router.scope_of, **more)

    return make


@pytest.fixture
def spec() -> Spec:
    return SPECS["of everything"]


each_principal = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


@pytest.fixture
async def world(spec: Spec) -> AsyncIterator[World]:
    store = MemoryStore()
    documents = store.create("documents", CollectionOptions(partitions=2, retention=timedelta(hours=1)))
    for key in ("k1", "k2"):
        documents.put(key, "a", {"secret": "hunter2"})
    store.create("silent")
    gateway = await RunningGateway.start(
        {"main": MemoryProvider(store), "other": MemoryProvider(MemoryStore())}, door=door(spec.grants)
    )
    partition = (await gateway.router.list_partitions(ADDRESS))[0].partition_id
    scopes: dict[str, Scope] = {
        "entire": EntireCollection(),
        "physical": PhysicalPartition(PartitionId(partition)),
        "k1": LogicalPartition("k1"),
        "k2": LogicalPartition("k2"),
    }
    tokens = {name: (await gateway.router.resolve_start(ADDRESS, scope, Now())).token for name, scope in scopes.items()}
    yield World(gateway, scopes, tokens)
    await gateway.kill()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[LogLine]]:
    monkeypatch.setattr(call_log, "MAX_LINES", 10_000)
    with structlog.testing.capture_logs((structlog.contextvars.merge_contextvars,)) as lines:
        yield lines


def told(refusal: Refusal) -> tuple[object, ...]:
    """All that a caller can tell of a refusal, but for the call that it is of."""
    metadata = {name: value for name, value in refusal.metadata.items() if name != "request_id"}
    return refusal.code, refusal.message, refusal.reason, metadata, refusal.fields, refusal.retry_delay


@pytest.mark.req("BX-8")
async def test_no_rpc_is_left_out(world: World) -> None:
    described = files("changefeed").joinpath("v1/descriptors.binpb").read_bytes()
    services = [service for file in FileDescriptorSet.FromString(described).file for service in file.service]
    methods = {f"{service.name}/{method.name}" for service in services for method in service.method}
    asked = {f"ChangeFeedService/{asked.method}" for asked in world.requests()}
    assert methods == asked | {"OperatorService/ListStreams"}, "ListStreams has its own test below"
    health = health_pb2.DESCRIPTOR.services_by_name["Health"]
    assert {method.name for method in health.methods} == {"Check", "List", "Watch"}
    reflected = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = await world.ask(REFLECTION[0] + "ServerReflectionInfo", reflected)
    assert isinstance(answer, bytes)
    listed = reflection_pb2.ServerReflectionResponse.FromString(answer).list_services_response.service
    assert {each.name for each in listed} == {
        "changefeed.v1.ChangeFeedService",
        "changefeed.v1.OperatorService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.req("BX-8")
@each_principal
async def test_every_rpc_and_scope_is_open_to_whom_a_grant_opens_it_and_to_nobody_else(
    world: World, spec: Spec, log: list[LogLine]
) -> None:
    denied = 0
    for asked in world.requests():
        allowed = set(asked.scopes) <= set(spec.reads) and bool(spec.reads) and (spec.items or not asked.items)
        answer = await world.ask(SERVICE + asked.method, asked.message)
        if not allowed:
            assert isinstance(answer, Refusal), asked
            assert (answer.code, answer.category) == (grpc.StatusCode.PERMISSION_DENIED, "AUTHORIZATION_FAILED"), asked
            denied += 1
        elif asked.wrong:
            assert isinstance(answer, Refusal), asked
            assert answer.reason == "TOKEN_WRONG_SCOPE"
        else:
            assert isinstance(answer, bytes), (asked, answer)
    lines = [line for line in log if line["event"] == "call denied"]
    assert len(lines) == denied, "one line a denial"
    assert all((line["principal"], line["reason"]) == ("token:me", "AUTHORIZATION_FAILED") for line in lines)


@pytest.mark.req("BX-8")
@each_principal
async def test_a_refusal_says_the_same_of_what_exists_and_of_what_does_not(world: World, spec: Spec) -> None:
    in_turn = cycle(NOT_THERE)
    for asked in world.requests():
        here = await world.ask(SERVICE + asked.method, asked.message)
        if isinstance(here, bytes) or here.code is not grpc.StatusCode.PERMISSION_DENIED or "keys only" in here.message:
            continue
        # What is asked with every scope is asked of each place with this one or that.
        for elsewhere in [next(in_turn)] if asked.method in OF_EVERY_SCOPE else NOT_THERE:
            message = type(asked.message)()
            message.CopyFrom(asked.message)
            message.address.CopyFrom(elsewhere)  # type: ignore[attr-defined]
            there = await world.ask(SERVICE + asked.method, message)
            assert isinstance(there, Refusal)
            assert told(there) == told(here), asked
            assert not any(name in told(there)[1] for name in ("nothing", "nowhere", "documents"))  # type: ignore[operator]


@pytest.mark.req("BX-8")
@pytest.mark.parametrize("token", [None, "", "x" * 20, "m" * 19, "m" * 21, "\u00b5" * 20, "m" * 5_000])
async def test_who_is_not_known_is_let_in_nowhere(world: World, token: str | None, log: list[LogLine]) -> None:
    token = None if token is None else token.encode().decode("latin-1") if token.isascii() else "bytes"
    paths = [(SERVICE + asked.method, asked.message) for asked in world.requests()]
    paths += [(HEALTH + method, health_pb2.HealthCheckRequest()) for method in ("Check", "List", "Watch")]
    reflected = reflection_pb2.ServerReflectionRequest(list_services="")
    paths += [(service + "ServerReflectionInfo", reflected) for service in REFLECTION]
    answers = [await world.ask(path, message, token) for path, message in paths]
    refusals = [answer for answer in answers if isinstance(answer, Refusal)]
    assert len(refusals) == len(answers)
    assert {refusal.code for refusal in refusals} == {grpc.StatusCode.UNAUTHENTICATED}
    assert len({str(told(refusal)) for refusal in refusals}) == 1
    assert len([line for line in log if line["event"] == "call denied"]) == len(answers)


@pytest.mark.req("BX-8")
@each_principal
async def test_health_of_a_connection_is_told_to_who_may_know_of_it(world: World, spec: Spec) -> None:
    answer = await world.ask(HEALTH + "List", health_pb2.HealthCheckRequest())
    assert isinstance(answer, bytes)
    for name in ("main", "other"):
        known = name in spec.sees
        check = await world.ask(HEALTH + "Check", health_pb2.HealthCheckRequest(service=name))
        watched = await world.ask(HEALTH + "Watch", health_pb2.HealthCheckRequest(service=name))
        assert isinstance(check, bytes) is known
        assert (name.encode() in answer) is known
        assert isinstance(watched, bytes)
        status = health_pb2.HealthCheckResponse.FromString(watched).status
        assert (status != health_pb2.HealthCheckResponse.SERVICE_UNKNOWN) is known
        if isinstance(check, Refusal):
            made_up = await world.ask(HEALTH + "Check", health_pb2.HealthCheckRequest(service="made-up"))
            assert isinstance(made_up, Refusal)
            assert told(check) == told(made_up)
    overall = await world.ask(HEALTH + "Check", health_pb2.HealthCheckRequest())
    assert isinstance(overall, bytes)


async def test_open_health_tells_a_probe_whether_the_whole_serves_and_no_more() -> None:
    gateway = await RunningGateway.start(
        {"main": MemoryProvider(MemoryStore())},
        door=door([Grant(principals=("*",), connections=("*",))], open_health=True),
    )
    world = World(gateway, {}, {})
    overall = await world.ask(HEALTH + "Check", health_pb2.HealthCheckRequest(), None)
    assert isinstance(overall, bytes)
    named = await world.ask(HEALTH + "Check", health_pb2.HealthCheckRequest(service="main"), None)
    assert isinstance(named, Refusal)
    assert named.code is grpc.StatusCode.NOT_FOUND
    listed = await world.ask(HEALTH + "List", health_pb2.HealthCheckRequest(), None)
    assert isinstance(listed, bytes)
    assert b"main" not in listed
    wrong = await world.ask(HEALTH + "Check", health_pb2.HealthCheckRequest(), "x" * 30)
    assert isinstance(wrong, Refusal), "credentials that are no good are none of a probe"
    read = read_changes_pb2.ReadChangesRequest(address=DOCUMENTS, start_position=NOW)
    assert isinstance(await world.ask(SERVICE + "ReadChanges", read, None), Refusal)
    await gateway.kill()


@pytest.mark.req("BX-8")
@each_principal
async def test_no_log_line_and_no_refusal_shows_a_key_a_document_or_a_token(
    world: World, spec: Spec, log: list[LogLine]
) -> None:
    secrets = {*world.tokens.values(), "hunter2", "m" * 20, "'k1'", "'k2'"}
    for asked in world.requests():
        answer = await world.ask(SERVICE + asked.method, asked.message)
        if isinstance(answer, Refusal):
            assert not any(secret in str(answer) for secret in secrets)
    assert log
    assert not any(secret in str(log) for secret in secrets)


@pytest.mark.req("BX-8")
@each_principal
async def test_who_reads_what_is_shown_to_those_who_operate_the_collection_and_to_nobody_else(spec: Spec) -> None:
    store = MemoryStore()
    for collection in ("documents", "silent"):
        store.create(collection)
    reader = Grant(principals=("token:you",), connections=("*",))
    gateway = await RunningGateway.start({"main": MemoryProvider(store)}, door=door((*spec.grants, reader)))
    world = World(gateway, {}, {})
    method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
    method = gateway.channel.unary_stream(SERVICE + "Subscribe")
    reading = []
    for collection in ("documents", "silent"):
        address = resource_pb2.ResourceAddress(connection="main", collection=collection)
        request = subscribe_pb2.SubscribeRequest(address=address, start_position=NOW).SerializeToString()
        reading.append(method(request, metadata=(("authorization", f"Bearer {'y' * 20}"),)))
        await reading[-1].read()
    answer = await world.ask(LIST_STREAMS, operator_service_pb2.ListStreamsRequest())
    if any(Right.OPERATE in grant.rights for grant in spec.grants):
        assert isinstance(answer, bytes)
        streams = operator_service_pb2.ListStreamsResponse.FromString(answer).streams
        assert [(each.principal, each.address.collection) for each in streams] == [("token:you", "documents")]
    else:
        assert isinstance(answer, Refusal)
        assert answer.reason == "AUTHORIZATION_FAILED"
    assert isinstance(await world.ask(LIST_STREAMS, operator_service_pb2.ListStreamsRequest(), None), Refusal)
    for call in reading:
        call.cancel()
    await gateway.kill()


@pytest.mark.req("BX-8")
async def test_who_operates_some_logical_partitions_sees_the_streams_of_these_and_no_others() -> None:
    store = MemoryStore()
    store.create("documents", CollectionOptions(partitions=1))
    tenant = granted(partition_keys=("k1",), rights=frozenset({Right.READ, Right.OPERATE}))
    reader = Grant(principals=("token:you",), connections=("*",))
    gateway = await RunningGateway.start({"main": MemoryProvider(store)}, door=door((*tenant, reader)))
    partition = (await gateway.router.list_partitions(ADDRESS))[0].partition_id
    method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = gateway.channel.unary_stream(SERVICE + "Subscribe")
    reading = []
    for scope in (EntireCollection(), PhysicalPartition(partition), LogicalPartition("k1"), LogicalPartition("k2")):
        request = subscribe_pb2.SubscribeRequest(address=DOCUMENTS, start_position=NOW, scope=wire(scope))
        reading.append(method(request.SerializeToString(), metadata=(("authorization", f"Bearer {'y' * 20}"),)))
        await reading[-1].read()
    answer = await World(gateway, {}, {}).ask(LIST_STREAMS, operator_service_pb2.ListStreamsRequest())
    assert isinstance(answer, bytes)
    [status] = operator_service_pb2.ListStreamsResponse.FromString(answer).streams
    assert (status.stream_id, status.scope) == (3, operator_service_pb2.STREAM_SCOPE_LOGICAL_PARTITION)
    for call in reading:
        call.cancel()
    await gateway.kill()


async def test_where_nobody_is_asked_a_stream_is_its_hosts_and_no_principals() -> None:
    store = MemoryStore()
    store.create("documents")
    gateway = await RunningGateway.start({"main": MemoryProvider(store)})
    stream = gateway.stub.Subscribe(subscribe_pb2.SubscribeRequest(address=DOCUMENTS, start_position=NOW))
    await stream.read()
    answer = await World(gateway, {}, {}).ask(LIST_STREAMS, operator_service_pb2.ListStreamsRequest(), None)
    assert isinstance(answer, bytes)
    [status] = operator_service_pb2.ListStreamsResponse.FromString(answer).streams
    assert (status.principal, status.host) == ("", "127.0.0.1")
    stream.cancel()
    await gateway.kill()


async def test_inspection_says_nothing_of_a_token_of_another_collection(world: World) -> None:
    elsewhere = resource_pb2.ResourceAddress(connection="main", collection="silent")
    message = token_pb2.InspectContinuationTokenRequest(address=elsewhere, continuation_token=world.tokens["k2"])
    answer = await world.ask(SERVICE + "InspectContinuationToken", message)
    assert isinstance(answer, bytes)
    report = token_pb2.InspectContinuationTokenResponse.FromString(answer)
    assert not report.usable
    assert Refusal.of_status(report.problem).reason == "TOKEN_WRONG_RESOURCE"
    assert not report.HasField("scope")
    assert not report.HasField("issue_time")
    assert not report.key_id


@pytest.mark.parametrize("values", [("Basic bWU6bWU=",), (f"Bearer {'m' * 20}", f"Bearer {'m' * 20}"), ("Bearer",)])
async def test_one_bearer_token_and_nothing_else_is_an_authorization(world: World, values: tuple[str, ...]) -> None:
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = world.gateway.channel.unary_unary(HEALTH + "Check")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(b"", metadata=tuple(("authorization", value) for value in values))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
