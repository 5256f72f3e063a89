"""Nothing of a connection string's password is in any output of any command, however the string is broken."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, given
from hypothesis import settings as trying
from hypothesis import strategies as st

from changefeed_gateway.app import operations
from changefeed_gateway.app.opening.contract import OperatorError
from changefeed_gateway.cli.main import app_for
from changefeed_gateway.settings.dsn import NotADsn, canonical_dsn
from tests.cli.conftest import CommandLine, CommandLineHere

MARKER = "hunter2"
FORMS = (
    "postgresql://u:%s@127.0.0.1:1/d",
    "postgres://u:%s@127.0.0.1:1/d?sslmode=disable",
    "host=127.0.0.1 port=1 user=u password=%s dbname=d",
    "host=127.0.0.1 port=1 user=u password='%s'",
)
PIECES = [*"p@/: =?&#['\\é\t", "%zz", "%41", "%ff", "@@", "  x", " y=z"]
_text = st.lists(st.sampled_from(PIECES), max_size=4).map("".join)
dsns = st.builds(lambda form, a, b: form % f"{a}{MARKER}{b}", st.sampled_from(FORMS), _text, _text)

ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "watch": ("public.t",),
    "unwatch": ("public.t",),
    "read": ("main/documents",),
    "tail": ("main/documents",),
    "mirror": ("main/documents", "copy.db"),
    "capabilities": ("main/documents",),
    "partitions list": ("main/documents",),
    "partitions split": ("documents", "p"),
    "partitions merge": ("documents", "p", "q"),
    "retention set": ("documents", "7d"),
    "token inspect": ("main/documents", "x" * 60),
    "policy explain": ("jwt:alice", "main/documents"),
}
CLIENTS = {"read", "tail", "mirror", "streams", "capabilities", "partitions list", "token inspect"}
"""They know no database."""
RUN_ELSEWHERE = {"serve", "demo"}
"""They do not end by themselves once a connection string is one: below."""


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command that there is."""
    if below := getattr(group, "commands", None):
        for name, command in below.items():
            yield from commands(command, (*path, name))
    else:
        yield " ".join(path)


COMMANDS = sorted(commands(typer.main.get_command(app_for(()))))


def is_dsn(text: str) -> bool:
    try:
        canonical_dsn(text)
    except NotADsn:
        return False
    return True


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in RUN_ELSEWHERE])
@trying(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dsn=dsns, in_file=st.booleans())
def test_no_output_shows_a_part_of_a_password(here: CommandLineHere, command: str, dsn: str, in_file: bool) -> None:
    variable = "CHANGEFEED_CONNECTIONS__MAIN__DSN"
    if in_file:
        Path("dsn").write_text(dsn)
    environment = {f"{variable}_FILE": "dsn"} if in_file else {variable: dsn}
    result = here.run_now(*command.split(), *ARGUMENTS.get(command, ()), environment=environment)
    assert MARKER not in result.out + result.err
    if command not in CLIENTS and not is_dsn(dsn):
        assert result.code == (11 if command == "doctor" else 10)


@trying(max_examples=30)
@given(dsn=dsns)
async def test_no_error_of_a_copy_shows_a_part_of_a_password(dsn: str) -> None:
    with pytest.raises(OperatorError) as refused:
        async with operations.postgres_copy(dsn, "items", "main/documents") as copy:
            await copy.place()
    assert MARKER not in str(refused.value)


@trying(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dsn=dsns.filter(lambda dsn: not is_dsn(dsn)), command=st.sampled_from(sorted(RUN_ELSEWHERE)))
def test_what_is_no_connection_string_is_refused_before_anything_is_started(
    here: CommandLineHere, dsn: str, command: str
) -> None:
    result = here.run_now(command, environment={"CHANGEFEED_CONNECTIONS__MAIN__DSN": dsn})
    assert result.code == 10
    assert MARKER not in result.out + result.err


async def test_the_log_of_a_gateway_shows_no_part_of_a_password(detached: CommandLine) -> None:
    passwords = ["%41", "a b", "é'\\", "p?x&y=z", "p=q #", "%2F@%"]
    quoted = ["".join(f"\\{c}" if c in "'\\" else c for c in f"{p}{MARKER}{p}") for p in passwords]
    connections = {
        f"db{number}": {"provider": "postgres", "dsn": f"host=127.0.0.1 port=1 user=u dbname=d password='{text}'"}
        for number, text in enumerate(quoted)
    }
    settings = {"listen": "127.0.0.1:0", "logging": {"level": "debug"}, "connections": connections}
    (detached.directory / "changefeed.yaml").write_text(json.dumps(settings))
    process = await detached.start("serve")
    assert process.stderr is not None
    seen: list[str] = []
    async with asyncio.timeout(60):
        while not all(any(name in line and "refused" in line for line in seen) for name in connections):
            seen.append((await process.stderr.readline()).decode())
        process.terminate()
        rest, errors = await process.communicate()
    assert MARKER not in "".join(seen) + (rest + errors).decode()
