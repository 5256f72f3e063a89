"""`changefeed serve`: run the gateway."""

import asyncio

import structlog

from changefeed_gateway.app.gateway import Gateway
from changefeed_gateway.app.gateway import serve as serve_until_signalled
from changefeed_gateway.app.logs import configure_logging
from changefeed_gateway.cli.arguments import Config, Json
from changefeed_gateway.cli.exits import exits
from changefeed_gateway.settings import load_settings

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def serve(config: Config = None, json: Json = False) -> None:
    """Run the gateway until SIGTERM or Ctrl-C, which end open streams in good order first."""

    def ready(gateway: Gateway) -> None:
        shown = {} if gateway.monitoring is None else {"monitoring": gateway.monitoring}
        _log.info("serving", target=gateway.target, connections=list(settings.connections), **shown)

    with exits():
        settings = load_settings(config)
        configure_logging(settings.logging.model_copy(update={"format": "json"}) if json else settings.logging)
        asyncio.run(serve_until_signalled(settings, ready=ready))
