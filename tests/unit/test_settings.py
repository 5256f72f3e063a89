"""Settings: one file, the environment on top; what is wrong is refused with its place and what is allowed."""

import json
import os
import re
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from threading import Barrier

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as trying
from hypothesis import strategies as st

from changefeed_gateway.settings import (
    MemoryConnection,
    PostgresConnection,
    Settings,
    SettingsError,
    SettingsProblem,
    client_settings,
    gateway_target,
    load_settings,
)
from changefeed_gateway.settings.secrets import dsn, token_keys
from changefeed_gateway.settings.values import format_duration, parse_duration
from changefeed_gateway.settings.yaml_file import NotReadable, read_yaml

SECRET = "hunter2hunter2hunter2"


def nine_times(first: str, each: str) -> str:
    """Ten lines, each of which stands for nine times what the last one does."""
    lines = [f"a: &a {first}"]
    lines += [f"{name}: &{name} {each}" % ", ".join([f"*{last}"] * 9) for last, name in pairwise("abcdefghij")]
    return "\n".join(lines)


BILLION = nine_times("[x, x, x, x, x, x, x, x, x]", "[%s]")
BILLION_BY_MERGES = nine_times("{x: 1}", "{<<: [%s]}")


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


def test_the_gateway_to_talk_to_is_the_one_that_these_settings_describe(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gateway_target() == ("127.0.0.1:50051", "the default")
    # A caller needs no more of the file than this, and lacks its secrets.
    Path("changefeed.yaml").write_text("listen: 127.0.0.1:2\nconnections: {main: {provider: postgres, dns: x}}\n")
    assert gateway_target() == ("127.0.0.1:2", "listen in changefeed.yaml")
    Path("other.yaml").write_text("listen: '[::1]:3'\n")
    assert gateway_target(file=Path("other.yaml")) == ("[::1]:3", "listen in other.yaml")
    monkeypatch.setenv("CHANGEFEED_CONFIG", "other.yaml")
    assert gateway_target() == ("[::1]:3", "listen in other.yaml")
    monkeypatch.setenv("changefeed_listen", "localhost:4")
    assert gateway_target() == ("localhost:4", "CHANGEFEED_LISTEN")
    monkeypatch.setenv("CHANGEFEED_TARGET", "gateway:5")
    assert gateway_target() == ("gateway:5", "CHANGEFEED_TARGET")
    assert gateway_target("gateway:6") == ("gateway:6", "--target")


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "anywhere", "0.0.0.0:5"])
def test_a_gateway_that_cannot_be_found_by_its_settings_is_said(listen: str) -> None:
    Path("changefeed.yaml").write_text(f"listen: {listen}\n")
    with pytest.raises(SettingsError, match="listen"):
        gateway_target()


def test_whether_a_database_was_named_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not load_settings().names_connections
    assert load("connections: {main: {embedded: {}, provider: postgres}}").names_connections
    Path("changefeed.yaml").unlink()
    monkeypatch.setenv("CHANGEFEED_CONNECTIONS__MAIN__EMBEDDED", "{}")
    monkeypatch.setenv("CHANGEFEED_CONNECTIONS__MAIN__PROVIDER", "postgres")
    assert load_settings().names_connections


OF_A_SERVICE = {
    "CHANGEFEED_SERVICE_HOST": "10.0.0.11",
    "CHANGEFEED_SERVICE_PORT": "50051",
    "CHANGEFEED_SERVICE_PORT_GRPC": "50051",
    "CHANGEFEED_PORT": "tcp://10.0.0.11:50051",
    "CHANGEFEED_PORT_50051_TCP": "tcp://10.0.0.11:50051",
    "CHANGEFEED_PORT_50051_TCP_PROTO": "tcp",
    "CHANGEFEED_PORT_50051_TCP_PORT": "50051",
    "CHANGEFEED_PORT_50051_TCP_ADDR": "fd00::11",
    "CHANGEFEED_GATEWAY_SERVICE_HOST": "10.0.0.11",
    "CHANGEFEED_GATEWAY_PORT": "tcp://[fd00::11]:50051",
}


def test_what_kubernetes_injects_for_a_service_of_our_name_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OF_A_SERVICE.items():
        monkeypatch.setenv(name, value)
    assert load_settings().listen.port == 50051


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHANGEFEED_PORT", "50052"),
        ("CHANGEFEED_SERVICE_HOST", "gateway"),
        ("CHANGEFEED_SERVICE_PORT", "grpc"),
        ("CHANGEFEED_PORT_50051_TCP_PROTO", "quic"),
        ("CHANGEFEED_PORT_50051", "tcp://10.0.0.11:50051"),
        ("CHANGEFEED_SERVICE_HOSTS", "10.0.0.11"),
        ("CHANGEFEED_LISTEN__PORT", "tcp://10.0.0.11:50051"),
    ],
)
def test_every_other_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load_settings()


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
        ("workers: 0", "workers", "0", "a whole number from 1 to 64"),
        ("{workers: 2, connections: {main: {provider: memory}}}", "workers", "2", "1, beside a connection of"),
        ("connections: {Main: {provider: memory}}", "connections.Main", "Main", "a name of lower-case"),
        ("connections: {main: {}}", "connections.main.provider", "nothing", "one of postgres, dynamodb, cosmos"),
        (
            "connections: {main: {provider: oracle}}",
            "connections.main.provider",
            "oracle",
            "one of postgres, dynamodb, cosmos",
        ),
        (f"connections: {{main: {{provider: postgres, dns: {SECRET}}}}}", "connections.main.dns", "unknown", "'dsn'"),
        ("connections: {main: {provider: postgres}}", "connections.main", "", "exactly one of dsn"),
        ("connections: {main: {provider: memory, dsn: x}}", "connections.main.dsn", "unknown", "collections"),
        ("connections: {main: {provider: postgres, dsn: 5}}", "connections.main.dsn", "a number", "a text"),
        (
            f"connections: {{main: {{provider: postgres, dsn: password={SECRET}, embedded: {{}}}}}}",
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
        ("limits: {peer_stream_share: 2}", "limits.peer_stream_share", "2", "a number from 0.001 to 1"),
        ("limits: {peer_stream_share: true}", "limits.peer_stream_share", "", "a number from 0.001 to 1"),
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
        (f'tokens: *"it\'s {SECRET}"', "line 1"),
        (f"tokens: {{keys: !!int {SECRET}}}", "line 1"),
        (f"tokens: !!timestamp {SECRET}", "line 1"),
        (f"tokens: !!float {SECRET}", "line 1"),
        (f"tokens: !!bool {SECRET}", "line 1"),
        ("state_directory: 2026-13-45", "line 1"),
        ("limits: {max_calls: " + "9" * 5000 + "}", "line 1"),
        ("? [a]\n: 1", "line 1"),
        ("limits:\n  ? {a: 1}\n  : 1", "line 2"),
        ("listen: &a [*a]", "line 1"),
        ("listen: " + "[" * 10_000, "line 1"),
        (BILLION, "line 5"),
        (BILLION_BY_MERGES, "line 6"),
        ("- listen", ""),
        ("5: listen", ""),
        ("\0", ""),
        ("# " + "x" * 1_000_000, ""),
        ("_env_prefix: OTHER_", ""),
    ],
)
def test_a_file_that_is_no_mapping(text: str, given: str) -> None:
    (problem,) = problems(text)
    assert problem.path == "changefeed.yaml"
    assert given in problem.given


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml: allowed is a file that exists"):
        load_settings(Path("nowhere.yaml"))


def test_what_an_anchor_names_is_taken_up() -> None:
    settings = load(
        """
        connections:
          one: &one {provider: memory, collections: [a]}
          two: {<<: *one, collections: [b]}
        """
    )
    assert settings.connections["one"] == MemoryConnection(provider="memory", collections=("a",))
    assert settings.connections["two"] == MemoryConnection(provider="memory", collections=("b",))


def test_what_a_merge_brings_is_no_name_that_stands_twice() -> None:
    read = read_yaml("base: &b {x: 1}\none: {two: {three: &a {<<: *b, x: 2}}}\nfour: {<<: *a}")
    assert (read["one"]["two"]["three"], read["four"]) == ({"x": 2}, {"x": 2})
    with pytest.raises(NotReadable, match="stands twice"):
        read_yaml("a: {x: 1, x: 2}")


def test_of_what_is_merged_the_first_mapping_wins_and_ones_own_names_before_it() -> None:
    bases = "bases: [&a {first: 1, second: 1, third: 1}, &b {second: 2, third: 2, fourth: 2}]"
    read = read_yaml(f"{bases}\nmine: {{<<: [*a, *b], third: 3}}")
    assert read["mine"] == {"first": 1, "second": 1, "third": 3, "fourth": 2}
    with pytest.raises(NotReadable, match="no mapping"):
        read_yaml("a: {<<: 5}")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (f"{{provider: dynamodb, endpoint_url: 'https://u:{SECRET}@h'}}", "connections.main.endpoint_url"),
        (f"{{provider: dynamodb, region: '{SECRET}!'}}", "connections.main.region"),
        (f"{{provider: dynamodb, role_arn: {SECRET}}}", "connections.main.role_arn"),
        (f"{{provider: postgres, embedded: {{database: '{SECRET}!'}}}}", "connections.main.embedded.database"),
        (f"{{provider: 'postgresql://u:{SECRET}@h'}}", "connections.main.provider"),
        (
            f"{{provider: postgres, embedded: {{}}, pool_size: 'postgresql://u:{SECRET}@h'}}",
            "connections.main.pool_size",
        ),
        (f"{{provider: memory, {SECRET}}}", "connections.main.<hidden>"),
        (f"{{provider: memory, 'u:{SECRET}@h': x}}", "connections.main.<hidden>"),
    ],
)
def test_a_refused_text_is_not_shown(text: str, path: str) -> None:
    (problem,) = problems(f"connections: {{main: {text}}}")
    assert problem.path == path
    assert problem.allowed


@pytest.mark.parametrize("where", ["secret_env", "secret_file"])
def test_a_secret_in_the_place_of_its_name_is_not_shown(where: str) -> None:
    settings = load(f"tokens: {{keys: [{{id: a, {where}: {SECRET}}}]}}")
    with pytest.raises(SettingsError) as caught:
        token_keys(settings)
    assert SECRET not in str(caught.value)


def test_a_connection_string_in_the_place_of_its_file_is_not_shown() -> None:
    settings = load(f"connections: {{main: {{provider: postgres, dsn_file: 'postgresql://u:{SECRET}@h'}}}}")
    with pytest.raises(SettingsError, match="No such file") as caught:
        dsn("main", postgres(settings))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b" \n", b"a\0b", b"\xff\xfe", b"x" * 1_000_001])
def test_a_connection_string_that_is_none_is_refused(content: bytes) -> None:
    """An empty one would mean whatever database the environment of the process names."""
    Path("file").write_bytes(content)
    settings = load("connections: {main: {provider: postgres, dsn_file: file}}")
    with pytest.raises(SettingsError, match=r"connections\.main\.dsn_file"):
        dsn("main", postgres(settings))
    assert [p.path for p in problems("connections: {main: {provider: postgres, dsn: ''}}")] == ["connections.main.dsn"]


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


def loads_or_refuses() -> None:
    """Whatever comes, it is settings or a refusal that can be written."""
    try:
        client_settings()
        load_settings().model_dump_json()
    except SettingsError as error:
        for problem in error.problems:
            assert problem.path
            assert problem.allowed
            assert len(problem.given) < 150


NAMES = sorted({*(re.findall(r"[a-z_]+", str(Settings.model_json_schema()))), "main", "0", "", "<<", "_env_file"})
ODD = ["", "=", "2026-13-45", "1e400", ".inf", "-0x1F", "0b2", "9" * 5000, "9" * 400 + "d", "a\x85b", "1:70", "~"]
TEXTS = st.one_of(st.sampled_from(ODD), st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.dates(), TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.sampled_from(NAMES), SCALARS), inner, max_size=4)
    ),
    max_leaves=8,
)
TAGS = ("int", "float", "bool", "null", "timestamp", "binary", "set", "omap", "pairs", "map", "seq", "str", "value")
SHAPES = ("{}", "[{}]", "? {}\n: 1", "*a", "&a {}", "<<: {}", "- {}", *(f"!!{tag} {{}}" for tag in TAGS))
IN_ONE_DIRECTORY = trying(suppress_health_check=[HealthCheck.function_scoped_fixture])


@IN_ONE_DIRECTORY
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4))
def test_no_mapping_ends_in_anything_but_settings_or_a_refusal(content: dict[str, object]) -> None:
    Path("changefeed.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    loads_or_refuses()


@IN_ONE_DIRECTORY
@given(st.sampled_from(NAMES), st.lists(st.sampled_from(SHAPES), max_size=3), st.one_of(TEXTS, st.sampled_from(ODD)))
def test_no_text_ends_in_anything_but_settings_or_a_refusal(name: str, shapes: list[str], text: str) -> None:
    for shape in shapes:
        text = shape.replace("{}", text, 1)
    Path("changefeed.yaml").write_text(f"{name}: {text}\n", encoding="utf-8")
    loads_or_refuses()


BELOW_CONNECTION = ("PROVIDER", "DSN", "DSN_FILE", "EMBEDDED", "EMBEDDED__DATABASE", "TABLES", "POOL_SIZE", "X", "")
VARIABLES = [
    *(
        "LISTEN",
        "STATE_DIRECTORY",
        "SHUTDOWN_GRACE",
        "CONFIG",
        "TARGET",
        "TOKENS",
        "TOKENS__KEYS",
        "TOKENS__KEYS__0__ID",
    ),
    *("LIMITS", "LIMITS__MAX_WAIT", "LIMITS__MAX_CALLS", "LOGGING__LEVEL", "CONNECTIONS", "CONNECTIONS__MAIN", ""),
    *(f"CONNECTIONS__MAIN__{name}" for name in BELOW_CONNECTION),
]
UNENCODABLE = "\udcff"
GIVEN = st.one_of(
    st.sampled_from([*ODD, UNENCODABLE, "postgres", "dynamodb", "memory", "[" * 2_000, '{"a":' * 2_000]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    VALUES.map(lambda value: json.dumps(value, default=str, skipkeys=True)),
)


@IN_ONE_DIRECTORY
@given(st.dictionaries(st.sampled_from([f"CHANGEFEED_{name}" for name in VARIABLES]), GIVEN, min_size=1, max_size=3))
def test_no_environment_ends_in_anything_but_settings_or_a_refusal(variables: dict[str, str]) -> None:
    Path("changefeed.yaml").unlink(missing_ok=True)
    with environment(variables):
        loads_or_refuses()


def test_a_target_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANGEFEED_TARGET", UNENCODABLE)
    with pytest.raises(SettingsError, match="CHANGEFEED_TARGET"):
        client_settings()


def test_a_variable_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANGEFEED_LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("changefeed_listen", "127.0.0.1:2")
    (problem,) = problems()
    assert (problem.path, problem.allowed) == ("CHANGEFEED_LISTEN", "one of them")


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
        ("CHANGEFEED_TOKENS__KEYS", "[" * 100_000, "CHANGEFEED_*"),
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


@pytest.mark.parametrize(
    "left", [b"", b"\n", b"c2hvcnQ=\n", b"\0" * 45, b"A" * 40 + b"\n", b"not base64, but long enough to sign with it"]
)
def test_a_damaged_key_is_refused(left: bytes) -> None:
    """What a full disk or a crash leaves: whoever knows that it is empty could sign tokens."""
    settings = load_settings()
    token_keys(settings)
    Path(".changefeed/token.key").write_bytes(left)
    with pytest.raises(SettingsError, match=r"token\.key is damaged.*remove it") as caught:
        token_keys(settings)
    assert [problem.path for problem in caught.value.problems] == ["tokens.keys"]


def test_a_key_that_everybody_may_read_is_refused() -> None:
    settings = load_settings()
    token_keys(settings)
    Path(".changefeed/token.key").chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        token_keys(settings)


def test_a_made_key_survives_a_crash_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    token_keys(load("state_directory: state"))
    state = Path("state")
    inodes = [path.stat().st_ino for path in (state / "token.key", state, Path())]
    assert synced == inodes, "the key, then its name, then its directory's"


def test_several_first_starts_make_one_key() -> None:
    settings, together = load_settings(), Barrier(8)

    def start() -> bytes:
        together.wait()
        return token_keys(settings)[0].secret

    with ThreadPoolExecutor(8) as starts:
        keys = [future.result() for future in [starts.submit(start) for _ in range(8)]]
    assert len(set(keys)) == 1
    assert [path.name for path in Path(".changefeed").iterdir()] == ["token.key"]


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


@pytest.mark.parametrize(
    "text",
    ["", "5", "s", "-1s", "1 s", "1s1", "1y", "nan", "9" * 30 + "d", "9" * 400 + "s", "1s" * 50_000, "1" * 10**6],
)
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)
