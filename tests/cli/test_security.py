"""The command line over TLS, as somebody, and what it says of the policy."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import grpc
import pytest

from changefeed_client import ChangeFeedRpcError, TokenFile, collection, connect
from changefeed_gateway.app.gateway import open_gateway
from changefeed_gateway.settings import load_settings
from tests.api.issuers import Authority
from tests.cli.conftest import CommandLineHere

SECRET = "hunter2-hunter2-hunter2"

SETTINGS = """
listen: 127.0.0.1:0
connections: {mem: {provider: memory, collections: [documents]}}
tokens: {keys: [{id: a, secret: 0123456789abcdef}]}
security:
  tls: {certificate_file: chain.pem, key_file: key.pem}
  access_tokens_file: access_tokens
  policy:
    - {principals: ["token:alice"], connections: [mem]}
    - {principals: ["group:readers"], connections: [mem], items: false}
    - {principals: ["jwt:*"], connections: [mem], collections: [documents], partition_key_claim: tenant}
    - {principals: ["cert:ops"], connections: ["*"], rights: [operate]}
  quotas:
    - {principals: ["*"], streams: 5, reads_per_second: 100}
"""


@pytest.fixture
async def secured(here: CommandLineHere) -> AsyncIterator[CommandLineHere]:
    """The command line in the directory of a gateway that speaks TLS and knows alice."""
    authority = Authority()
    pair = authority.server()
    files = {"chain.pem": pair.chain, "key.pem": pair.key, "ca.pem": authority.pem, "secret": f"{SECRET}\n".encode()}
    files["access_tokens"] = f"alice {SECRET}\nmallory {SECRET}-too\n".encode()
    files["changefeed.yaml"] = SETTINGS.encode()
    for name, content in files.items():
        (here.directory / name).write_bytes(content)
    async with open_gateway(load_settings(Path("changefeed.yaml"))) as gateway:
        here.environment["CHANGEFEED_TARGET"] = gateway.target
        yield here


COMMAND = ("capabilities", "mem/documents")
OPTIONS = ("--ca", "ca.pem", "--token-file", "secret")


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        (OPTIONS, {}),
        (("--ca", "ca.pem", "--token", SECRET), {}),
        (("--ca", "ca.pem"), {"CHANGEFEED_TOKEN": SECRET}),
        ((), {"CHANGEFEED_CA": "ca.pem", "CHANGEFEED_TOKEN_FILE": "secret"}),
        (OPTIONS, {"CHANGEFEED_CA": "nowhere", "CHANGEFEED_TOKEN": "x"}),
        (("--tls", *OPTIONS), {"CHANGEFEED_TLS": "true"}),
    ],
)
@pytest.mark.req("BX-8")
async def test_options_and_environment_say_whom_to_trust_and_who_calls(
    secured: CommandLineHere, options: tuple[str, ...], environment: Mapping[str, str]
) -> None:
    result = await secured.run(*COMMAND, *options, environment=environment)
    assert (result.code, result.err) == (0, "")


async def test_every_command_that_calls_a_gateway_takes_them(secured: CommandLineHere) -> None:
    read = await secured.run("read", "mem/documents", "--json", *OPTIONS)
    assert read.code == 0
    # The gateway in this process writes its log between the lines.
    [page] = [json.loads(line) for line in read.out.splitlines() if line.startswith("{")]
    token = page["continuation_token"]
    assert (await secured.run("token", "inspect", "mem/documents", token, *OPTIONS)).code == 0
    assert (await secured.run("partitions", "list", "mem/documents", *OPTIONS)).code == 0
    assert (await secured.run("doctor", *OPTIONS)).code == 0
    assert (await secured.run("streams", "--target", secured.environment["CHANGEFEED_TARGET"], *OPTIONS)).code == 7


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ((), 8, "--ca"),
        (("--tls", "--token-file", "secret"), 8, "--ca"),
        (("--ca", "ca.pem"), 7, "AUTHENTICATION_FAILED"),
        (("--ca", "ca.pem", "--token", "x" * 30), 7, "AUTHENTICATION_FAILED"),
        (("--ca", "ca.pem", "--token", f"{SECRET}-too"), 7, "AUTHORIZATION_FAILED"),
        (("--token", SECRET), 2, "over TLS only"),
        (("--ca", "ca.pem", "--cert", "chain.pem"), 2, "together"),
        (("--ca", "nowhere.pem"), 2, "nowhere.pem"),
        (("--ca", "ca.pem", "--token-file", "nowhere"), 2, "nowhere"),
        (("--ca", "ca.pem", "--token-file", "chain.pem"), 2, "no token"),
        (("--ca", "ca.pem", "--token", SECRET, "--token-file", "secret"), 2, "not both"),
    ],
)
async def test_what_is_wrong_is_said_and_no_token_is_shown(
    secured: CommandLineHere, options: tuple[str, ...], code: int, says: str
) -> None:
    result = await secured.run(*COMMAND, *options)
    assert result.code == code, result.err
    assert says in result.err
    assert "hunter2" not in result.out + result.err


@pytest.mark.req("BX-8")
@pytest.mark.parametrize(
    ("arguments", "code", "rules"),
    [
        (("token:alice", "mem/documents"), 0, [("security.policy.0", None, True)]),
        (("token:mallory", "mem/documents"), 7, []),
        (("jwt:bob", "mem/documents"), 7, []),
        (("jwt:bob", "mem/documents", "--claim", "tenant=w=1"), 0, [("security.policy.2", ["w=1"], True)]),
        (("jwt:bob", "mem/other", "--claim", "tenant=w1"), 7, []),
        (
            ("jwt:bob", "mem/documents", "--claim", "tenant=w1", "--group", "readers"),
            0,
            [("security.policy.1", None, False), ("security.policy.2", ["w1"], True)],
        ),
        (("cert:ops", "mem/anything"), 0, [("security.policy.3", None, True)]),
        (("cert:ops", "nowhere/anything"), 4, None),
        (("alice", "mem/documents"), 2, None),
    ],
)
def test_a_policy_is_explained(
    here: CommandLineHere, arguments: tuple[str, ...], code: int, rules: list[tuple[str, list[str] | None, bool]] | None
) -> None:
    Path("changefeed.yaml").write_text(SETTINGS)
    result = here.run_now("policy", "explain", *arguments, "--json")
    assert result.code == code, result.err
    if rules is None:
        return
    [record] = result.records
    assert [(rule["rule"], rule["partition_keys"], rule["items"]) for rule in record["rules"]] == rules
    assert record["quota"] == {"rule": "security.quotas.0", "streams": 5, "reads_per_second": 100}
    told = here.run_now("policy", "explain", *arguments)
    assert all(rule in told.out for rule, _, _ in rules)
    assert "reads_per_second 100" in told.out


def test_config_check_reads_what_security_names(here: CommandLineHere) -> None:
    Path("changefeed.yaml").write_text(SETTINGS)
    result = here.run_now("config", "check")
    assert result.code == 10
    assert "security.tls" in result.err


# The client's own


async def test_a_client_reads_its_token_again_when_the_file_changes(secured: CommandLineHere) -> None:
    file = secured.directory / "mine"
    file.write_text("x" * 30)
    target = secured.environment["CHANGEFEED_TARGET"]
    async with connect(target, ca=secured.directory / "ca.pem", bearer=TokenFile(file)) as client:
        with pytest.raises(ChangeFeedRpcError) as caught:
            await client.capabilities(collection("mem/documents"))
        assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED
        file.write_text(f"{SECRET}\n")
        await client.capabilities(collection("mem/documents"))


def test_half_a_certificate_and_a_token_in_plaintext_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="together"):
        connect("gateway:1", cert="me.pem")
    with pytest.raises(ValueError, match="TLS only"):
        connect("gateway:1", bearer=lambda: "t")
    with pytest.raises(ValueError, match="already"):
        connect("gateway:1", tls=grpc.ssl_channel_credentials(), ca="ca.pem")
