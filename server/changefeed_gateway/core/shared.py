"""Questions that many ask at once: put once, few at a time, the answer shared by those who asked before."""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from datetime import timedelta
from typing import Generic, TypeVar

from changefeed_gateway.core.errors import ChangeFeedError, InternalFailure, Reason, TransientFailure

_Answer = TypeVar("_Answer")


class SharedQuestion(Generic[_Answer]):
    """Puts questions in the order in which they were first asked, some at a time, and equal ones one after the other.

    An answer is shared by those who asked before their question was put, and by nobody later: who asks later may know
    of something that the answer does not.
    """

    def __init__(self, *, at_once: int) -> None:
        """`at_once`: questions under way at a time."""
        self._slots = asyncio.Semaphore(at_once)
        self._next: dict[Hashable, _Asked[_Answer]] = {}
        """Not put yet: may still be shared."""
        self._under_way: dict[Hashable, asyncio.Task[_Answer]] = {}
        self._tasks: set[asyncio.Task[_Answer]] = set()

    async def ask(self, question: Hashable, put: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """The answer of a question that is put after this call; `put` is how, the same for equal questions.

        It goes on while anybody waits for it. Raises what `put` raises, an error of its own for each who asked;
        TransientFailure when it was cancelled by somebody else; InternalFailure for what is no ChangeFeedError.
        """
        asked = self._next.get(question)
        if asked is None:
            asked = self._next[question] = _Asked()
            # Outside the context of who came first: the question may outlive that call.
            asked.task = asyncio.create_task(self._put(question, put), context=Context())
            self._tasks.add(asked.task)
            asked.task.add_done_callback(self._forget)
        task = asked.task
        asked.waiting += 1
        try:
            await asyncio.wait({task})
        finally:
            asked.waiting -= 1
            if not asked.waiting and not task.done():
                if self._next.get(question) is asked:
                    del self._next[question]
                task.cancel()
        return outcome(task)

    async def _put(self, question: Hashable, put: Callable[[], Awaitable[_Answer]]) -> _Answer:
        asked = self._next[question]
        try:
            if (earlier := self._under_way.get(question)) is not None:
                await asyncio.wait({earlier})
            async with self._slots:
                del self._next[question]
                self._under_way[question] = asked.task
                return await put()
        finally:
            if self._next.get(question) is asked:
                del self._next[question]
            if self._under_way.get(question) is asked.task:
                del self._under_way[question]

    def _forget(self, task: asyncio.Task[_Answer]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Everybody who asked may be gone before it fails.
            task.exception()

    async def aclose(self) -> None:
        """Send away whoever waits, and wait until nothing is under way; idempotent."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class _Asked(Generic[_Answer]):
    """A question that was asked and not put yet."""

    __slots__ = ("task", "waiting")

    def __init__(self) -> None:
        self.task: asyncio.Task[_Answer]
        self.waiting = 0


def outcome(task: "asyncio.Task[_Answer]") -> _Answer:
    """What a finished task that several waited for brought, as `SharedQuestion.ask` says."""
    if task.cancelled():
        raise cut_short()
    if (error := task.exception()) is None:
        return task.result()
    if isinstance(error, ChangeFeedError):
        raise own(error)
    if isinstance(error, Exception):
        raise InternalFailure("what several calls waited for failed unexpectedly") from error
    raise error


def own(error: ChangeFeedError) -> ChangeFeedError:
    """An equal error for one of several who are told: raising the same one again would collect all their frames."""
    mine = copy.copy(error)
    mine.metadata = dict(error.metadata)
    mine.__cause__ = error.__cause__
    return mine


def cut_short() -> TransientFailure:
    """The error for who waits for something that somebody else cancelled."""
    return TransientFailure(
        "what the gateway was doing for several callers was cancelled: connect again",
        reason=Reason.DRAINING,
        retry_after=timedelta(seconds=1),
    )
