"""What can be set, with its bounds and defaults. `docs/configuration.md` describes each for operators."""

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from changefeed_gateway.core.limits import Limits
from changefeed_gateway.settings.connections import (
    Connection,
    ConnectionName,
    EmbeddedServer,
    MemoryConnection,
    PostgresConnection,
)
from changefeed_gateway.settings.section import Section
from changefeed_gateway.settings.security import SecuritySettings
from changefeed_gateway.settings.values import (
    DurationText,
    FilePath,
    Filled,
    HostPort,
    ListenAddress,
    Url,
    VariableName,
    duration_between,
    name_like,
    not_allowed,
    number_between,
    one_of,
    whole_number_between,
)

ENVIRONMENT_PREFIX = "CHANGEFEED_"

_DEFAULTS = Limits()


class TokenKeySettings(Section):
    """A key that signs continuation tokens: exactly one of the three says where its secret is."""

    id: Annotated[str, name_like(r"[A-Za-z0-9_.-]{1,32}", "1 to 32 letters, digits, _ . or -")]
    secret: Annotated[SecretStr | None, Filled] = None
    secret_file: FilePath | None = None
    secret_env: Annotated[str | None, VariableName] = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = (self.secret, self.secret_file, self.secret_env)
        if sum(source is not None for source in sources) != 1:
            raise not_allowed("exactly one of secret, secret_file and secret_env")
        return self


class TokenSettings(Section):
    """Keys of continuation tokens: the first signs, all verify.

    Without any, one is made and kept in the state directory; replicas must share their keys.
    """

    keys: tuple[TokenKeySettings, ...] = ()

    @model_validator(mode="after")
    def _ids_differ(self) -> Self:
        if len({key.id for key in self.keys}) != len(self.keys):
            raise not_allowed("keys with different ids")
        return self


class LimitSettings(Section):
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


class LoggingSettings(Section):
    """What the gateway writes to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], one_of("debug", "info", "warning", "error")] = "info"
    format: Annotated[Literal["auto", "console", "json"], one_of("auto", "console", "json")] = "auto"
    """auto: console on a terminal, json otherwise."""


class MonitoringSettings(Section):
    """What the gateway shows of itself over HTTP: `/metrics` for Prometheus, `/livez` and `/readyz`."""

    listen: ListenAddress | None = None
    """Where; nowhere unless given, so that two gateways start on one machine without a word."""


class TracingSettings(Section):
    """Spans of calls and of questions to databases, sent by OTLP over HTTP; off unless an endpoint is given."""

    endpoint: Annotated[str | None, Url] = None
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
