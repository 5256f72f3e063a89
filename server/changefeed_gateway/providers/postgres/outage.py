"""A database that is away, as the log tells of it: when it goes, once a minute, and when it is back."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
import structlog

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import ChangeFeedError
from changefeed_gateway.providers.postgres.errors import is_outage, translate

_BETWEEN_LINES: Final = 60.0
"""Seconds."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Outage:
    """One a connection of the settings, shared by all who talk to its database."""

    def __init__(self, name: str) -> None:
        """`name` is the connection's in the settings."""
        self._name = name
        self._began: float | None = None
        self._told = -math.inf

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raise the core's errors for the driver's; those of a database that is away are told to the log here."""
        try:
            yield
        except (psycopg.Error, OSError) as error:
            raise self.translated(error) from error

    def translated(self, error: psycopg.Error | OSError) -> ChangeFeedError:
        """The core's error for the driver's; told to the log where the database is away."""
        ours = translate(error)
        if is_outage(error):
            self.note(ours)
        return ours

    def note(self, error: ChangeFeedError) -> None:
        """Something failed because the database is away."""
        now = monotonic()
        error.logged = True
        since, self._began = self._began, now if self._began is None else self._began
        # A database that comes and goes is told of no more often either.
        if now - self._told < _BETWEEN_LINES:
            return
        self._told = now
        if since is None:
            _log.warning("the database is away", connection=self._name, problem=str(error))
        else:
            seconds = round(now - since)
            _log.warning("the database is still away", connection=self._name, problem=str(error), seconds=seconds)

    def over(self) -> None:
        """The database was reached."""
        if self._began is not None:
            _log.info("the database is back", connection=self._name, seconds=round(monotonic() - self._began))
        self._began = None
