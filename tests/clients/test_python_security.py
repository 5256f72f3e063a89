"""The Python client over TLS, as somebody whose credentials are renewed."""

import json
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from changefeed_client import NOW, ChangeFeedRpcError, collection, connect
from changefeed_gateway.app.gateway import open_gateway
from changefeed_gateway.settings import load_settings
from tests.api.issuers import Authority, Issuer


@pytest.fixture
def issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Issuer:
    """Whose tokens the gateway takes that `changefeed.yaml` describes."""
    monkeypatch.chdir(tmp_path)
    authority, issuer = Authority(), Issuer()
    pair = authority.server()
    jwt = {"issuer": issuer.issuer, "audience": issuer.audience, "jwks_file": "keys.json", "leeway": "0s"}
    settings = {
        "listen": "127.0.0.1:0",
        "connections": {"mem": {"provider": "memory", "collections": ["documents"]}},
        "tokens": {"keys": [{"id": "a", "secret": "0123456789abcdef"}]},
        "security": {
            "tls": {"certificate_file": "chain.pem", "key_file": "key.pem"},
            "jwt": jwt,
            "policy": [{"principals": ["jwt:alice"], "connections": ["mem"]}],
        },
    }
    files = {"chain.pem": pair.chain, "key.pem": pair.key, "keys.json": issuer.key_set(), "ca.pem": authority.pem}
    for name, content in {**files, "changefeed.yaml": json.dumps(settings).encode()}.items():
        (tmp_path / name).write_bytes(content)
    return issuer


async def test_a_token_that_cannot_be_had_is_an_outage_and_nothing_of_it_is_shown(issuer: Issuer) -> None:
    def fails() -> str:
        raise OSError("its file is not there")

    sources: list[Callable[[], str]] = [fails, lambda: "secret\n", lambda: "a secret", lambda: "secr\xe9t", lambda: ""]
    async with open_gateway(load_settings()) as gateway:
        for source in sources:
            async with connect(gateway.target, ca="ca.pem", bearer=source) as client:
                with pytest.raises(ChangeFeedRpcError) as failed:
                    await client.capabilities(collection("mem/documents"))
            assert failed.value.code is grpc.StatusCode.UNAVAILABLE
            assert failed.value.retryable
            assert "secr" not in str(failed.value)
            assert ("its file is not there" if source is fails else "no token") in str(failed.value)


@pytest.mark.req("BX-8")
async def test_a_tail_goes_on_with_newer_credentials_when_its_own_expire(issuer: Issuer) -> None:
    asked: list[float] = []

    def bearer() -> str:
        asked.append(time.monotonic())
        return issuer.token(lives=1.5 if len(asked) == 1 else 600)

    async with (
        open_gateway(load_settings()) as gateway,
        connect(gateway.target, ca="ca.pem", bearer=bearer) as client,
        client.tail(
            collection("mem/documents"),
            NOW,
            heartbeat_interval=timedelta(milliseconds=500),
            patience=timedelta(seconds=30),
        ) as tail,
    ):
        async for delivery in tail:
            if tail.reconnects and delivery.live:
                break
    assert len(asked) == 2
    assert tail.reconnects == 1
