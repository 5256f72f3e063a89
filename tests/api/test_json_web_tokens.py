"""Which web tokens are taken, and whom they name."""

import asyncio
import base64
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from changefeed_gateway.api.identity import key_set as key_sets
from changefeed_gateway.api.identity.caller import Identity, Presented
from changefeed_gateway.api.identity.json_web_tokens import ALGORITHMS, JsonWebTokens, TokenRules
from changefeed_gateway.api.identity.key_set import KeySet, fetcher
from changefeed_gateway.core.errors import AuthenticationFailed
from tests.api.issuers import Issuer

ALLOWED = ("ES256", "RS256")


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    issuer = Issuer()
    issuer.keys["r1"] = ("RS256", rsa.generate_private_key(public_exponent=65537, key_size=2048))
    return issuer


def rules(issuer: Issuer, **more: Any) -> TokenRules:
    return TokenRules(**{"issuer": issuer.issuer, "audience": issuer.audience, "algorithms": ALLOWED} | more)


def verifier(issuer: Issuer, read: Callable[[], bytes] | None = None, **more: Any) -> JsonWebTokens:
    keys = KeySet(read or issuer.key_set, ALLOWED)
    keys.load()
    return JsonWebTokens(rules(issuer, **more), keys, claims=("tenant",))


async def known(verifier: JsonWebTokens, token: str) -> Identity:
    identity = await verifier.identify(Presented(bearers=(token,)))
    assert identity is not None
    return identity


async def refused(verifier: JsonWebTokens, token: str) -> str:
    with pytest.raises(AuthenticationFailed) as caught:
        await verifier.identify(Presented(bearers=(token,)))
    assert token not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("key_id", ["k1", "r1"])
async def test_a_token_of_the_issuer_names_its_subject_groups_and_claims(issuer: Issuer, key_id: str) -> None:
    token = issuer.token(key_id, groups=["readers", 7, "x" * 300], tenant="k1", other="no")
    for _ in range(2):  # the second time it is known again
        identity = await known(verifier(issuer), token)
        assert identity.principal.name == "jwt:alice"
        assert identity.principal.groups == {"readers"}
        assert identity.principal.claims == (("tenant", "k1"),)
        assert identity.expires_at is not None
        assert 60 < identity.expires_at - time.time() < 71


@pytest.mark.parametrize(
    ("value", "key"), [("w1", "w1"), (7, "7"), (True, None), (None, None), (["w1"], None), ("", None), (1.5, None)]
)
async def test_a_claim_is_a_partition_key_if_it_is_a_text_or_a_whole_number(
    issuer: Issuer, value: object, key: str | None
) -> None:
    principal = (await known(verifier(issuer), issuer.token(tenant=value))).principal
    assert principal.claim("tenant") == key


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"iss": "https://other.test/"}, "InvalidIssuer"),
        ({"aud": "another"}, "InvalidAudience"),
        ({"aud": []}, "not valid here"),
        ({"lives": -30}, "expired"),
        ({"nbf": time.time() + 3_600}, "ImmatureSignature"),
        ({"without": "exp"}, "MissingRequiredClaim"),
        ({"without": "iss"}, "MissingRequiredClaim"),
        ({"without": "aud"}, "MissingRequiredClaim"),
        ({"without": "sub"}, "names nobody"),
        ({"sub": ""}, "names nobody"),
        ({"sub": "a\nb"}, "names nobody"),
        ({"sub": "x" * 256}, "names nobody"),
    ],
)
async def test_a_token_that_says_something_else_is_refused(issuer: Issuer, claims: dict[str, Any], says: str) -> None:
    assert says in await refused(verifier(issuer), issuer.token(**claims))


async def test_a_token_within_the_leeway_is_taken(issuer: Issuer) -> None:
    await known(verifier(issuer), issuer.token(lives=-5))
    assert "expired" in await refused(verifier(issuer, leeway_seconds=0.0), issuer.token(lives=-5))


async def test_a_token_that_is_known_again_is_not_once_it_has_expired(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, token = verifier(issuer), issuer.token()
    await known(tokens, token)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 71)
    assert tokens._known(next(iter(tokens._verified))) is None


def unsigned(payload: dict[str, Any], header: dict[str, Any]) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, payload)]
    return ".".join([*parts, ""])


@pytest.mark.req("BX-8")
async def test_no_token_without_a_signature_and_none_signed_by_a_shared_secret(issuer: Issuer) -> None:
    payload = {"iss": issuer.issuer, "aud": issuer.audience, "sub": "alice", "exp": time.time() + 60}
    for algorithm in ("none", "None", "NONE", ""):
        assert await refused(verifier(issuer), unsigned(payload, {"alg": algorithm, "kid": "k1"}))
    public = issuer.keys["r1"][1].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": "r1"}).encode()).decode().rstrip("=")
    body = base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")
    mac = hmac.digest(public, f"{header}.{body}".encode(), "sha256")
    forged = f"{header}.{body}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"
    assert "not allowed" in await refused(verifier(issuer), forged)
    assert not {"none", "HS256", "HS384", "HS512"} & set(ALGORITHMS)
    with pytest.raises(ValueError, match="no signatures"):
        JsonWebTokens(rules(issuer, algorithms=("HS256",)), KeySet(issuer.key_set, ALLOWED))


async def test_an_algorithm_that_is_not_allowed_is_refused_though_the_key_is_good(issuer: Issuer) -> None:
    other = Issuer(keys={"k1": ("ES256", issuer.keys["k1"][1]), "r1": ("PS256", issuer.keys["r1"][1])})
    await known(verifier(issuer), other.token("k1"))
    assert "not allowed" in await refused(verifier(issuer), other.token("r1"))


async def test_a_token_of_another_key_is_refused_whatever_it_calls_itself(issuer: Issuer) -> None:
    thief = Issuer()
    assert "InvalidSignature" in await refused(verifier(issuer), thief.token("k1"))
    thief.keys["nobody"] = thief.keys["k1"]
    assert "does not show" in await refused(verifier(issuer), thief.token("nobody"))


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "..", "x" * 16_385, "eyJhbGciOiJFUzI1NiJ9..", "é" * 30])
async def test_what_is_no_token_is_refused(issuer: Issuer, token: str) -> None:
    with pytest.raises(AuthenticationFailed):
        await verifier(issuer).identify(Presented(bearers=(token,)))


async def test_an_altered_token_is_refused(issuer: Issuer) -> None:
    token, tokens = issuer.token(), verifier(issuer)
    for position in range(0, len(token) - 1, 7):
        altered = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
        await refused(tokens, altered)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": 7}',
        b'{"keys": []}',
        b'{"keys": [7, {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "k1"}]}',
        b'{"keys": [{"kty": "RSA"}, {"kty": "EC", "crv": "P-256"}, {"kty": ["RSA"]}]}',
        json.dumps({"keys": [{"kty": "RSA"}] * 101}).encode(),
        b"[" * 100_000,
    ],
)
def test_a_key_set_without_a_usable_key_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"[Kk]ey"):
        KeySet(lambda: content, ALLOWED).load()


async def test_keys_for_encryption_or_another_algorithm_verify_nothing(issuer: Issuer) -> None:
    for of_each in ({"use": "enc"}, {"alg": "ES512"}):
        with pytest.raises(ValueError, match="no key"):
            KeySet(lambda of_each=of_each: issuer.key_set(**of_each), ("ES256",)).load()  # type: ignore[misc]


async def test_a_new_key_is_found_when_a_token_names_it_and_looked_for_no_oftener_than_it_may(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0

    def read() -> bytes:
        nonlocal reads
        reads += 1
        return turning.key_set()

    turning = Issuer()
    tokens = verifier(turning, read)
    old = await known(tokens, turning.token())
    turning.keys["k2"] = ("ES256", ec.generate_private_key(ec.SECP256R1()))
    assert (await known(tokens, turning.token("k2"))).principal.name == "jwt:alice"
    assert reads == 2
    assert old.problem() == "", "a key that is shown still"
    thief = Issuer(keys={f"t{n}": turning.keys["k1"] for n in range(50)})
    await asyncio.gather(*(refused(tokens, thief.token(name)) for name in thief.keys))
    assert reads == 2, "strangers choose what keys they name"
    del turning.keys["k1"]
    await tokens._keys.reload()
    assert "withdrawn" in old.problem()
    monkeypatch.setattr(key_sets, "_PAUSE", key_sets._PAUSE * 0)
    await refused(tokens, Issuer(keys={"k1": thief.keys["t1"]}).token("k1"))


async def test_keys_without_an_id_are_each_tried_and_one_that_goes_takes_its_tokens_with_it(issuer: Issuer) -> None:
    nameless = Issuer(keys={name: ("ES256", ec.generate_private_key(ec.SECP256R1())) for name in ("k1", "k2", "k3")})
    tokens = verifier(nameless, lambda: nameless.key_set(named=False))
    found = [await known(tokens, nameless.token(name, named=False)) for name in nameless.keys]
    assert [identity.problem() for identity in found] == ["", "", ""]
    assert "InvalidSignature" in await refused(tokens, Issuer().token(named=False))
    assert "expired" in await refused(tokens, nameless.token("k1", named=False, lives=-60))
    del nameless.keys["k1"]
    await tokens._keys.reload()
    assert [bool(identity.problem()) for identity in found] == [True, False, False]


def test_a_key_set_with_many_keys_of_one_id_is_refused() -> None:
    many = Issuer(keys={f"k{n}": ("ES256", ec.generate_private_key(ec.SECP256R1())) for n in range(9)})
    with pytest.raises(ValueError, match="one id"):
        KeySet(lambda: many.key_set(kid="k"), ALLOWED).load()


async def test_what_cannot_be_read_leaves_the_keys_as_they_are(issuer: Issuer) -> None:
    content = [issuer.key_set()]
    keys = KeySet(lambda: content[0], ALLOWED)
    keys.load()
    content[0] = b"half of a f"
    with pytest.raises(ValueError, match="not a JSON"):
        await keys.reload()
    assert len(await keys.find("k1", "ES256")) == 1


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/keys"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sending(status: int, body: bytes, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


async def test_keys_are_fetched_from_a_url_off_the_loop(issuer: Issuer) -> None:
    with answering(sending(200, issuer.key_set())) as url:
        keys = KeySet(fetcher(url), ALLOWED)
        await known(JsonWebTokens(rules(issuer), keys), issuer.token())


async def test_a_redirect_is_not_followed_and_an_answer_without_end_is_not_read(issuer: Issuer) -> None:
    with (
        answering(sending(200, issuer.key_set())) as elsewhere,
        answering(sending(302, b"", Location=elsewhere)) as url,
        pytest.raises(OSError, match="302"),
    ):
        fetcher(url)()
    with answering(sending(200, b" " * 1_000_001)) as url, pytest.raises(ValueError, match="1 MB"):
        fetcher(url)()
    with pytest.raises(OSError, match="refused"):
        fetcher(url)()


def test_keys_of_this_machine_are_not_asked_of_a_proxy(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with answering(sending(200, issuer.key_set())) as url, answering(sending(200, Issuer().key_set())) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        assert fetcher(url)() == issuer.key_set()


def test_an_answer_that_drips_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_sets, "_SECONDS_TO_FETCH", 0.2)
    ended = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(400):  # twenty seconds, a hundred times what an answer may take
            if ended.wait(0.05):
                return
            handler.wfile.write(b" ")

    with answering(drip) as url:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            fetcher(url)()
        ended.set()
        assert time.monotonic() - began < 5


async def test_while_the_issuer_is_away_a_token_is_refused_and_not_a_fault(issuer: Issuer) -> None:
    def away() -> bytes:
        raise OSError("away")

    assert "does not show" in await refused(JsonWebTokens(rules(issuer), KeySet(away, ALLOWED)), issuer.token())


async def test_an_issuer_that_never_answers_holds_nobody_for_long(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(key_sets, "_SECONDS_TO_FETCH", 0.01)

    def read() -> bytes:
        answers.wait(60)
        return issuer.key_set()

    tokens = JsonWebTokens(rules(issuer), KeySet(read, ALLOWED))
    assert "does not show" in await refused(tokens, issuer.token())
    answers.set()
    monkeypatch.setattr(key_sets, "_SECONDS_TO_FETCH", 60.0)
    await known(tokens, issuer.token())


def test_an_issuer_that_never_answers_keeps_no_gateway_from_ending(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_sets, "_SECONDS_TO_FETCH", 0.01)
    answers = threading.Event()

    def read() -> bytes:
        answers.wait(60)
        return issuer.key_set()

    async def ask() -> None:
        with pytest.raises(TimeoutError):
            await KeySet(read, ALLOWED).reload()

    gateway = threading.Thread(target=lambda: asyncio.run(ask()), daemon=True)
    gateway.start()
    gateway.join(6)
    has_ended = not gateway.is_alive()
    answers.set()
    gateway.join()
    assert has_ended


def test_the_library_refuses_what_this_rests_on() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    token = jwt.encode({"sub": "a"}, key, algorithm="ES256")
    with pytest.raises(jwt.InvalidAlgorithmError):
        jwt.decode(token, key.public_key(), algorithms=["RS256"])
