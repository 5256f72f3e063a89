"""Callers on a real port: certificates and their rotation, static tokens, and what ends while a stream is open."""

import asyncio
import hashlib
import hmac
import resource
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from changefeed.v1 import (
    change_event_pb2,
    change_feed_service_pb2_grpc,
    position_pb2,
    read_changes_pb2,
    resource_pb2,
    subscribe_pb2,
)
from changefeed_gateway.api import interceptors
from changefeed_gateway.api.admission import LateAnswers
from changefeed_gateway.api.call import Call
from changefeed_gateway.api.identity.caller import Authenticator, Identity, Presented
from changefeed_gateway.api.identity.certificates import Certificates
from changefeed_gateway.api.identity.door import Door
from changefeed_gateway.api.identity.json_web_tokens import JsonWebTokens, TokenRules
from changefeed_gateway.api.identity.key_set import KeySet
from changefeed_gateway.api.identity.renewal import Renewable, Renewal, in_a_thread
from changefeed_gateway.api.identity.server_certificate import CertificateRotation, ServerCertificate
from changefeed_gateway.api.identity.static_tokens import MOST, StaticTokens
from changefeed_gateway.api.server import GatewayServer, _server_options
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.policy import Grant, Policy, Principal
from changefeed_gateway.core.quota import Quota, Quotas
from tests.api.gateway import details_of, error_info
from tests.api.issuers import Authority, Issuer, Pair
from tests.api.router_double import RouterDouble

ADDRESS = resource_pb2.ResourceAddress(connection="main", collection="documents")
BEGINNING = position_pb2.StartPosition(beginning=position_pb2.Beginning())
READ = read_changes_pb2.ReadChangesRequest(address=ADDRESS, start_position=BEGINNING)
SUBSCRIBE = subscribe_pb2.SubscribeRequest(address=ADDRESS, start_position=BEGINNING)
SECRET = "s3cret-s3cret-s3cret"

Stub = "change_feed_service_pb2_grpc.ChangeFeedServiceAsyncStub"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def everything_for(*principals: str) -> Policy:
    return Policy([Grant(principals=principals, connections=("*",))])


@asynccontextmanager
async def serving(
    authenticators: Sequence[Authenticator] = (),
    policy: Policy | None = None,
    quotas: Quotas | None = None,
    *,
    rotation: CertificateRotation | None = None,
    router: RouterDouble | None = None,
) -> AsyncIterator[str]:
    router = router or RouterDouble()
    server = GatewayServer(router, door=Door(authenticators, policy, quotas, scope_of=router.scope_of))
    credentials = None if rotation is None else rotation.credentials()
    address = f"127.0.0.1:{await server.start('127.0.0.1:0', credentials)}"
    try:
        yield address
    finally:
        await server.drain(timedelta(0))


@asynccontextmanager
async def calling(address: str, tls: grpc.ChannelCredentials | None = None) -> AsyncIterator[Any]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = (
        grpc.aio.insecure_channel(address, options=options)
        if tls is None
        else grpc.aio.secure_channel(address, tls, options=options)
    )
    async with channel:
        yield change_feed_service_pb2_grpc.ChangeFeedServiceStub(channel)


def trusting(authority: Authority, client: Pair | None = None) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        authority.pem, None if client is None else client.key, None if client is None else client.chain
    )


def rotation(pair: Pair, client_ca: bytes | None = None) -> CertificateRotation:
    return CertificateRotation(lambda: ServerCertificate(chain=pair.chain, key=pair.key, client_ca=client_ca))


async def failure(answer: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer
    return caught.value


async def read_all(stream: Any, messages: list[object] | None = None) -> None:
    while (message := await stream.read()) is not grpc.aio.EOF:
        if messages is not None:
            messages.append(message)


def record(size: int) -> bytes:
    """One event of a batch, as it is joined to others."""
    event = change_event_pb2.ChangeEvent(event_id="x" * size)
    return subscribe_pb2.ChangeBatch(events=[event]).SerializeToString()


# Transport


@pytest.mark.req("BX-8")
async def test_tls_is_spoken_and_plaintext_is_not(authority: Authority) -> None:
    async with serving(rotation=rotation(authority.server())) as address:
        async with calling(address, trusting(authority)) as stub:
            await stub.ReadChanges(READ)
        async with calling(address) as stub:
            assert (await failure(stub.ReadChanges(READ))).code() is grpc.StatusCode.UNAVAILABLE
        async with calling(address, trusting(Authority())) as stub:
            assert (await failure(stub.ReadChanges(READ))).code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.req("BX-8")
async def test_a_certificate_is_replaced_without_a_restart_and_without_a_cut(
    authority: Authority, tmp_path: Path
) -> None:
    newer = Authority("a newer CA")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"

    def place(pair: Pair) -> None:
        chain.write_bytes(pair.chain)
        key.write_bytes(pair.key)

    place(authority.server())
    certificate = CertificateRotation(lambda: ServerCertificate(chain=chain.read_bytes(), key=key.read_bytes()))
    async with serving(rotation=certificate) as address, calling(address, trusting(authority)) as stub:
        stream = stub.Subscribe(SUBSCRIBE)
        await stream.read()
        assert certificate.load() is False
        chain.write_bytes(newer.server().chain)
        with pytest.raises(ValueError, match="not the certificate's"):
            certificate.load()
        async with calling(address, trusting(authority)) as same:
            await same.ReadChanges(READ)
        place(newer.server())
        renewal = Renewal()
        renewal.start(
            Renewable(name="certificate", renew=in_a_thread(certificate.load), interval=timedelta(milliseconds=10))
        )
        async with asyncio.timeout(30):
            while True:
                async with calling(address, trusting(newer)) as fresh:
                    try:
                        await fresh.ReadChanges(READ)
                        break
                    except grpc.aio.AioRpcError:
                        await asyncio.sleep(0.01)
        await renewal.aclose()
        await stub.ReadChanges(READ)
        assert not stream.done(), "who is connected stays so"


def test_files_that_are_no_pair_are_refused_and_shown_nowhere(authority: Authority) -> None:
    pair = authority.server()
    for chain, key, ca in (
        (b"", pair.key, None),
        (pair.chain, b"", None),
        (pair.key, pair.key, None),
        (pair.chain, authority.server().key, None),
        (pair.chain, pair.key, b"no CA"),
        (b"\xff", b"\xff", None),
    ):
        with pytest.raises(ValueError, match=r"PEM|certificate's") as caught:
            rotation(Pair(chain, key), ca)
        assert "PRIVATE" not in str(caught.value)
    assert "PRIVATE" not in repr(ServerCertificate(chain=pair.chain, key=pair.key))


async def closed(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    """Wait until the other side ends a connection."""
    reader, writer = connection
    async with asyncio.timeout(30):
        while await reader.read(65_536):
            pass
    writer.close()


@pytest.mark.req("BX-8")
async def test_a_connection_too_many_is_closed_and_who_is_connected_is_served() -> None:
    async with serving(router=RouterDouble(Limits(max_connections=3))) as address, calling(address) as stub:
        await stub.ReadChanges(READ)
        host, _, port = address.partition(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        for _ in range(5):
            await closed(await asyncio.open_connection(host, int(port)))
            await stub.ReadChanges(READ)
        for _, writer in idle:
            writer.close()
        async with asyncio.timeout(30), calling(address) as another:
            while True:
                try:
                    await another.ReadChanges(READ)
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.01)


async def test_a_connection_that_says_nothing_is_closed() -> None:
    router = RouterDouble()
    server = GatewayServer(router, options=[("grpc.server_handshake_timeout_ms", 100)])
    port = await server.start("127.0.0.1:0")
    assert dict(server._options)["grpc.server_handshake_timeout_ms"] == 100
    assert _server_options(Limits(), reuse_port=False)["grpc.server_handshake_timeout_ms"] == 10_000
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
    await asyncio.gather(*map(closed, silent))
    await server.drain(timedelta(0))


@pytest.mark.parametrize(("files", "most"), [(1_024, 768), (100, 50), (1_000_000, 10_000)])
def test_files_are_left_for_the_databases(monkeypatch: pytest.MonkeyPatch, files: int, most: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert _server_options(Limits(), reuse_port=False)["grpc.max_allowed_incoming_connections"] == most


async def test_a_host_that_calls_on_too_many_connections_is_told_so() -> None:
    async with serving(router=RouterDouble(Limits(peer_connections=1))) as address, calling(address) as stub:
        stream = stub.Subscribe(SUBSCRIBE)
        await stream.read()
        await stub.ReadChanges(READ)
        async with calling(address) as another:
            error = await failure(another.ReadChanges(READ))
        assert (error.code(), error_info(error).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CONNECTIONS")
        stream.cancel()


# Certificates of clients


@pytest.mark.req("BX-8")
async def test_a_client_certificate_names_its_caller(authority: Authority) -> None:
    policy = everything_for("cert:alice")
    async with serving(
        [Certificates("common_name")], policy, rotation=rotation(authority.server(), authority.pem)
    ) as at:
        async with calling(at, trusting(authority, authority.client("alice"))) as stub:
            await stub.ReadChanges(READ)
        async with calling(at, trusting(authority, authority.client("bob"))) as stub:
            assert (await failure(stub.ReadChanges(READ))).code() is grpc.StatusCode.PERMISSION_DENIED
        async with calling(at, trusting(authority)) as stub:
            assert (await failure(stub.ReadChanges(READ))).code() is grpc.StatusCode.UNAVAILABLE
        async with calling(at, trusting(authority, Authority().client("alice"))) as stub:
            assert (await failure(stub.ReadChanges(READ))).code() is grpc.StatusCode.UNAVAILABLE
        async with calling(at, trusting(authority, authority.client(""))) as stub:
            assert (await failure(stub.ReadChanges(READ))).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_uri_of_a_certificate_names_its_caller_if_it_is_the_only_one(authority: Authority) -> None:
    spiffe = "spiffe://example.org/reports"
    policy = everything_for("cert:spiffe://example.org/*")
    async with serving([Certificates("uri")], policy, rotation=rotation(authority.server(), authority.pem)) as address:
        async with calling(address, trusting(authority, authority.client("any", uris=(spiffe,)))) as stub:
            await stub.ReadChanges(READ)
        for uris in ((), (spiffe, "spiffe://example.org/other")):
            async with calling(address, trusting(authority, authority.client("any", uris=uris))) as stub:
                assert (await failure(stub.ReadChanges(READ))).code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.req("BX-8")
async def test_a_stream_does_not_outlive_the_certificate_of_its_caller(authority: Authority) -> None:
    client = authority.client("alice", valid_for=timedelta(seconds=2))
    async with (
        serving(
            [Certificates("common_name")], everything_for("*"), rotation=rotation(authority.server(), authority.pem)
        ) as address,
        calling(address, trusting(authority, client)) as stub,
    ):
        stream = stub.Subscribe(SUBSCRIBE)
        await stream.read()
        ended = await failure(stream.read())
        assert (ended.code(), error_info(ended).reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_EXPIRED")
        assert (await failure(stub.ReadChanges(READ))).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_calls_own_token_goes_before_the_certificate_of_its_connection(authority: Authority) -> None:
    ways: list[Authenticator] = [StaticTokens(lambda: f"bob {SECRET}"), Certificates("common_name")]
    async with (
        serving(ways, everything_for("token:bob"), rotation=rotation(authority.server(), authority.pem)) as address,
        calling(address, trusting(authority, authority.client("alice"))) as stub,
    ):
        await stub.ReadChanges(READ, metadata=(("authorization", f"Bearer {SECRET}"),))
        assert (await failure(stub.ReadChanges(READ))).code() is grpc.StatusCode.PERMISSION_DENIED
        wrong = stub.ReadChanges(READ, metadata=(("authorization", f"Bearer {'x' * 30}"),))
        assert (await failure(wrong)).code() is grpc.StatusCode.UNAUTHENTICATED, "and no certificate makes it good"


# Static tokens


def test_a_file_of_tokens_may_hold_digests_and_comments() -> None:
    digest = hashlib.sha256(b"another token of some length").hexdigest()
    for spelled in (digest, digest.upper()):
        tokens = StaticTokens(lambda spelled=spelled: f"# who\n\nalice {SECRET}\n  bob\tsha256:{spelled}  \n")  # type: ignore[misc]
        assert SECRET not in repr(vars(tokens))
        presented = (SECRET, "another token of some length")
        found = [asyncio.run(tokens.identify(Presented(bearers=(each,)))) for each in presented]
        assert [each and each.principal.name for each in found] == ["token:alice", "token:bob"]
        for wrong in ("", SECRET[:-1], SECRET + "x", f"sha256:{spelled}", spelled):
            assert asyncio.run(tokens.identify(Presented(bearers=(wrong,)))) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"alice {SECRET}\nbob short", "line 2"),
        ("alice", "line 1"),
        (f"al/ice {SECRET}", "line 1"),
        (f"alice {SECRET} more", "line 1"),
        (f"alice {SECRET}\nbob {SECRET}", "line 2"),
        (f"alice {SECRET}\nbob sha256:{'0' * 63}", "line 2.*64"),
        (f"alice {SECRET}\nbob SHA256={'0' * 64}", "line 2.*64"),
        ("\n".join(f"a{n} {SECRET}{n}" for n in range(MOST + 1)), "more than"),
    ],
)
def test_a_file_of_tokens_that_is_not_right_is_refused_by_its_line(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        StaticTokens(lambda: text)
    assert SECRET not in str(caught.value)


def test_a_token_is_compared_with_all_of_them_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    original = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(len(other))
        return original(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    tokens = StaticTokens(lambda: "\n".join(f"a{n} {SECRET}{n}" for n in range(5)))
    for token in (f"{SECRET}0", "nothing like it at all"):
        compared.clear()
        asyncio.run(tokens.identify(Presented(bearers=(token,))))
        assert compared == [32] * 5


# What ends while a stream is open


class Clockwork:
    """Knows one caller, for as long as the test says."""

    def __init__(self) -> None:
        self.held = True

    async def identify(self, presented: Presented) -> Identity | None:
        return Identity(principal=Principal(name="token:a"), holds=lambda: self.held) if self.held else None


@pytest.mark.req("BX-8")
async def test_a_stream_ends_when_its_token_expires_says_why_and_may_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    issuer = Issuer()
    keys = KeySet(issuer.key_set, ("ES256",))
    keys.load()
    rules = TokenRules(issuer=issuer.issuer, audience=issuer.audience, algorithms=("ES256",), leeway_seconds=0.0)
    async with serving([JsonWebTokens(rules, keys)], everything_for("jwt:alice")) as address, calling(address) as stub:
        began = time.monotonic()
        stream = stub.Subscribe(SUBSCRIBE, metadata=(("authorization", f"Bearer {issuer.token(lives=1.5)}"),))
        await stream.read()
        ended = await failure(stream.read())
        assert time.monotonic() - began < 30
        assert ended.code() is grpc.StatusCode.UNAUTHENTICATED
        assert error_info(ended).reason == "CREDENTIALS_EXPIRED"
        assert error_info(ended).metadata["retryable"] == "true"
        assert "expired" in str(ended.details())
        again = stub.Subscribe(SUBSCRIBE, metadata=(("authorization", f"Bearer {issuer.token()}"),))
        assert isinstance(await again.read(), subscribe_pb2.SubscribeResponse)
        again.cancel()


@pytest.mark.req("BX-8")
async def test_a_stream_and_a_watch_of_health_end_when_the_token_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "_LOOK_AGAIN", 0.01)
    clockwork = Clockwork()
    async with serving([clockwork], everything_for("*")) as address, calling(address) as stub:
        stream = stub.Subscribe(SUBSCRIBE)
        await stream.read()
        async with grpc.aio.insecure_channel(address) as channel:
            method: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
            watch = method(b"")
            await watch.read()
            clockwork.held = False
            for ended in (await failure(stream.read()), await failure(watch.read())):
                assert ended.code() is grpc.StatusCode.UNAUTHENTICATED
                assert "withdrawn" in str(ended.details())


async def test_a_request_is_read_to_its_end_though_its_caller_is_known_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC keeps for ever what comes for a read that was cancelled."""
    monkeypatch.setattr(interceptors, "_LOOK_AGAIN", 0.01)
    clockwork, began, looked_at, read = Clockwork(), asyncio.Event(), asyncio.Event(), Call.read
    ends: list[str] = []

    def looked() -> bool:
        if not clockwork.held:
            looked_at.set()
        return clockwork.held

    async def identify(presented: Presented) -> Identity:
        return Identity(principal=Principal(name="token:a"), holds=looked)

    async def spied(call: Call) -> bytes | None:
        began.set()
        try:
            return await read(call)
        except BaseException as error:
            ends.append(type(error).__name__)
            raise

    monkeypatch.setattr(clockwork, "identify", identify)
    monkeypatch.setattr(Call, "read", spied)
    async with serving([clockwork], everything_for("*")) as address, grpc.aio.insecure_channel(address) as channel:
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
        method = channel.stream_stream("/changefeed.v1.ChangeFeedService/ReadChanges")
        call = method()
        async with asyncio.timeout(10):
            await began.wait()
            clockwork.held = False
            await looked_at.wait()
            await call.write(READ.SerializeToString())
            ended = await failure(call.read())
        assert ends == ["CredentialsExpired"]
        assert (ended.code(), error_info(ended).reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_EXPIRED")


async def test_a_stream_that_is_not_read_ends_too_when_its_token_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "_LOOK_AGAIN", 0.01)
    clockwork, router = Clockwork(), RouterDouble()
    router.stream = lambda: router.batches([record(60_000)] * 50)
    async with serving([clockwork], everything_for("*"), router=router) as address, calling(address) as stub:
        stream = stub.Subscribe(SUBSCRIBE)
        await stream.read()
        clockwork.held = False
        async with asyncio.timeout(30):
            ended = await failure(read_all(stream))
        assert ended.code() is grpc.StatusCode.UNAUTHENTICATED


# Quotas on the wire


def quota(**limits: Any) -> Quotas:
    return Quotas([Quota(principals=("token:a",), **limits)])


def by(name: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {SECRET}-{name}"),)


@pytest.fixture
def two() -> StaticTokens:
    return StaticTokens(lambda: f"a {SECRET}-a\nb {SECRET}-b")


async def throttled(answer: Any) -> None:
    error = await failure(answer)
    assert (error.code(), error_info(error).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert error_info(error).metadata["category"] == "THROTTLED"
    assert any(type(detail).__name__ == "RetryInfo" for detail in details_of(error))


@pytest.mark.req("BX-8")
async def test_a_stream_too_many_and_a_read_too_many_are_throttled_and_another_principal_is_not(
    two: StaticTokens,
) -> None:
    with_quota = serving([two], everything_for("*"), quota(streams=1, reads_per_second=3))
    async with with_quota as address, calling(address) as stub:
        first = stub.Subscribe(SUBSCRIBE, metadata=by("a"))
        await first.read()
        await throttled(stub.Subscribe(SUBSCRIBE, metadata=by("a")).read())
        await stub.ReadChanges(READ, metadata=by("a"))
        await throttled(stub.ReadChanges(READ, metadata=by("a")))
        for _ in range(20):
            await stub.ReadChanges(READ, metadata=by("b"))
        streams = [stub.Subscribe(SUBSCRIBE, metadata=by("b")) for _ in range(3)]
        for stream in streams:
            await stream.read()
            stream.cancel()


async def test_who_does_not_wait_as_long_as_a_quota_says_hears_of_it_late(
    two: StaticTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[str] = []

    async def wait(self: LateAnswers) -> None:
        late.append("late")

    monkeypatch.setattr(LateAnswers, "wait", wait)
    async with (
        serving([two], everything_for("*"), quota(reads_per_second=0.01)) as address,
        calling(address) as stub,
    ):
        await stub.ReadChanges(READ, metadata=by("a"))
        await throttled(stub.ReadChanges(READ, metadata=by("a")))
        assert late == []
        await throttled(stub.ReadChanges(READ, metadata=by("a")))
        await throttled(stub.Subscribe(SUBSCRIBE, metadata=by("a")).read())
        assert late == ["late"] * 2
        await stub.ReadChanges(READ, metadata=by("b"))


async def test_a_stream_beyond_its_bytes_ends_throttled_between_two_messages(two: StaticTokens) -> None:
    router = RouterDouble()
    router.stream = lambda: router.batches([record(1_000)])
    with_quota = serving([two], everything_for("*"), quota(bytes_per_second=1_500), router=router)
    async with with_quota as address, calling(address) as stub:
        messages: list[object] = []
        ended = await failure(read_all(stub.Subscribe(SUBSCRIBE, metadata=by("a")), messages))
        assert error_info(ended).reason == "QUOTA_EXCEEDED"
        assert 2 <= len(messages) <= 4
        await throttled(stub.ReadChanges(READ, metadata=by("a")))
        other = stub.Subscribe(SUBSCRIBE, metadata=by("b"))
        for _ in range(50):
            assert isinstance(await other.read(), subscribe_pb2.SubscribeResponse)
        other.cancel()


async def test_a_stream_that_ended_gives_its_place_back(two: StaticTokens) -> None:
    async with serving([two], everything_for("*"), quota(streams=1)) as address, calling(address) as stub:
        for _ in range(5):
            stream = stub.Subscribe(SUBSCRIBE, metadata=by("a"))
            await stream.read()
            stream.cancel()
            async with asyncio.timeout(10):
                while True:
                    again = stub.Subscribe(SUBSCRIBE, metadata=by("a"))
                    try:
                        await again.read()
                        break
                    except grpc.aio.AioRpcError:
                        await asyncio.sleep(0.01)
            again.cancel()
            await asyncio.sleep(0.05)
