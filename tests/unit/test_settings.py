"""Settings: one file, the environment on top; what is wrong is refused with its place and what is allowed."""

import os
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from changefeed_gateway.settings import (
    ClientSettings,
    MemoryConnection,
    PostgresConnection,
    Settings,
    SettingsError,
    SettingsProblem,
    load_settings,
)
from changefeed_gateway.settings.secrets import dsn, token_keys
from changefeed_gateway.settings.values import format_duration, parse_duration

SECRET = "hunter2hunter2hunter2"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith("CHANGEFEED_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def load(text: str) -> Settings:
    Path("changefeed.yaml").write_text(text, encoding="utf-8")
    return load_settings()


def problems(text: str = "") -> list[SettingsProblem]:
    with pytest.raises(SettingsError) as caught:
        load(text)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.problems)
    return list(caught.value.problems)


def postgres(settings: Settings, name: str = "main") -> PostgresConnection:
    connection = settings.connections[name]
    assert isinstance(connection, PostgresConnection)
    return connection


def test_without_a_file_it_is_the_embedded_server_on_loopback() -> None:
    settings = load_settings()
    assert str(settings.listen) == "127.0.0.1:50051"
    assert settings.listen.is_loopback
    assert list(settings.connections) == ["main"]
    embedded = postgres(settings).embedded
    assert embedded is not None
    assert settings.data_directory(embedded) == Path(".changefeed/postgres")


def test_a_file_says_everything() -> None:
    settings = load(
        """
        listen: "[::1]:0"
        state_directory: /var/lib/changefeed
        shutdown_grace: 1m30s
        connections:
          orders: {provider: postgres, dsn: host=db, pool_size: 20, tick_interval: 5ms}
          trial: {provider: memory, collections: [a, b]}
        limits: {max_wait: 20s, max_page_size: 2000}
        logging: {level: debug, format: json}
        """
    )
    assert settings.listen == ("::1", 0)
    assert settings.shutdown_grace == timedelta(seconds=90)
    assert postgres(settings, "orders").tick_interval == timedelta(milliseconds=5)
    assert settings.connections["trial"] == MemoryConnection(provider="memory", collections=("a", "b"))
    assert settings.limits.to_limits().max_wait == timedelta(seconds=20)
    assert settings.limits.to_limits().max_page_size == 2000
    assert dsn("orders", postgres(settings, "orders")) == "host=db"


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANGEFEED_LISTEN", "localhost:1")
    monkeypatch.setenv("CHANGEFEED_LIMITS__MAX_WAIT", "3s")
    monkeypatch.setenv("CHANGEFEED_CONNECTIONS__MAIN__DSN", f"host=db password={SECRET}")
    monkeypatch.setenv("CHANGEFEED_CONNECTIONS__MAIN__POOL_SIZE", "7")
    settings = load(
        "listen: 127.0.0.1:2\nlimits: {max_wait: 9s, max_calls: 5}\nconnections: {main: {provider: postgres}}"
    )
    assert settings.listen == ("localhost", 1)
    assert settings.limits.max_wait == timedelta(seconds=3)
    assert settings.limits.max_calls == 5
    assert postgres(settings).pool_size == 7
    assert dsn("main", postgres(settings)).endswith(SECRET)
    assert SECRET not in repr(settings) + settings.model_dump_json()


def test_the_file_is_chosen_by_argument_then_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("changefeed", "one", "two"):
        Path(f"{name}.yaml").write_text(f"state_directory: {name}\n", encoding="utf-8")
    assert load_settings().state_directory == Path("changefeed")
    monkeypatch.setenv("CHANGEFEED_CONFIG", "one.yaml")
    assert load_settings().state_directory == Path("one")
    assert load_settings(Path("two.yaml")).state_directory == Path("two")
    assert ClientSettings().target == "127.0.0.1:50051"


@pytest.mark.parametrize(
    ("text", "path", "given", "allowed"),
    [
        ("lisen: x", "lisen", "unknown", "'listen' (did you mean it?)"),
        ("listen: 50051", "listen", "50051", "host:port"),
        ("listen: 0.0.0.0:50051", "listen", "0.0.0.0:50051", "TLS"),
        ("listen: gateway.example:50051", "listen", "gateway.example:50051", "TLS"),
        ("listen: 127.0.0.1:70000", "listen", "70000", "host:port"),
        ("shutdown_grace: 5", "shutdown_grace", "5", "a duration from 0s to 10m"),
        ("limits: {max_calls: 0}", "limits.max_calls", "0", "a whole number from 1"),
        ("limits: {max_calls: yes}", "limits.max_calls", "True", "a whole number from 1"),
        ("limits: {max_calls: 1.5}", "limits.max_calls", "1.5", "a whole number from 1"),
        ("limits: {max_wait: 1h}", "limits.max_wait", "1h", "a duration from 0s to 10m"),
        ("limits: {min_heartbeat: 20s}", "limits", "", "min_heartbeat <= default_heartbeat"),
        ("limits: {default_page_size: 6000}", "limits", "", "default_page_size up to max_page_size"),
        ("limits: 5", "limits", "a number", "a mapping: default_page_size"),
        ("logging: {level: loud}", "logging.level", "loud", "one of debug, info"),
        ("connections: {}", "connections", "a mapping", "at least one"),
        (f"connections: postgresql://u:{SECRET}@h/d", "connections", "a text", "a mapping"),
        (f"connections: {{main: 'postgresql://u:{SECRET}@h'}}", "connections.main", "a text", "a mapping"),
        ("connections: {Main: {provider: memory}}", "connections.Main", "Main", "a name of lower-case"),
        ("connections: {main: {}}", "connections.main.provider", "nothing", "one of postgres, dynamodb, memory"),
        (
            "connections: {main: {provider: oracle}}",
            "connections.main.provider",
            "oracle",
            "one of postgres, dynamodb, memory",
        ),
        (f"connections: {{main: {{provider: postgres, dns: {SECRET}}}}}", "connections.main.dns", "unknown", "'dsn'"),
        ("connections: {main: {provider: postgres}}", "connections.main", "", "exactly one of dsn"),
        ("connections: {main: {provider: memory, dsn: x}}", "connections.main.dsn", "unknown", "collections"),
        ("connections: {main: {provider: postgres, dsn: 5}}", "connections.main.dsn", "a number", "a text"),
        (
            f"connections: {{main: {{provider: postgres, dsn: {SECRET}, embedded: {{}}}}}}",
            "connections.main",
            "",
            "exactly one of dsn",
        ),
        (
            "connections: {main: {provider: postgres, embedded: {}, pool_size: 1}}",
            "connections.main.pool_size",
            "1",
            "a whole number from 2 to 200",
        ),
        (f"tokens: {{keys: [{{id: a, secret: {SECRET}, secert: x}}]}}", "tokens.keys.0.secert", "unknown", "'secret'"),
        (f"tokens: {{keys: [{SECRET}]}}", "tokens.keys.0", "a text", "a mapping: id"),
        ("tokens: {keys: [{id: a}]}", "tokens.keys.0", "", "exactly one of secret"),
        (
            f"tokens: {{keys: [{{id: a, secret: {SECRET}}}, {{id: a, secret: {SECRET}}}]}}",
            "tokens",
            "",
            "keys with different ids",
        ),
    ],
)
def test_what_is_wrong_is_named(text: str, path: str, given: str, allowed: str) -> None:
    (problem,) = problems(text)
    assert problem.path == path
    assert given in problem.given
    assert allowed in problem.allowed


def test_every_problem_is_named_at_once() -> None:
    found = problems("limits: {max_calls: 0, max_streams: x}\nlogging: {level: loud}\nlisten: a")
    assert {problem.path for problem in found} == {
        "limits.max_calls",
        "limits.max_streams",
        "logging.level",
        "listen",
    }


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("listen: [a", "line 1"),
        ("logging: {}\nlogging: {}", "line 2"),
        (f"tokens: *{SECRET}", "line 1"),
        (f"tokens: !{SECRET} x", "line 1"),
        ("- listen", ""),
        ("5: listen", ""),
    ],
)
def test_a_file_that_is_no_mapping(text: str, given: str) -> None:
    (problem,) = problems(text)
    assert problem.path == "changefeed.yaml"
    assert given in problem.given


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml: allowed is a file that exists"):
        load_settings(Path("nowhere.yaml"))


@pytest.mark.parametrize(
    ("variable", "value", "path"),
    [
        ("CHANGEFEED_LISEN", "x", "CHANGEFEED_LISEN"),
        ("CHANGEFEED_LISTEN__PORT", "x", "CHANGEFEED_LISTEN__PORT"),
        ("CHANGEFEED_TOKENS__KEYS", f'[{{"secret": "{SECRET}', "CHANGEFEED_TOKENS__KEYS"),
        ("CHANGEFEED_TOKENS", SECRET, "CHANGEFEED_TOKENS"),
        ("CHANGEFEED_LIMITS__MAX_CALLS", "many", "limits.max_calls"),
        ("CHANGEFEED_LIMITS__MAX_CAL", "1", "limits.max_cal"),
        ("CHANGEFEED_CONNECTIONS__MAIN__DSN", SECRET, "connections.main.provider"),
    ],
)
def test_a_wrong_variable_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, path: str) -> None:
    monkeypatch.setenv(variable, value)
    assert [problem.path for problem in problems()] == [path]


def test_token_keys_from_three_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_KEY", "from the environment")
    Path("key").write_text("from a file of ours\n", encoding="utf-8")
    settings = load(
        f"tokens: {{keys: [{{id: new, secret: {SECRET}}}, {{id: old, secret_file: key}},"
        " {id: env, secret_env: OUR_KEY}]}"
    )
    keys = [(key.key_id, key.secret) for key in token_keys(settings)]
    assert keys == [
        ("new", SECRET.encode()),
        ("old", b"from a file of ours"),
        ("env", b"from the environment"),
    ]


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("{id: a, secret: short}", "tokens.keys.0"),
        ("{id: a, secret_file: nowhere}", "tokens.keys.0.secret_file"),
        ("{id: a, secret_env: NOT_SET_ANYWHERE}", "tokens.keys.0.secret_env"),
    ],
)
def test_a_key_that_cannot_be_had(key: str, path: str) -> None:
    settings = load(f"tokens: {{keys: [{key}]}}")
    with pytest.raises(SettingsError) as caught:
        token_keys(settings)
    assert [problem.path for problem in caught.value.problems] == [path]


def test_a_made_key_is_kept_for_the_owner_alone() -> None:
    settings = load_settings()
    (first,) = token_keys(settings)
    (second,) = token_keys(settings)
    assert first == second
    assert len(first.secret) >= 32
    file = Path(".changefeed/token.key")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["token.key"]
    assert first.secret.decode() not in first.key_id


def test_no_place_for_a_key_says_what_to_set() -> None:
    Path("taken").write_text("", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"tokens\.keys .*state_directory"):
        token_keys(load("state_directory: taken/state"))


def test_a_dsn_file_that_is_not_there() -> None:
    settings = load("connections: {main: {provider: postgres, dsn_file: nowhere}}")
    with pytest.raises(SettingsError, match=r"connections\.main\.dsn_file"):
        dsn("main", postgres(settings))


@pytest.mark.parametrize("text", ["0s", "500us", "2ms", "10s", "1h30m", "7d", "1m30s"])
def test_durations_are_written_as_they_are_read(text: str) -> None:
    assert format_duration(parse_duration(text)) == text


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1 s", "1s1", "1y", "nan"])
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)
