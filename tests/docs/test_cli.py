"""The page of the command line: every command and option it promises, every exit code with its examples."""

import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
import typer

from changefeed_gateway.cli import main
from changefeed_gateway.cli.exits import ExitCode
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.providers.postgres.provider import PostgresProvider
from tests.cli.conftest import CommandLine, CommandLineHere
from tests.cli.test_secrets import COMMANDS
from tests.conftest import StartGateway
from tests.databases import LOG, PostgresForTests, server_directory
from tests.docs.pages import DOCS, rows

PAGE = DOCS / "cli.md"
CODES = {int(row[0]): row for row in rows(PAGE) if len(row) == 4 and row[0].isdecimal()}
EXAMPLES = [(code, example) for code, row in CODES.items() for example in re.findall(r"`([^`]+)`", row[3])]

TABLES = """
CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE plain (id int PRIMARY KEY); CREATE TABLE keyless (id int);
CREATE TABLE heir (PRIMARY KEY (id)) INHERITS (plain);
SELECT changefeed.watch('public.orders');
"""


def test_every_command_is_described() -> None:
    described = {name for row in rows(PAGE) if len(row) == 2 for name in re.findall(r"`([^`]+)`", row[0])}
    assert described == set(COMMANDS)


def test_every_command_writes_json() -> None:
    for name in COMMANDS:
        command = typer.main.get_command(main.app_for(()))
        for part in name.split():
            command = command.commands[part]  # type: ignore[attr-defined]
        assert any("--json" in parameter.opts for parameter in command.params), name


def test_every_code_is_described() -> None:
    assert {code: row[1] for code, row in CODES.items()} == {code.value: code.name for code in ExitCode}


@pytest.fixture(scope="module")
async def dsn(postgres: PostgresForTests) -> AsyncIterator[str]:
    dsn = await postgres.fresh(LOG)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(TABLES.encode())
    yield dsn
    await postgres.drop(dsn)


@pytest.mark.parametrize(("code", "example"), EXAMPLES)
async def test_an_example_ends_with_its_code(
    code: int, example: str, dsn: str, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = PostgresProvider(dsn)
    gateway = await start_gateway({"main": provider}, limits=Limits())
    monkeypatch.setattr(main, "configure_logging", lambda settings: None)
    with server_directory() as name:
        directory = Path(name)
        monkeypatch.chdir(directory)
        (directory / "empty.place").touch()
        # A serving process has signals of its own.
        cli = CommandLine(directory) if example == "serve" else CommandLineHere(directory)
        del cli.environment["CHANGEFEED_TARGET"]
        cli.environment["CHANGEFEED_LISTEN"] = gateway.target
        several = any(name in example for name in ("away", "stranger", "doctor"))
        for connection, place in {
            "MAIN": dsn,
            **(
                {"AWAY": "host=127.0.0.1 port=1", "STRANGER": f"{dsn} user=nobody".replace("user=postgres ", "")}
                if several
                else {}
            ),
        }.items():
            cli.environment[f"CHANGEFEED_CONNECTIONS__{connection}__PROVIDER"] = "postgres"
            cli.environment[f"CHANGEFEED_CONNECTIONS__{connection}__DSN"] = place
        result = await cli.run(*shlex.split(example))
    assert result.code == code, result
    assert code == 0 or result.err or code == 11
