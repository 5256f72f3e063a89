"""docs/configuration.md names every setting as the code has it, and its examples work."""

import json
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import get_args

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from changefeed_gateway.core.model import Beginning
from changefeed_gateway.providers.postgres.operations.feeds import watch
from changefeed_gateway.providers.postgres.operations.migrations import migrate
from changefeed_gateway.settings import (
    ClientSettings,
    CosmosConnection,
    DynamoDBConnection,
    EmbeddedServer,
    GrantSettings,
    JwtSettings,
    MemoryConnection,
    PostgresConnection,
    QuotaSettings,
    Settings,
    SettingsError,
    SpannerConnection,
    TlsSettings,
    load_settings,
)
from changefeed_gateway.settings.model import TokenKeySettings
from changefeed_gateway.settings.secrets import dsn, token_keys
from changefeed_gateway.settings.values import HostPort, format_duration
from tests.databases import LOG, PostgresForTests
from tests.docs.pages import DOCS, blocks, rows
from tests.postgres.reading import address, open_provider, page_read

PAGE = DOCS / "configuration.md"


class Column(Enum):
    """Of the tables of settings."""

    SETTING = 0
    ALLOWED = 1
    DEFAULT = 2
    ENVIRONMENT = 3


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith("CHANGEFEED_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def below(prefix: str, model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Every setting of a model, sections themselves left out."""
    for name, field in model.model_fields.items():
        path = prefix + name
        match field.annotation:
            case type() as section if issubclass(section, BaseModel):
                yield from below(f"{path}.", section)
            case _:
                yield path, field


def settings() -> dict[str, FieldInfo]:
    """Every setting there is, by its path."""
    return {
        **dict(below("", Settings)),
        **dict(below("connections.<name>.", PostgresConnection)),
        **dict(below("connections.<name>.", SpannerConnection)),
        **dict(below("connections.<name>.", DynamoDBConnection)),
        **dict(below("connections.<name>.", CosmosConnection)),
        **dict(below("connections.<name>.", MemoryConnection)),
        **dict(below("connections.<name>.embedded.", EmbeddedServer)),
        **dict(below("tokens.keys.<n>.", TokenKeySettings)),
        **dict(below("security.tls.", TlsSettings)),
        **dict(below("security.jwt.", JwtSettings)),
        **dict(below("security.policy.<n>.", GrantSettings)),
        **dict(below("security.quotas.<n>.", QuotaSettings)),
    }


def documented() -> dict[str, list[str]]:
    """The rows of settings, by path."""
    return {row[0].strip("`"): row for row in rows(PAGE) if len(row) == 5}


def test_every_setting_is_named_and_no_other() -> None:
    assert set(documented()) == set(settings())
    assert len(settings()) > 30


def test_environment_variables_are_the_paths() -> None:
    for path, row in documented().items():
        if ".<n>." not in path:
            variable = "CHANGEFEED_" + path.upper().replace(".", "__")
            assert row[Column.ENVIRONMENT.value] == f"`{variable}`", path


def test_defaults_are_those_of_the_code() -> None:
    shown = 0
    for path, field in settings().items():
        if field.default in (None, PydanticUndefined) or path == "connections.<name>.provider":
            continue
        cell = documented()[path][Column.DEFAULT.value].strip("`")
        match field.default:
            case timedelta() as duration:
                assert cell == format_duration(duration), path
            case HostPort() as listen:
                assert cell == str(listen), path
            case tuple() as several:
                assert not several or cell == ", ".join(several), path
            case plain:
                assert cell == str(plain), path
        shown += 1
    assert shown > 20


def refusal(path: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the loader says is allowed."""
    kinds: dict[str, type[BaseModel]] = {
        "dynamodb": DynamoDBConnection,
        "cosmos": CosmosConnection,
        "spanner": SpannerConnection,
    }
    setting = path.removeprefix("connections.<name>.")
    provider = next((name for name, kind in kinds.items() if setting in kind.model_fields), "postgres")
    monkeypatch.setenv("CHANGEFEED_CONNECTIONS__MAIN__PROVIDER", provider)
    path = path.replace("<name>", "main").replace("<n>", "0")
    above, _, name = path.partition(".0.")
    value = json.dumps([{name: "?"}]) if name else "?"
    monkeypatch.setenv("CHANGEFEED_" + above.upper().replace(".", "__"), value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    return next(p.allowed for p in caught.value.problems if p.path == path)


BOUNDED = re.compile(r"a duration from|a whole number from|one of |a database name")


@pytest.mark.parametrize("path", [path for path, row in documented().items() if BOUNDED.match(row[1])])
def test_bounds_are_those_of_the_code(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(path, monkeypatch).startswith(documented()[path][Column.ALLOWED.value])


def test_durations_and_numbers_all_show_their_bounds() -> None:
    for path, field in settings().items():
        if field.annotation in (int, timedelta):
            assert BOUNDED.match(documented()[path][Column.ALLOWED.value]), path


def test_the_command_lines_own_variables_are_named() -> None:
    named = {row[0].strip("`") for row in rows(PAGE) if len(row) == 3}
    assert {f"CHANGEFEED_{name.upper()}" for name in ClientSettings.model_fields} <= named


@pytest.mark.req("US4.1")
def test_the_example_loads_and_says_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (example,) = blocks(PAGE, "yaml")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "main.dsn").write_text("postgresql://changefeed@db/app\n")
    (secrets / "cosmos.key").write_text("a2V5\n")
    (secrets / "token.key").write_text("0123456789abcdef\n")
    monkeypatch.setenv("OLD_TOKEN_KEY", "fedcba9876543210")
    Path("changefeed.yaml").write_text(example.text.replace("/run/secrets", str(secrets)))
    loaded = load_settings()
    main = loaded.connections["main"]
    assert isinstance(main, PostgresConnection)
    assert dsn("main", main) == "user=changefeed host=db dbname=app"
    assert [key.key_id for key in token_keys(loaded)] == ["2026-11", "2026-05"]
    assert loaded.limits.to_limits() == Settings().limits.to_limits(), "the example shows the defaults"
    left_out = {"dsn", "key", "key_env", "secret", "jwks_file", "connections", "keys", "limits", "logging", "tokens"}
    last_parts = {path.rpartition(".")[2] for path in settings()} - left_out
    assert {name for name in last_parts if not re.search(rf"\b{name}:", example.text)} == set()


def test_allowed_providers_are_those_of_the_code() -> None:
    providers = {
        name
        for connection in (
            PostgresConnection,
            DynamoDBConnection,
            CosmosConnection,
            SpannerConnection,
            MemoryConnection,
        )
        for name in get_args(connection.model_fields["provider"].annotation)
    }
    cell = documented()["connections.<name>.provider"][Column.ALLOWED.value]
    assert set(re.findall(r"`(\w+)`", cell)) == providers


ROLES = """
    DROP ROLE IF EXISTS changefeed_gateway, changefeed_migrator;
    CREATE ROLE changefeed_gateway LOGIN;
    CREATE ROLE changefeed_migrator LOGIN;
    GRANT USAGE ON SCHEMA public TO changefeed_migrator;
    CREATE TABLE orders (id int PRIMARY KEY);
    GRANT SELECT, TRIGGER, UPDATE ON orders TO changefeed_migrator;
    GRANT SELECT ON orders TO changefeed_capture;
"""


async def run(dsn: str, *scripts: str) -> None:
    """Run scripts as psql would."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for script in scripts:
            await connection.execute(script.encode())


@pytest.mark.req("US4.1")
async def test_the_grants_suffice(postgres: PostgresForTests) -> None:
    # A superuser has made the roles: they belong to the server.
    await postgres.drop(await postgres.fresh(LOG))
    database = await postgres.fresh("template1")
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    migrator, gateway = (make_conninfo(database, user=f"changefeed_{role}") for role in ("migrator", "gateway"))
    await run(database, ROLES, f"GRANT CREATE ON DATABASE {name} TO changefeed_migrator")
    await run(database, *(block.text for block in blocks(PAGE, "sql")))
    await migrate(migrator, documents=True)
    assert await watch(migrator, "public.orders") == "public.orders"
    async with open_provider(gateway) as provider:
        orders = await provider.open_feed(address("public.orders"))
        await run(database, "INSERT INTO orders VALUES (1)")
        page = await provider.read_page(orders, page_read(Beginning()))
        assert [change.item for change in page.changes] == ['{"id":1}']
        documents = await provider.open_feed(address("documents"))
        await run(
            database,
            "INSERT INTO documents.workspaces (name) VALUES ('w')",
            "INSERT INTO documents.files (workspace_id, title) SELECT id, 'Lease' FROM documents.workspaces",
        )
        page = await provider.read_page(documents, page_read(Beginning()))
        assert "Lease" in str(page.changes[0].item)
    await postgres.drop(database)
    await run(postgres.server.dsn, "DROP ROLE changefeed_gateway, changefeed_migrator")
