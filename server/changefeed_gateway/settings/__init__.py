"""The only reader of configuration: one YAML file, the environment on top, refused whole when anything is wrong."""

from changefeed_gateway.settings.load import (
    ClientSettings,
    GatewayTarget,
    client_settings,
    gateway_target,
    load_settings,
)
from changefeed_gateway.settings.model import (
    Connection,
    CosmosConnection,
    DynamoDBConnection,
    EmbeddedServer,
    LoggingSettings,
    MemoryConnection,
    PostgresConnection,
    Settings,
    SpannerConnection,
)
from changefeed_gateway.settings.problems import SettingsError, SettingsProblem

__all__ = [
    "ClientSettings",
    "Connection",
    "CosmosConnection",
    "DynamoDBConnection",
    "EmbeddedServer",
    "GatewayTarget",
    "LoggingSettings",
    "MemoryConnection",
    "PostgresConnection",
    "Settings",
    "SettingsError",
    "SettingsProblem",
    "SpannerConnection",
    "client_settings",
    "gateway_target",
    "load_settings",
]
