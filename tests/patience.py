"""Waiting for what may take long, as long as it moves: a busy machine is no failure."""

import asyncio
from collections.abc import Callable, Collection

STANDSTILL = 60
"""Seconds without any movement after which something is lost."""


async def finished(tasks: Collection[asyncio.Task[None]], moved: Callable[[], int]) -> None:
    """Let tasks come to their end while `moved` grows. Raises what they raise, and TimeoutError at a standstill."""
    waiting = set(tasks)
    while waiting:
        before = moved()
        done, waiting = await asyncio.wait(waiting, timeout=STANDSTILL, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if not done and moved() == before:
            raise TimeoutError(f"{len(waiting)} of {len(tasks)} stand still")
