"""Questions that many ask at once: put once, few at a time, the answer shared by those who asked before."""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from functools import partial
from typing import Final, Generic, TypeVar

import structlog
from structlog.typing import FilteringBoundLogger

from changefeed_gateway.core.cancellation import cut_short
from changefeed_gateway.core.errors import ChangeFeedError

_Answer = TypeVar("_Answer")

_log: Final[FilteringBoundLogger] = structlog.get_logger(__name__)


class SharedQuestion(Generic[_Answer]):
    """Puts questions in the order in which they were first asked, some at a time, and equal ones one after the other.

    An answer is shared by those who asked before their question was put, and by nobody later: who asks later may know
    of something that the answer does not.
    """

    def __init__(self, *, at_once: int = 1, goes_on: bool = False, foreseen: type[Exception] = ChangeFeedError) -> None:
        """`at_once`: questions under way at a time.

        `goes_on`: also when nobody waits for it any more, because whoever put it keeps what it finds. Then an error
        that is not of the type `foreseen` is logged, for there may be nobody to hear of it.
        """
        self._slots = asyncio.Semaphore(at_once)
        self._goes_on, self._foreseen = goes_on, foreseen
        self._next: dict[Hashable, _Asked[_Answer]] = {}
        """Not put yet: may still be shared."""
        self._under_way: dict[Hashable, _Asked[_Answer]] = {}
        self._tasks: dict[asyncio.Task[_Answer], None] = {}

    @property
    def under_way(self) -> int:
        """Questions that are put and not answered yet."""
        return len(self._under_way)

    @property
    def waiting(self) -> int:
        """Questions that are not put yet."""
        return len(self._next)

    async def ask(self, question: Hashable, put: Callable[[], Awaitable[_Answer]], *, join: bool = False) -> _Answer:
        """The answer of a question that is put after this call; `put` is how, the same for equal questions.

        `join`: one that is under way will do, which may miss what happened since. Raises what `put` raises, a
        ChangeFeedError of its own for each who asked, and TransientFailure when it was ended by somebody else.
        """
        asked = self._next.get(question)
        if asked is None and join:
            asked = self._under_way.get(question)
        if asked is None:
            # Outside the context of who came first: the question may outlive that call.
            task = asyncio.create_task(self._put(question, put), context=Context())
            asked = self._next[question] = _Asked(task)
            self._tasks[task] = None
            task.add_done_callback(partial(self._forget, question))
        asked.waiting += 1
        try:
            await asyncio.wait({asked.answer})
        finally:
            asked.waiting -= 1
            if not asked.waiting and not asked.answer.done() and not self._goes_on:
                self._nobody_joins(question, asked.answer)
                asked.answer.cancel()
        return outcome(asked.answer)

    async def ask_here(self, question: Hashable, put: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """As `ask`, for a loop that asks again and again: in the loop's own task, if nobody asks at the same time.

        That saves a task and its turns of the event loop. Whoever cancels the loop cancels the question.
        """
        if question in self._next or question in self._under_way or self._slots.locked():
            return await self.ask(question, put)
        mine: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        asked = self._under_way[question] = _Asked(mine)
        asked.waiting = 1  # The loop itself: who joined and left ends nothing.
        try:
            async with self._slots:
                answer = await put()
        except asyncio.CancelledError:
            mine.cancel()
            raise
        except BaseException as error:
            mine.set_exception(error)
            mine.exception()  # There may be nobody to hear of it but the caller.
            raise
        finally:
            del self._under_way[question]
        mine.set_result(answer)
        return answer

    async def _put(self, question: Hashable, put: Callable[[], Awaitable[_Answer]]) -> _Answer:
        asked = self._next[question]
        try:
            if (earlier := self._under_way.get(question)) is not None:
                await asyncio.wait({earlier.answer})
            async with self._slots:
                del self._next[question]
                self._under_way[question] = asked
                return await put()
        finally:
            if self._under_way.get(question) is asked:
                del self._under_way[question]

    def _nobody_joins(self, question: Hashable, answer: asyncio.Future[_Answer]) -> None:
        asked = self._next.get(question)
        if asked is not None and asked.answer is answer:
            del self._next[question]

    def _forget(self, question: Hashable, task: asyncio.Task[_Answer]) -> None:
        self._tasks.pop(task, None)
        # Ended before it was put.
        self._nobody_joins(question, task)
        # Everybody who asked may be gone before it fails.
        error = None if task.cancelled() else task.exception()
        if error is not None and self._goes_on and not isinstance(error, ChangeFeedError | self._foreseen):
            _log.error("what several calls ask for failed unexpectedly", exc_info=error)

    def close(self) -> None:
        """Send away whoever waits."""
        for question, asked in list(self._next.items()):
            self._nobody_joins(question, asked.answer)
        for task in self._tasks:
            task.cancel()

    async def aclose(self) -> None:
        """Send away whoever waits, and wait until nothing is under way; idempotent."""
        self.close()
        if self._tasks:
            await asyncio.wait(list(self._tasks))


class _Asked(Generic[_Answer]):
    """A question that was asked, and how many wait for its answer."""

    __slots__ = ("answer", "waiting")

    def __init__(self, answer: asyncio.Future[_Answer]) -> None:
        self.answer = answer
        self.waiting = 0


def outcome(task: "asyncio.Future[_Answer]") -> _Answer:
    """What a finished task or future that several waited for brought, as `SharedQuestion.ask` says."""
    if task.cancelled():
        raise cut_short()
    if isinstance(error := task.exception(), ChangeFeedError):
        raise own(error)
    return task.result()


def own(error: ChangeFeedError) -> ChangeFeedError:
    """An equal error for one of several who are told: raising the same one again would collect all their frames."""
    mine = copy.copy(error)
    mine.metadata = dict(error.metadata)
    mine.__cause__ = error.__cause__
    return mine
