"""Questions asked one at a time, each shared by all who ask it before it begins."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from functools import partial
from typing import Any, Final, TypeVar

from changefeed_gateway.core.errors import ChangeFeedError
from changefeed_gateway.providers.dynamodb.errors import ForTheCaller, closing

_log: Final = logging.getLogger(__name__)
_T = TypeVar("_T")


class Turns:
    """Takes one question after the other. Whoever waits may be cancelled: the question goes on for the others."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._next: dict[Hashable, asyncio.Task[Any]] = {}
        """Questions that have not begun."""
        self._under_way: tuple[Hashable, asyncio.Task[Any]] | None = None

    async def ask(self, key: Hashable, question: Callable[[], Awaitable[_T]], *, join: bool = False) -> _T:
        """Answer a question, which `key` tells from every other one.

        `join`: one that is under way will do, which may miss what was written since. Raises what the question raises,
        and TransientFailure (DRAINING) where somebody else ended it: that is no cancellation of who waits.
        """
        task: asyncio.Task[_T] | None = self._next.get(key)
        if task is None and join and self._under_way is not None and self._under_way[0] == key:
            task = self._under_way[1]
        if task is None:
            # Outside the context of the call that came first: its request id is not that of those who share.
            task = self._next[key] = asyncio.create_task(self._take(key, question), context=Context())
            task.add_done_callback(partial(self._over, key))
        await asyncio.wait({task})
        if task.cancelled():
            raise closing()
        return task.result()

    def close(self) -> None:
        """End every question; who waits is told that the gateway is closing."""
        for task in [*self._next.values(), *([self._under_way[1]] if self._under_way else [])]:
            task.cancel()

    async def _take(self, key: Hashable, question: Callable[[], Awaitable[_T]]) -> _T:
        async with self._turn:
            # Who asks from now on may know of a write that this question will not see.
            self._under_way = key, self._next.pop(key)
            try:
                return await question()
            finally:
                self._under_way = None

    def _over(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        if self._next.get(key) is task:
            # It was ended before it began: nobody may join it any more.
            del self._next[key]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ChangeFeedError | ForTheCaller):
            # Whoever waited may be gone by now.
            _log.error("a shared question to DynamoDB failed unforeseen", exc_info=error)
