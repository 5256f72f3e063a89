"""`changefeed streams` asks every replica that the name of its target leads to.

The names are the test's own, as a resolver would tell them; the gateways are real, each at an address of loopback.
"""

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from changefeed_client import NOW, collection, connect
from changefeed_gateway.app.gateway import open_gateway
from changefeed_gateway.cli.exits import ExitCode, Failed
from changefeed_gateway.cli.replicas import Replica, failures, replicas_of
from changefeed_gateway.settings import GatewayTarget, load_settings
from tests.api.issuers import Authority
from tests.cli.conftest import CommandLineHere, Result
from tests.listening import free_port

NAME = "changefeed.test"
SETTINGS = """
listen: {listen}
connections: {{mem: {{provider: memory, collections: [documents]}}}}
tokens: {{keys: [{{id: a, secret: 0123456789abcdef}}]}}
"""
EVERYWHERE = "security: {plaintext_shows_documents_and_tokens_to_the_network: true}\n"
TLS = "security: {tls: {certificate_file: chain.pem, key_file: key.pem}}\n"

Names = Callable[..., None]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Says which addresses a name has."""
    known: dict[str, tuple[str, ...]] = {}
    ask = socket.getaddrinfo

    def answer(host: Any, port: Any, *options: Any, **more: Any) -> Any:
        if not str(host).endswith(".test"):
            return ask(host, port, *options, **more)
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [found for address in known[host] for found in ask(address, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return lambda host, *addresses: known.update({host: addresses})


class Replicas:
    """Gateways at one port, each with an address of its own and one open stream."""

    def __init__(self, directory: Path, ca: str | None) -> None:
        self._stack, self._directory, self._ca = AsyncExitStack(), directory, ca
        self.port = free_port()

    async def __aenter__(self) -> "Replicas":
        return self

    async def __aexit__(self, *how: object) -> None:
        await self._stack.aclose()

    async def add(self, listen: str) -> None:
        file = self._directory / "changefeed.yaml"
        file.write_text(SETTINGS.format(listen=f"{listen}:{self.port}") + (TLS if self._ca else EVERYWHERE))
        gateway = await self._stack.enter_async_context(open_gateway(load_settings(file)))
        client = await self._stack.enter_async_context(connect(gateway.target, ca=self._ca))
        tail = await self._stack.enter_async_context(client.tail(collection("mem/documents"), NOW))
        await anext(aiter(tail))


def streams(result: Result) -> list[dict[str, Any]]:
    # The gateways in this process write their log between the lines.
    return [record for line in result.out.splitlines() if line.startswith("{") for record in [json.loads(line)]]


@pytest.fixture
async def replicas(here: CommandLineHere) -> AsyncIterator[Replicas]:
    async with Replicas(here.directory, None) as replicas:
        yield replicas


@pytest.fixture
async def encrypted(here: CommandLineHere) -> AsyncIterator[Replicas]:
    authority = Authority()
    pair = authority.server(NAME, "127.0.0.2")
    for name, content in {"chain.pem": pair.chain, "key.pem": pair.key, "ca.pem": authority.pem}.items():
        (here.directory / name).write_bytes(content)
    async with Replicas(here.directory, "ca.pem") as replicas:
        yield replicas


@pytest.mark.req("BX-9")
@pytest.mark.parametrize("target", [f"{NAME}:%d", f"dns:///{NAME}:%d"])
async def test_every_address_of_a_name_is_asked_and_two_gateways_of_one_name_are_two(
    here: CommandLineHere, replicas: Replicas, names: Names, target: str
) -> None:
    names(NAME, "127.0.0.1", "127.0.0.2")
    await replicas.add("127.0.0.1")
    await replicas.add("127.0.0.2")
    listed = await here.run("streams", "--json", "--target", target % replicas.port)
    assert (listed.code, listed.err) == (0, "")
    # Both are in this process, as two machines made of one image are both `debian:712`.
    assert [stream["stream_id"] for stream in streams(listed)] == ["1", "1"]
    assert len({stream["gateway"] for stream in streams(listed)}) == 1


async def test_a_gateway_that_is_reached_twice_is_told_once(
    here: CommandLineHere, replicas: Replicas, names: Names
) -> None:
    names(NAME, "127.0.0.1", "127.0.0.2")
    await replicas.add("0.0.0.0")
    targets = (f"{NAME}:{replicas.port}", f"127.0.0.3:{replicas.port}")
    listed = await here.run("streams", "--json", *(part for target in targets for part in ("--target", target)))
    assert (listed.code, len(streams(listed))) == (0, 1)


async def test_a_replica_that_is_away_hides_no_other_and_ends_with_a_code(
    here: CommandLineHere, replicas: Replicas, names: Names
) -> None:
    names(NAME, "127.0.0.3", "127.0.0.1")
    await replicas.add("127.0.0.1")
    listed = await here.run("streams", "--json", "--target", f"{NAME}:{replicas.port}")
    assert (listed.code, len(streams(listed))) == (ExitCode.TRANSIENT, 1)
    assert f"no gateway answers at 127.0.0.3:{replicas.port} (an address of {NAME}, --target)" in listed.err
    assert "127.0.0.1" not in listed.err


@pytest.mark.parametrize(
    ("addresses", "code", "told"),
    [(("::1", "127.0.0.1"), ExitCode.OK, []), (("::1", "127.0.0.3"), ExitCode.TRANSIENT, ["[::1]", "127.0.0.3"])],
)
async def test_a_family_of_addresses_in_which_no_gateway_listens_is_no_replica_that_is_away(
    here: CommandLineHere, replicas: Replicas, names: Names, addresses: tuple[str, ...], code: int, told: list[str]
) -> None:
    names(NAME, *addresses)
    await replicas.add("127.0.0.1")
    listed = await here.run("streams", "--json", "--target", f"{NAME}:{replicas.port}")
    assert listed.code == code
    assert all(f"no gateway answers at {address}:{replicas.port}" in listed.err for address in told)
    assert bool(listed.err) == bool(told)


async def test_over_tls_a_replica_shows_the_certificate_of_the_name_and_not_of_its_address(
    here: CommandLineHere, encrypted: Replicas, names: Names
) -> None:
    names(NAME, "127.0.0.1", "127.0.0.2")
    names("other.test", "127.0.0.1", "127.0.0.2")
    await encrypted.add("127.0.0.1")
    await encrypted.add("127.0.0.2")
    command = ("streams", "--json", "--ca", "ca.pem", "--target")
    listed = await here.run(*command, f"{NAME}:{encrypted.port}")
    assert (listed.code, len(streams(listed))) == (0, 2), listed.err
    # The certificate is also one of 127.0.0.1: that is not what was asked for.
    refused = await here.run(*command, f"other.test:{encrypted.port}")
    assert (refused.code, streams(refused)) == (ExitCode.TRANSIENT, [])
    assert [f"127.0.0.{number}:" in refused.err for number in (1, 2)] == [True, True]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:1",
        "[::1]:1",
        "unix:/run/changefeed",
        "ipv4:127.0.0.1:1",
        "gone.test:1",
        f"{'x' * 64}.test:1",
        "one.test:1",
    ],
)
async def test_a_target_of_one_address_is_left_to_grpc(names: Names, address: str) -> None:
    names("one.test", "127.0.0.1", "127.0.0.1")
    target = GatewayTarget(address, "--target")
    assert await replicas_of(target) == [Replica(target)]


def test_where_one_replica_answers_by_a_family_another_that_does_not_is_away() -> None:
    def at(address: str) -> Replica:
        return Replica(GatewayTarget(f"{address}:1", "--target"), f"{NAME}:1")

    gone, refused = Failed(ExitCode.TRANSIENT, "no gateway answers"), Failed(ExitCode.AUTHENTICATION, "no")
    answers: dict[Replica, object] = {
        at("127.0.0.1"): [],
        at("127.0.0.2"): gone,
        at("[::1]"): gone,
        at("[::2]"): refused,
    }
    assert failures(answers) == {at("127.0.0.2"): gone, at("[::1]"): gone, at("[::2]"): refused}
    answers.pop(at("[::2]"))
    assert failures(answers) == {at("127.0.0.2"): gone}
