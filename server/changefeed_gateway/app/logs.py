"""Where the gateway's log goes, and what it looks like."""

import logging
import sys

import structlog

from changefeed_gateway.settings import LoggingSettings


def configure_logging(settings: LoggingSettings, *, worker: int | None = None) -> None:
    """Write the log to standard error: lines for people on a terminal, JSON otherwise, unless a format is chosen.

    What libraries log goes the same way. Of several processes each line has the number of the `worker` that says it.
    """
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if worker is not None:
        shared.append(_of_worker(worker))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_rendering(settings)))
    logging.basicConfig(handlers=[handler], level=level, force=True)


def _of_worker(number: int) -> structlog.typing.Processor:
    def add(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**event, "worker": number}

    return add


def _rendering(settings: LoggingSettings) -> list[structlog.typing.Processor]:
    # Never the local variables of a traceback: they hold documents and tokens.
    for_people = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if for_people:
        plain = structlog.dev.plain_traceback
        colors = sys.stderr.isatty()
        return [remove_meta, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [
        remove_meta,
        structlog.processors.ExceptionRenderer(tracebacks),
        structlog.processors.JSONRenderer(),
    ]
