"""A loop whose clock goes only when it is told to."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

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
