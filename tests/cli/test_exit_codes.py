"""Each failure class ends with a code of its own, and says on standard error what happened."""

import re

import pytest

from tests.cli.conftest import CommandLine, MemoryGateway

DOCUMENTS = "mem/documents"


async def test_no_arguments_show_help(detached: CommandLine) -> None:
    result = await detached.run("--help")
    assert result.code == 0
    for command in ("demo", "serve", "migrate", "watch", "config", "read", "tail", "doctor"):
        assert command in result.out
    assert (await detached.run("--version")).out.startswith("changefeed ")


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, ("read", "documents")),
        (2, ("read", DOCUMENTS, "--partition", "p", "--logical-partition", "k")),
        (2, ("read", DOCUMENTS, "--items", "some")),
        (2, ("read", DOCUMENTS, "--max-wait", "soon")),
        (2, ("token", "inspect", DOCUMENTS)),
        (2, ("frobnicate",)),
        (2, ("read", DOCUMENTS, "--page-size", "99999999999")),
        (2, ("read", DOCUMENTS, "--max-events", "99999999999999999999")),
        (2, ("read", DOCUMENTS, "--max-wait", "9" * 30 + "d")),
        (2, ("read", DOCUMENTS, "--partition", "\udcff")),
        (2, ("read", "mem/\udcff")),
        (3, ("read", DOCUMENTS, "--from", "x" * 60)),
        (3, ("read", DOCUMENTS, "--page-size", "-1")),
        (3, ("tail", DOCUMENTS, "--from", "x" * 60)),
        (3, ("token", "inspect", DOCUMENTS, "x" * 60)),
        (4, ("read", "mem/nothing")),
        (4, ("tail", "nobody/documents")),
        (4, ("partitions", "list", "mem/nothing")),
        (5, ("read", "mem/plain", "--logical-partition", "k")),
    ],
)
async def test_code_of_a_failure(changefeed: CommandLine, code: int, arguments: tuple[str, ...]) -> None:
    result = await changefeed.run(*arguments)
    assert result.code == code, result
    assert "Traceback" not in result.err
    assert result.err or "usable" in result.out


async def test_an_expired_checkpoint(changefeed: CommandLine, memory_gateway: MemoryGateway) -> None:
    memory_gateway.documents.put("workspace", "one", {})
    token = (await changefeed.run("read", DOCUMENTS, "--from", "beginning")).token
    memory_gateway.documents.put("workspace", "two", {})
    memory_gateway.documents.trim()
    for command in ("read", "tail"):
        result = await changefeed.run(command, DOCUMENTS, "--from", token)
        assert result.code == 6
        assert "CHECKPOINT_EXPIRED" in result.err


@pytest.mark.parametrize("arguments", [("read", DOCUMENTS), ("tail", DOCUMENTS, "--retry-for", "300ms")])
async def test_nobody_listening(detached: CommandLine, arguments: tuple[str, ...]) -> None:
    assert (await detached.run(*arguments)).code == 8


async def test_refused_settings(detached: CommandLine) -> None:
    (detached.directory / "changefeed.yaml").write_text("lisen: x\nlimits: {max_calls: 0}\n")
    for command in (("config", "check"), ("serve",), ("migrate",), ("watch", "public.t")):
        result = await detached.run(*command)
        assert result.code == 10
        assert "did you mean" in result.err
        assert "limits.max_calls" in result.err


async def test_a_damaged_token_key_keeps_the_gateway_from_serving(detached: CommandLine) -> None:
    (detached.directory / "changefeed.yaml").write_text("connections: {mem: {provider: memory}}\n")
    (detached.directory / ".changefeed").mkdir()
    (detached.directory / ".changefeed/token.key").touch(mode=0o600)
    result = await detached.run("serve")
    assert result.code == 10
    assert "token.key is damaged" in result.err


async def test_config_check_hides_secrets(detached: CommandLine) -> None:
    (detached.directory / "changefeed.yaml").write_text(
        "connections: {db: {provider: postgres, dsn: 'postgresql://u:hunter2@h/d'}}\n"
        "tokens: {keys: [{id: a, secret: hunter2hunter2hunter2}]}\n"
    )
    for more in ((), ("--json",)):
        result = await detached.run("config", "check", *more)
        assert result.code == 0
        assert "hunter2" not in result.out + result.err
        assert "pool_size" in result.out


@pytest.mark.parametrize("source", ["key_file: missing.key", "key_env: COSMOS_KEY_THAT_NOBODY_SET"])
async def test_config_check_finds_an_account_key_that_is_not_there(detached: CommandLine, source: str) -> None:
    (detached.directory / "changefeed.yaml").write_text(
        f"connections: {{shop: {{provider: cosmos, endpoint: 'http://127.0.0.1:1', database: shop, {source}}}}}\n"
    )
    result = await detached.run("config", "check")
    assert result.code == 10
    assert f"connections.shop.{source.partition(':')[0]}" in result.err


async def test_a_taken_port(detached: CommandLine, memory_gateway: MemoryGateway) -> None:
    (detached.directory / "changefeed.yaml").write_text(
        f"listen: {memory_gateway.target}\nconnections: {{mem: {{provider: memory}}}}\n"
    )
    result = await detached.run("serve")
    assert result.code == 10
    assert memory_gateway.target in result.err


async def test_capabilities_and_partitions_for_people(changefeed: CommandLine) -> None:
    capabilities = await changefeed.run("capabilities", "mem/plain")
    assert capabilities.code == 0
    assert re.search(r"^CHANGE_FEED_LOGICAL_PARTITION_SCOPE +no\b", capabilities.out, re.MULTILINE)
    assert re.search(r"^longest wait +\S+\nheartbeat +\S+ to \S+$", capabilities.out, re.MULTILINE)
    partitions = await changefeed.run("partitions", "list", DOCUMENTS)
    assert partitions.out.count("active") == 2


async def test_an_inspected_token(changefeed: CommandLine) -> None:
    token = (await changefeed.run("read", DOCUMENTS)).token
    mine = await changefeed.run("token", "inspect", DOCUMENTS, token, "--json")
    assert mine.code == 0
    assert mine.records[0]["usable"] is True
    other = await changefeed.run("token", "inspect", "mem/plain", token)
    assert other.code == 3
    assert "TOKEN_WRONG_RESOURCE" in other.out
    assert "scope" not in other.out
    part = (await changefeed.run("read", DOCUMENTS, "--logical-partition", "a b")).token
    for one, scope in ((token, "entire collection"), (part, "logical partition a b")):
        said = await changefeed.run("token", "inspect", DOCUMENTS, one)
        assert re.search(rf"^scope +{scope}$", said.out, re.MULTILINE)
