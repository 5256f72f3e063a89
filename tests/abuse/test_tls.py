"""Whatever comes to a port that speaks TLS instead of it, before it and inside it."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from changefeed_client.client import OPTIONS
from tests.abuse import http2
from tests.abuse.http2 import HOST, send
from tests.abuse.mutation import mutated
from tests.abuse.witness import SETTINGS, witnessed
from tests.api.issuers import Authority
from tests.load.gateway_process import GatewayProcess
from tests.soak import soak_dice

pytestmark = [pytest.mark.xdist_group("abuse"), pytest.mark.soak, pytest.mark.req("P7", "BX-8")]

AUTHORITY = Authority()


class TlsGatewayProcess(GatewayProcess):
    """A gateway that speaks TLS, and channels that do."""

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(self.target, grpc.ssl_channel_credentials(AUTHORITY.pem), options=OPTIONS)


def tls_of(directory: Path) -> dict[str, str]:
    """Settings of TLS, and the files they name."""
    certificate, key = directory / "gateway.pem", directory / "gateway.key"
    pair = AUTHORITY.server()
    certificate.write_bytes(pair.chain)
    key.write_bytes(pair.key)
    key.chmod(0o600)
    return {"certificate_file": str(certificate), "key_file": str(key)}


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayProcess]:
    directory = tmp_path_factory.mktemp("tls")
    gateway = TlsGatewayProcess(directory, "", settings=SETTINGS | {"security": {"tls": tls_of(directory)}})
    await gateway.start()
    yield gateway
    assert await gateway.stop() == 0


def client_hello() -> bytes:
    """How a client begins."""
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(coming, going, server_hostname="localhost").do_handshake()
    return going.read()


async def inside(target: str, said: bytes) -> None:
    """Send bytes through a good handshake."""
    context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
    context.set_alpn_protocols(["h2"])
    host, _, port = target.partition(":")
    with suppress(OSError):
        _, writer = await asyncio.open_connection(host, int(port), ssl=context, local_addr=(HOST, 0))
        writer.write(said)
        await writer.drain()
        writer.transport.abort()


def begun(dice: random.Random) -> bytes:
    """The beginning of a handshake, cut or altered."""
    hello = client_hello()
    if dice.random() < 0.5:
        return hello[: dice.randrange(len(hello))]
    return mutated(hello, dice)


async def test_handshakes_that_go_nowhere_harm_nobody(gateway: GatewayProcess) -> None:
    dice = soak_dice()

    async def attack() -> None:
        await asyncio.gather(*(send(gateway.target, [begun(dice)]) for _ in range(20)))
        await asyncio.gather(*(send(gateway.target, http2.garbage(dice)) for _ in range(20)))

    async with witnessed(gateway) as witness:
        await witness.during(attack)


async def test_what_is_no_http2_inside_tls_harms_nobody(gateway: GatewayProcess) -> None:
    dice = soak_dice()

    async def attack() -> None:
        for make in (http2.garbage, http2.random_frames, http2.cut, http2.mutated_conversation):
            await asyncio.gather(*(inside(gateway.target, b"".join(make(dice))) for _ in range(3)))

    async with witnessed(gateway) as witness:
        await witness.during(attack)
