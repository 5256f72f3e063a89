"""Several awaited at once, none of which outlives who asked for them."""

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterable
from typing import Final, TypeVar

_T = TypeVar("_T")

A_TURN: Final = 50
"""Reads begun or given up within one turn of the loop: a thousand would keep everybody else waiting."""


async def gather(coroutines: Iterable[Coroutine[None, None, _T]]) -> list[_T]:
    """Run all at once; the first failure cancels the rest and is raised as it is."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await give_up(tasks)


async def give_up(tasks: Iterable[asyncio.Future[_T]]) -> None:
    """Cancel what is still under way, and leave only when it is gone: none of it outlives the call.

    A failure that came too late to be anybody's is taken, or asyncio reports it as one that was forgotten.
    """
    given_up = list(tasks)
    left = deque(task for task in given_up if not task.done())
    try:
        while left:
            for _ in range(min(A_TURN, len(left))):
                left.popleft().cancel()
            await asyncio.sleep(0)
    finally:
        for task in left:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
