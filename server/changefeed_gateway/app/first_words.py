"""What is said before the gateway serves, and when it does: once, however many processes there are."""

from collections.abc import Callable

import structlog
from structlog.typing import FilteringBoundLogger

from changefeed_gateway.app.opening import is_private
from changefeed_gateway.settings import Settings
from changefeed_gateway.settings.secrets import kept_key_file

Ready = Callable[[str, str | None], None]
"""Told once of a gateway that serves: host:port of gRPC, and where it shows metrics and health, if it does."""

_log: FilteringBoundLogger = structlog.get_logger(__name__)


def warn_of(settings: Settings) -> None:
    """Say what the settings leave open."""
    if not settings.tokens.keys:
        _warn_of_lone_key(settings)
    _warn_of_open_doors(settings)


def _warn_of_lone_key(settings: Settings) -> None:
    shared = not all(is_private(settings, name) for name in settings.connections)
    _log.warning(
        "tokens.keys names none: every saved token ends with the key that this gateway keeps"
        + (", and replicas need the same one" if shared else ""),
        file=str(kept_key_file(settings).absolute()),
    )


def _warn_of_open_doors(settings: Settings) -> None:
    security = settings.security
    if not settings.listen.is_loopback and security.tls is None:
        _log.warning("plaintext beyond this machine: the network sees documents and tokens, and can change them")
    if not settings.listen.is_loopback and not security.asks_who_calls:
        _log.warning("nobody is asked who they are: whoever reaches the port reads everything")
    if security.asks_who_calls and not security.policy:
        _log.warning("security.policy is empty: nobody may anything")
