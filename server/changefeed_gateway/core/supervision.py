"""Long-lived tasks: none dies unnoticed.

A loop that ends by an exception nobody foresaw would stall whoever rests on it, and say nothing. Here it is started
anew with a growing pause, told once in the log, counted, and shown to whoever asks whether the connection can serve.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextvars import Context
from datetime import timedelta
from typing import Any, Final

import structlog
from structlog.typing import FilteringBoundLogger

from changefeed_gateway.core.errors import ChangeFeedError, TransientFailure

Done = Callable[[], None]
"""Says that a round of the work succeeded."""

Work = Callable[[Done], Coroutine[Any, Any, None]]
"""Long-lived work: calls what it is given after each round that succeeded, and returns when there is no more to do.

What it raises starts it anew; a ChangeFeedError is a failure that it foresees, anything else is a fault.
"""

_KEEPS_FAILING: Final = 3
"""Failures without a round that lasted between them."""

_ASK_AGAIN: Final = 5.0
"""Seconds that a task has for its end before it is cancelled once more."""

_log: FilteringBoundLogger = structlog.get_logger(__name__)


class LongTask:
    """One long-lived task; only `Supervisor.keep` makes one."""

    def __init__(self, supervisor: "Supervisor", name: str, work: Work, *, optional: bool) -> None:
        self.name = name
        self.failures = 0
        """Times it failed so far."""
        self._supervisor, self._work, self._optional = supervisor, work, optional
        self._streak = 0
        self._problem = ""
        self._fault = False
        self._told: set[str] = set()
        self._settling: asyncio.TimerHandle | None = None
        # Outside the context of the call that came first: its request id is not the task's.
        self._task = asyncio.create_task(self._run(), name=name, context=Context())

    @property
    def running(self) -> bool:
        """Whether it works, or will again after a pause."""
        return not self._task.done()

    @property
    def problem(self) -> str:
        """Why it keeps failing; empty when it does not, or when the connection serves as well without it."""
        if self._streak < _KEEPS_FAILING or (self._optional and not self._fault):
            return ""
        return f"{self.name}: {self._problem}"

    def cancel(self) -> None:
        """Ask it to end, without waiting."""
        self._task.cancel()

    async def aclose(self) -> None:
        """End it; idempotent."""
        while self.running:
            self.cancel()
            # Asked again: a driver may swallow a cancellation (asyncio.wait_for before Python 3.12 does).
            await asyncio.wait({self._task}, timeout=_ASK_AGAIN)

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._work(self._round_done)
                    return
                except asyncio.CancelledError as error:
                    # Somebody else's, which came out of what the work waited for, ends nothing here.
                    if self._cancelled():
                        raise
                    self._failed(error)
                except Exception as error:
                    if self._cancelled():
                        return
                    self._failed(error)
                await asyncio.sleep(self._supervisor.pause(self._streak))
        finally:
            self._stop_settling()

    def _cancelled(self) -> bool:
        return self._task.cancelling() > 0

    def _failed(self, error: BaseException) -> None:
        self._stop_settling()
        self.failures += 1
        self._supervisor.failures += 1
        self._streak += 1
        foreseen = isinstance(error, ChangeFeedError)
        # What others raise may repeat what they were given.
        self._problem = str(error) if foreseen else type(error).__name__
        self._fault = not foreseen
        if self._problem in self._told or (isinstance(error, ChangeFeedError) and error.logged):
            return
        self._told.add(self._problem)
        facts = {"task": self.name, "problem": self._problem, "failures": self.failures}
        if foreseen:
            _log.warning("a task failed and is started anew", **facts)
        else:
            _log.error("a task failed unexpectedly and is started anew", **facts, exc_info=error)

    def _round_done(self) -> None:
        # A round between two failures is no recovery: it would be told, and the pause shortened, again and again.
        if self._streak and self._settling is None:
            loop = asyncio.get_running_loop()
            self._settling = loop.call_later(self._supervisor.settled_after, self._settle)

    def _settle(self) -> None:
        if self._told:
            _log.info("a task works again", task=self.name, failures=self._streak)
        self._settling, self._streak, self._problem, self._fault = None, 0, "", False
        self._told.clear()

    def _stop_settling(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None


class Supervisor:
    """Keeps the long-lived tasks of one connection going, or of one server."""

    def __init__(
        self,
        *,
        first_pause: timedelta = timedelta(milliseconds=100),
        longest_pause: timedelta = timedelta(seconds=5),
        settled_after: timedelta = timedelta(seconds=10),
    ) -> None:
        """Pauses come before each new start, doubled and drawn; a task is well that did not fail for so long."""
        self.settled_after = settled_after.total_seconds()
        self._first_pause = first_pause.total_seconds()
        self._longest_pause = longest_pause.total_seconds()
        self.failures = 0
        """Of all its tasks so far."""
        self._tasks: set[LongTask] = set()
        self._closed = False

    def keep(self, name: str, work: Work, *, optional: bool = False) -> LongTask:
        """Start work, and start it anew whenever it raises, until it returns or is closed.

        `optional` work may fail in ways that it foresees while the connection serves as well without it. Raises
        RuntimeError after `aclose`.
        """
        if self._closed:
            raise RuntimeError("closed: nothing more is started")
        task = LongTask(self, name, work, optional=optional)
        self._tasks.add(task)
        task._task.add_done_callback(lambda _: self._tasks.discard(task))
        return task

    def check(self) -> None:
        """Raise TransientFailure that names the tasks which keep failing, if any does."""
        if problems := sorted({task.problem for task in self._tasks} - {""}):
            raise TransientFailure(f"what must go on keeps failing: {'; '.join(problems)}")

    def pause(self, failures: int) -> float:
        """Seconds before a start after so many failures in a row."""
        longest = min(self._first_pause * 2.0 ** min(failures - 1, 32), self._longest_pause)
        return longest * random.uniform(0.5, 1)  # noqa: S311 - so that tasks that fell together rise apart

    async def aclose(self) -> None:
        """End every task; idempotent."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for task in tasks:
            await task.aclose()
