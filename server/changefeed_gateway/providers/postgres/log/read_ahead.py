"""What follows a page, read while that page is encoded, sent and taken in: a drain does not wait for the database."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Final, NamedTuple

from changefeed_gateway.providers.postgres.cursor import Position
from changefeed_gateway.providers.postgres.log.partitions import Part
from changefeed_gateway.providers.postgres.log.reading import Stretch

_KEPT: Final = 1.0
"""Seconds for which nobody may come for it."""
_REMEMBERED: Final = 16
"""Ends of pages."""
_MOST_PASSED: Final = 64
_MOST_AT_ONCE: Final = 8
"""Stretches of all feeds of a connection together: no budget of pages counts them, and each may have some megabytes."""


class Place(NamedTuple):
    """Where a page begins, and what is read of the log there."""

    position: Position
    part: Part
    end_tick: int | None
    """With which the part ends; None where it goes on."""
    max_changes: int
    generation: int
    """Of what is known of the database: in a later one it may have another history."""


class _Reading(NamedTuple):
    place: Place
    task: asyncio.Task[Stretch]


class ReadAhead:
    """Of one feed, one stretch at a time, for who comes first; it is never replaced by another one, but runs out.

    It is read for who has gone on once where a page ended, so a single page costs nothing more. Where nobody came for
    one, twice as many pages are passed by until the next, so that slow readers cost little more either. The log does
    not change behind a tick; items that are not of the log are read when the page is.
    """

    def __init__(self, holding: "set[ReadAhead]") -> None:
        """`holding`: those of a connection that have a stretch, shared by all its feeds."""
        self._holding = holding
        self._ends: deque[Place] = deque(maxlen=_REMEMBERED)
        self._reading: _Reading | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._to_pass = self._passed = 0
        self._closed = False

    def page_ended(self, start: Place, end: Place, read: Callable[[], Coroutine[None, None, Stretch]]) -> None:
        """Say that a page was read, behind which there is more; `read` reads that."""
        goes_on = start in self._ends
        self._ends.append(end)
        if not goes_on or self._reading is not None or self._closed:
            return
        if self._passed < self._to_pass:
            self._passed += 1
            return
        if len(self._holding) >= _MOST_AT_ONCE:
            return
        # Outside the context of the call whose page ended: another one may come for it.
        task = asyncio.create_task(read(), context=Context())
        self._reading = _Reading(end, task)
        self._holding.add(self)
        task.add_done_callback(self._keep)

    async def come(self, place: Place) -> Stretch | None:
        """What was read ahead from a place; None where nothing was, or it failed: then it is to be read now."""
        if self._reading is None or self._reading.place != place:
            return None
        task = self._reading.task
        self._let_go()
        self._to_pass = self._passed = 0
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            await _end(task)
            raise
        return None if task.cancelled() or task.exception() else task.result()

    async def aclose(self) -> None:
        """Read nothing ahead any more; idempotent."""
        self._closed = True
        if self._reading is not None:
            task = self._reading.task
            self._let_go()
            await _end(task)

    def _keep(self, task: asyncio.Task[Stretch]) -> None:
        if not task.cancelled():
            task.exception()  # Nobody may come to hear of it.
        if self._reading is not None and self._reading.task is task:
            self._timer = asyncio.get_running_loop().call_later(_KEPT, self._run_out)

    def _run_out(self) -> None:
        self._let_go()
        self._to_pass, self._passed = min(_MOST_PASSED, 2 * self._to_pass or 1), 0

    def _let_go(self) -> None:
        self._reading = None
        self._holding.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def _end(task: asyncio.Task[Stretch]) -> None:
    task.cancel()
    await asyncio.wait({task})
