"""`changefeed serve`: run the gateway."""

import asyncio

import structlog

from changefeed_gateway.app.logs import configure_logging
from changefeed_gateway.cli.exits import ExitCode, Failed, exits
from changefeed_gateway.cli.loading import loading
from changefeed_gateway.cli.options import Config, Json
from changefeed_gateway.settings import Settings, load_settings

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def serve(config: Config = None, json: Json = False) -> None:
    """Run the gateway until SIGTERM or Ctrl-C, which end open streams in good order first."""
    with exits():
        settings = load_settings(config)
        if json:
            logging = settings.logging.model_copy(update={"format": "json"})
            settings = settings.model_copy(update={"logging": logging})
        configure_logging(settings.logging)
        asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    def ready(target: str, monitoring: str | None) -> None:
        shown = {} if monitoring is None else {"monitoring": monitoring}
        _log.info("serving", target=target, connections=list(settings.connections), workers=settings.workers, **shown)

    # What the parent of several processes does not need itself is not loaded in it.
    if settings.workers == 1:
        with loading():
            from changefeed_gateway.app.serving import serve
        await serve(settings, ready=ready)
        return
    with loading():
        from changefeed_gateway.app.workers.crew import WorkerRefused
        from changefeed_gateway.app.workers.parent import serve as serve_by_workers
    try:
        await serve_by_workers(settings, ready=ready)
    except WorkerRefused as refused:
        # Where it ended by itself it has said why.
        told = refused.code > 0
        code = ExitCode(refused.code) if refused.code in set(ExitCode) and told else ExitCode.UNEXPECTED
        raise Failed(code, "" if told else str(refused)) from None
