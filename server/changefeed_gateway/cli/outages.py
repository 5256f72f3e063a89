"""What a command that follows says of outages, on standard error: each once, and that it is over."""

import logging
from datetime import timedelta
from typing import Final

from changefeed_client import Tail
from changefeed_gateway.cli.output import complain

LONGEST: Final = timedelta(minutes=1)
"""That is waited out unless `--retry-for` says otherwise."""


class Outages(logging.Handler):
    """Tells of one stream at a time: why it is opened again, as the client logs it, and when it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self._reconnects = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Say what was logged."""
        complain(record.getMessage())

    def follow(self) -> None:
        """Begin with another stream."""
        logging.getLogger("changefeed_client").addHandler(self)
        self._reconnects = 0

    def goes_on(self, stream: Tail) -> None:
        """Say so with the first delivery after an outage."""
        if stream.reconnects > self._reconnects:
            self._reconnects = stream.reconnects
            complain("connected again, and goes on after the last change")
