"""What came with ticks: the changes after the newest tick that was known, for whoever reads at the end of a feed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.providers.postgres.mapping import IMAGE_BYTES, Row
from changefeed_gateway.providers.postgres.ticks.tick import Tick

MOST_ROWS: Final = 256
"""Changes that come with ticks; where there are more, they are read as everywhere else."""
_MOST_BYTES: Final = 256 * 1024
_KEPT: Final = 2
"""One is read while the next one comes."""
_LINGER: Final = 0.05
"""Seconds for which they are brought after the last reader left: it is usually delivering and soon back."""


class LivePage(NamedTuple):
    """The batches between two ticks, whole."""

    base: Tick
    ticks: Sequence[Tick]
    """Those after it, without a hole."""
    rows: Sequence[Row]
    """In the order of their numbers."""


class LivePages:
    """The last ones of a feed, while somebody waits for all of its changes."""

    def __init__(self) -> None:
        self._pages: dict[int, LivePage] = {}
        self._readers = 0
        self._linger_until = 0.0

    @property
    def wanted(self) -> bool:
        """Whether anybody would read one."""
        return self._readers > 0 or monotonic() < self._linger_until

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """While somebody waits who would read one."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            self._linger_until = monotonic() + _LINGER

    def keep(self, page: LivePage) -> None:
        """Have one for readers at its base; not for long, and none that is too large."""
        if len(page.rows) > MOST_ROWS or sum(row[IMAGE_BYTES] or 0 for row in page.rows) > _MOST_BYTES:
            return
        self._pages[page.base.id] = page
        if len(self._pages) > _KEPT:
            del self._pages[next(iter(self._pages))]

    def after(self, tick: int) -> LivePage | None:
        """What follows a tick, if it is there."""
        return self._pages.get(tick)

    def let_go(self) -> None:
        """P7: keep none for a feed that nobody reads any more."""
        if not self.wanted:
            self._pages.clear()

    def clear(self) -> None:
        """Have none: nobody came for them, or the ticks are of another history."""
        self._pages.clear()
