"""Loops whose clock goes when it is told to, or when nothing is left to do but wait."""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class VirtualTime(asyncio.SelectorEventLoop):
    """Time stands still between two steps of a test."""

    now = 0.0

    def time(self) -> float:
        return self.now

    async def turns(self, count: int = 20) -> None:
        """Let everything happen that can happen without news."""
        for _ in range(count):
            await asyncio.sleep(0)

    def run(self, scenario: Coroutine[None, None, _T]) -> _T:
        """Run to the end and close."""
        try:
            return self.run_until_complete(scenario)
        finally:
            self.close()


class LeapingTime(VirtualTime):
    """Where all wait, it is at once as late as the first of them waits for. For what waits for time alone."""

    now = 1_000.0

    def __init__(self) -> None:
        super().__init__(_Leaping(self))


class _Leaping(selectors.DefaultSelector):
    def __init__(self, loop: LeapingTime) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select()
        self._loop.now += timeout
        return super().select(0)


def in_leaping_time(test: Callable[_P, Coroutine[None, None, None]]) -> Callable[_P, None]:
    """A test that takes no longer than what it does, however long it waits."""

    @functools.wraps(test)
    def run(*arguments: _P.args, **named: _P.kwargs) -> None:
        LeapingTime().run(test(*arguments, **named))

    return run
