"""The only reader of configuration: one YAML file, the environment on top, refused whole when anything is wrong."""

from changefeed_gateway.settings.connections import (
    Connection,
    CosmosConnection,
    DynamoDBConnection,
    EmbeddedServer,
    MemoryConnection,
    PostgresConnection,
    SpannerConnection,
)
from changefeed_gateway.settings.load import (
    ClientSettings,
    GatewayTarget,
    client_settings,
    gateway_target,
    load_settings,
)
from changefeed_gateway.settings.model import LoggingSettings, Settings
from changefeed_gateway.settings.problems import SettingsError, SettingsProblem, address_taken
from changefeed_gateway.settings.security import (
    GrantSettings,
    JwtSettings,
    QuotaSettings,
    SecuritySettings,
    TlsSettings,
)

__all__ = [
    "ClientSettings",
    "Connection",
    "CosmosConnection",
    "DynamoDBConnection",
    "EmbeddedServer",
    "GatewayTarget",
    "GrantSettings",
    "JwtSettings",
    "LoggingSettings",
    "MemoryConnection",
    "PostgresConnection",
    "QuotaSettings",
    "SecuritySettings",
    "Settings",
    "SettingsError",
    "SettingsProblem",
    "SpannerConnection",
    "TlsSettings",
    "address_taken",
    "client_settings",
    "gateway_target",
    "load_settings",
]
