"""What can be set, with its bounds and defaults. `docs/configuration.md` describes each for operators."""

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from changefeed_gateway.core.limits import Limits
from changefeed_gateway.settings.security import SecuritySettings
from changefeed_gateway.settings.values import (
    DsnText,
    DurationText,
    FilePath,
    Filled,
    HostPort,
    ListenAddress,
    duration_between,
    name_like,
    not_allowed,
    number_between,
    one_of,
    whole_number_between,
)

ENVIRONMENT_PREFIX = "CHANGEFEED_"

_DEFAULTS = Limits()

ConnectionName = Annotated[
    str,
    name_like(
        r"[a-z](?:_?[a-z0-9-])*",
        "a name of lower-case letters, digits, - and single _, beginning with a letter",
    ),
]


class _Section(BaseModel):
    # An input in an error of pydantic's own could be a secret.
    # Built as parts of the settings, and not each by itself besides.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)


class EmbeddedServer(_Section):
    """A PostgreSQL server of the gateway's own, for trying it out and for tests."""

    data_directory: FilePath | None = None
    """Where it keeps its data; `postgres` under the state directory unless given."""
    database: Annotated[
        str, name_like(r"[a-z_][a-z0-9_]{0,62}", "a database name of lower-case letters, digits and _")
    ] = "changefeed"


class PostgresConnection(_Section):
    """A PostgreSQL database: exactly one of `dsn`, `dsn_file` and `embedded` says which."""

    provider: Literal["postgres"] = "postgres"
    dsn: Annotated[SecretStr | None, DsnText, Filled] = None
    """libpq connection string or URL; read once, here: no other reader of it can complain by showing it."""
    dsn_file: FilePath | None = None
    """A file that holds the connection string; it is read at start."""
    embedded: EmbeddedServer | None = None
    pool_size: Annotated[int, whole_number_between(2, 200)] = 10
    """Most connections in the pool; one more listens."""
    doorbell: Annotated[Literal["notify", "poll"], one_of("notify", "poll")] = "notify"
    """How news is heard of: LISTEN on a connection of its own, or polls; a transaction pooler needs poll."""
    tick_interval: Annotated[timedelta, duration_between("500us", "1s"), DurationText] = timedelta(milliseconds=2)
    """Shortest time between two ticks of a feed while somebody is subscribed."""
    retention_interval: Annotated[timedelta, duration_between("0s", "1d"), DurationText] = timedelta(hours=1)
    """Time between two retention runs of this gateway; 0s leaves them to `changefeed retention run`."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = (self.dsn, self.dsn_file, self.embedded)
        if sum(source is not None for source in sources) != 1:
            raise not_allowed("exactly one of dsn, dsn_file and embedded")
        return self


_Url = name_like(r"https?://[^\s@]+", "a URL that begins with http:// or https://, without credentials")


class DynamoDBConnection(_Section):
    """The tables of one AWS region and account, through their streams.

    Credentials are found as the AWS SDK finds them: environment, profile, container or instance role.
    """

    provider: Literal["dynamodb"]
    region: Annotated[str | None, name_like(r"[a-z0-9-]{2,40}", "the name of a region")] = None
    """The profile's or the environment's unless given."""
    endpoint_url: Annotated[str | None, _Url] = None
    """Another endpoint of the table API than the region's own."""
    streams_endpoint_url: Annotated[str | None, _Url] = None
    """Another endpoint of the streams API; `endpoint_url` unless given."""
    profile: Annotated[str | None, Filled] = None
    """A profile of the AWS configuration files."""
    role_arn: Annotated[str | None, name_like(r"arn:[^\s]{10,2000}", "the ARN of a role")] = None
    """A role to assume with the credentials that are found."""
    tables: tuple[Annotated[str, Filled], ...] = ()
    """The tables that are served, and that `doctor` looks at; every one that may be read when there is none."""
    at_timestamp: bool = False
    """The endpoint knows the iterator type AT_TIMESTAMP: readers may start at a time."""
    time_granularity: Annotated[timedelta, duration_between("1s", "1h"), DurationText] = timedelta(seconds=1)
    """To which the endpoint rounds a record's time down: AWS a second, DynamoDB Local a minute."""
    shortest_pause: Annotated[timedelta, duration_between("10ms", "1m"), DurationText] = timedelta(milliseconds=250)
    """Between two looks at a shard where nothing happens, at first; then doubled."""
    longest_pause: Annotated[timedelta, duration_between("10ms", "1m"), DurationText] = timedelta(seconds=2)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.shortest_pause > self.longest_pause:
            raise not_allowed("shortest_pause up to longest_pause")
        return self


class CosmosConnection(_Section):
    """The containers of one database of one Azure Cosmos DB account (API for NoSQL), through their change feeds.

    Exactly one of `key`, `key_file`, `key_env` and `entra` says as whom.
    """

    provider: Literal["cosmos"]
    endpoint: Annotated[str, _Url]
    """URI of the account."""
    key: Annotated[SecretStr | None, Filled] = None
    """A key of the account; a read-only one will do."""
    key_file: FilePath | None = None
    """A file that holds the key; it is read at start."""
    key_env: Annotated[str | None, name_like(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")] = None
    """An environment variable that holds the key."""
    entra: bool = False
    """An identity of Microsoft Entra ID, found as the Azure SDK finds it: environment, workload, managed identity."""
    database: Annotated[str, name_like(r"[^/\\?#]{1,255}", "the name of a database")]
    containers: tuple[Annotated[str, Filled], ...] = ()
    """The containers that are served, and that `doctor` looks at; every one that may be read when there is none."""
    mode: Annotated[
        Literal["all_versions_and_deletes", "latest_version"], one_of("all_versions_and_deletes", "latest_version")
    ] = "all_versions_and_deletes"
    """Which change feed is read; latest_version conflates versions and tells no deletions."""
    backup_window: Annotated[timedelta | None, duration_between("1m", "30d"), DurationText] = None
    """How far back the account's continuous backup goes, 7d or 30d: tokens then say when they expire."""
    preferred_regions: tuple[Annotated[str, Filled], ...] = ()
    """Regions to read from, the first that answers; the account's own order unless given."""
    shortest_pause: Annotated[timedelta, duration_between("10ms", "1m"), DurationText] = timedelta(milliseconds=250)
    """Between two looks at a partition where nothing happens, at first; then doubled."""
    longest_pause: Annotated[timedelta, duration_between("10ms", "1m"), DurationText] = timedelta(seconds=2)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        sources = (self.key, self.key_file, self.key_env, self.entra or None)
        if sum(source is not None for source in sources) != 1:
            raise not_allowed("exactly one of key, key_file, key_env and entra")
        if self.shortest_pause > self.longest_pause:
            raise not_allowed("shortest_pause up to longest_pause")
        return self


class SpannerConnection(_Section):
    """The tables of one Cloud Spanner database, through their change streams.

    Credentials are found as Google's libraries find them, unless a file is given.
    """

    provider: Literal["spanner"]
    project: Annotated[str, name_like(r"[a-z0-9.:-]{2,100}", "the id of a project")]
    instance: Annotated[str, name_like(r"[a-z][a-z0-9-]{1,63}", "the id of an instance")]
    database: Annotated[str, name_like(r"[a-z][a-z0-9_-]{1,29}", "the name of a database")]
    tables: dict[
        Annotated[str, name_like(r"[A-Za-z0-9_.]{1,257}", "the name of a table")],
        Annotated[str, name_like(r"[A-Za-z][A-Za-z0-9_]{0,127}", "the name of a change stream")] | None,
    ] = Field(default_factory=dict)
    """The tables that are served, and that `doctor` looks at, each with its change stream, or null where only one
    watches it; every table that a change stream watches when there is none."""
    credentials_file: FilePath | None = None
    """A key of a service account, or another file of credentials that Google's libraries read."""
    emulator_host: Annotated[
        str | None, name_like(r"[A-Za-z0-9.-]+:[0-9]{1,5}", 'host:port, such as "localhost:9010"')
    ] = None
    """An emulator, which is asked in plaintext and without credentials."""
    heartbeat: Annotated[timedelta, duration_between("100ms", "5m"), DurationText] = timedelta(seconds=1)
    """Between two signs of life of a partition where nothing is committed; Spanner takes 1s and longer."""

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        if self.credentials_file is not None and self.emulator_host is not None:
            raise not_allowed("credentials_file or emulator_host, not both")
        return self


class MemoryConnection(_Section):
    """Collections in memory, gone with the process: for tests of clients."""

    provider: Literal["memory"]
    collections: tuple[Annotated[str, Filled], ...] = ("documents",)
    """Collections to create at start, empty."""


Connection = Annotated[
    PostgresConnection | DynamoDBConnection | CosmosConnection | SpannerConnection | MemoryConnection,
    Field(discriminator="provider"),
]


class TokenKeySettings(_Section):
    """A key that signs continuation tokens: exactly one of the three says where its secret is."""

    id: Annotated[str, name_like(r"[A-Za-z0-9_.-]{1,32}", "1 to 32 letters, digits, _ . or -")]
    secret: Annotated[SecretStr | None, Filled] = None
    secret_file: FilePath | None = None
    secret_env: Annotated[str | None, name_like(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")] = (
        None
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = (self.secret, self.secret_file, self.secret_env)
        if sum(source is not None for source in sources) != 1:
            raise not_allowed("exactly one of secret, secret_file and secret_env")
        return self


class TokenSettings(_Section):
    """Keys of continuation tokens: the first signs, all verify.

    Without any, one is made and kept in the state directory; replicas must share their keys.
    """

    keys: tuple[TokenKeySettings, ...] = ()

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        if len({key.id for key in self.keys}) != len(self.keys):
            raise not_allowed("keys with different ids")
        return self


class LimitSettings(_Section):
    """Bounds on what callers may ask for; see `core.limits.Limits`."""

    default_page_size: Annotated[int, whole_number_between(1, 50_000)] = _DEFAULTS.default_page_size
    max_page_size: Annotated[int, whole_number_between(1, 50_000)] = _DEFAULTS.max_page_size
    max_message_bytes: Annotated[int, whole_number_between(65_536, 4_000_000)] = _DEFAULTS.max_message_bytes
    max_item_bytes: Annotated[int, whole_number_between(1_024, 3_900_000)] = _DEFAULTS.max_item_bytes
    max_wait: Annotated[timedelta, duration_between("0s", "10m"), DurationText] = _DEFAULTS.max_wait
    default_heartbeat: Annotated[timedelta, duration_between("100ms", "10m"), DurationText] = (
        _DEFAULTS.default_heartbeat
    )
    min_heartbeat: Annotated[timedelta, duration_between("100ms", "10m"), DurationText] = _DEFAULTS.min_heartbeat
    max_heartbeat: Annotated[timedelta, duration_between("100ms", "10m"), DurationText] = _DEFAULTS.max_heartbeat
    max_stream_age: Annotated[timedelta, duration_between("1s", "30d"), DurationText] = _DEFAULTS.max_stream_age
    max_streams: Annotated[int, whole_number_between(1, 100_000)] = _DEFAULTS.max_streams
    peer_stream_share: Annotated[float, number_between(0.001, 1)] = _DEFAULTS.peer_stream_share
    max_calls: Annotated[int, whole_number_between(1, 100_000)] = _DEFAULTS.max_calls
    peer_call_share: Annotated[float, number_between(0.001, 1)] = _DEFAULTS.peer_call_share
    max_connections: Annotated[int, whole_number_between(1, 1_000_000)] = _DEFAULTS.max_connections
    peer_connections: Annotated[int, whole_number_between(1, 1_000_000)] = _DEFAULTS.peer_connections
    peer_bad_tokens: Annotated[float, number_between(0.1, 100_000)] = _DEFAULTS.peer_bad_tokens
    max_connection_age: Annotated[timedelta, duration_between("1m", "7d"), DurationText] = _DEFAULTS.max_connection_age
    write_timeout: Annotated[timedelta, duration_between("1s", "1h"), DurationText] = _DEFAULTS.write_timeout
    outage_patience: Annotated[timedelta, duration_between("0s", "1h"), DurationText] = _DEFAULTS.outage_patience
    ring_bytes: Annotated[int, whole_number_between(1_000_000, 4_000_000_000)] = _DEFAULTS.ring_bytes
    max_catch_up_reads: Annotated[int, whole_number_between(1, 1_000)] = _DEFAULTS.max_catch_up_reads
    page_budget_bytes: Annotated[int, whole_number_between(16_000_000, 64_000_000_000)] = _DEFAULTS.page_budget_bytes

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.default_page_size > self.max_page_size:
            raise not_allowed("default_page_size up to max_page_size")
        if self.max_item_bytes > self.max_message_bytes:
            raise not_allowed("max_item_bytes up to max_message_bytes")
        if not self.min_heartbeat <= self.default_heartbeat <= self.max_heartbeat:
            raise not_allowed("min_heartbeat <= default_heartbeat <= max_heartbeat")
        return self

    def to_limits(self) -> Limits:
        """The core's own value."""
        return Limits(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Limits)})


class LoggingSettings(_Section):
    """What the gateway writes to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], one_of("debug", "info", "warning", "error")] = "info"
    format: Annotated[Literal["auto", "console", "json"], one_of("auto", "console", "json")] = "auto"
    """auto: console on a terminal, json otherwise."""


class MonitoringSettings(_Section):
    """What the gateway shows of itself over HTTP: `/metrics` for Prometheus, `/livez` and `/readyz`."""

    listen: ListenAddress | None = None
    """Where; nowhere unless given, so that two gateways start on one machine without a word."""


class TracingSettings(_Section):
    """Spans of calls and of questions to databases, sent by OTLP over HTTP; off unless an endpoint is given."""

    endpoint: Annotated[str | None, _Url] = None
    """Where a collector takes traces, such as http://127.0.0.1:4318/v1/traces."""
    share: Annotated[float, number_between(0, 1)] = 0.01
    """Of the traces that begin in the gateway; those that a caller began are kept as the caller decided."""


def _embedded_only() -> dict[str, Connection]:
    return {"main": PostgresConnection(embedded=EmbeddedServer())}


class Settings(BaseSettings):
    """Everything the gateway can be told. Without a file: the embedded PostgreSQL, on loopback."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    security: SecuritySettings = SecuritySettings()
    listen: ListenAddress = HostPort("127.0.0.1", 50051)
    state_directory: FilePath = Path(".changefeed")
    """What the gateway keeps of its own: the embedded server's data and the token key it made."""
    shutdown_grace: Annotated[timedelta, duration_between("0s", "10m"), DurationText] = timedelta(seconds=10)
    """How long open streams and calls may take to end after SIGTERM."""
    connections: Annotated[dict[ConnectionName, Connection], Field(min_length=1)] = Field(
        default_factory=_embedded_only
    )
    workers: Annotated[int, whole_number_between(1, 64)] = 1
    """Processes that serve, all behind `listen`."""
    tokens: TokenSettings = TokenSettings()
    limits: LimitSettings = LimitSettings()
    logging: LoggingSettings = LoggingSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    tracing: TracingSettings = TracingSettings()

    @field_validator("listen")
    @classmethod
    def _encrypted_beyond_this_machine(cls, listen: HostPort, info: ValidationInfo) -> HostPort:
        security: SecuritySettings | None = info.data.get("security")
        if security is None or listen.is_loopback or security.tls is not None:
            return listen
        if security.plaintext_shows_documents_and_tokens_to_the_network:
            return listen
        raise not_allowed(
            "a loopback host (127.0.0.1, [::1] or localhost): another one needs TLS (security.tls), or"
            " security.plaintext_shows_documents_and_tokens_to_the_network: true, which means what it says"
        )

    @field_validator("connections")
    @classmethod
    def _named_by_the_policy(cls, connections: dict[str, Connection], info: ValidationInfo) -> dict[str, Connection]:
        security: SecuritySettings | None = info.data.get("security")
        if security is not None and (unknown := security.named_connections() - connections.keys()):
            raise not_allowed(f"also what security.policy names: {', '.join(sorted(unknown))}")
        return connections

    @field_validator("workers")
    @classmethod
    def _memory_is_of_one_process(cls, workers: int, info: ValidationInfo) -> int:
        connections: dict[str, Connection] = info.data.get("connections", {})
        if workers > 1 and any(isinstance(connection, MemoryConnection) for connection in connections.values()):
            raise not_allowed("1, beside a connection of the provider memory: its collections are those of one process")
        return workers

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment over what the file says, which comes as arguments."""
        return env_settings, init_settings

    @property
    def names_connections(self) -> bool:
        """Whether databases were named; without, only what serves may make the embedded one."""
        return "connections" in self.model_fields_set

    def data_directory(self, embedded: EmbeddedServer) -> Path:
        """Where an embedded server keeps its data."""
        return embedded.data_directory or self.state_directory / "postgres"
