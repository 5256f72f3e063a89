"""What changes while the gateway serves: certificates, keys and tokens whose files or issuer have newer ones."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

from changefeed_gateway.core.errors import TransientFailure
from changefeed_gateway.core.supervision import Done, Supervisor

FILES: Final = timedelta(seconds=10)
"""Between two looks at a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewable:
    """Something that is read anew at intervals; what cannot be read leaves things as they are."""

    name: str
    renew: Callable[[], Awaitable[None]]
    """Raises ValueError or OSError when there is nothing good to be had."""
    interval: timedelta = FILES
    at_once: bool = False
    """Whether it is read for the first time by the first round."""


def in_a_thread(load: Callable[[], object]) -> Callable[[], Awaitable[None]]:
    """A `renew` that blocks."""

    async def renew() -> None:
        await asyncio.to_thread(load)

    return renew


class Renewal:
    """Keeps renewables new. A failure is told once, and that it is over."""

    def __init__(self) -> None:
        self._supervisor = Supervisor()

    def start(self, *renewables: Renewable) -> None:
        """Renew until closed."""
        for renewable in renewables:
            self._supervisor.keep(renewable.name, partial(self._renew, renewable))

    async def aclose(self) -> None:
        """Renew no more; idempotent."""
        await self._supervisor.aclose()

    async def _renew(self, renewable: Renewable, done: Done) -> None:
        if not renewable.at_once:
            await asyncio.sleep(renewable.interval.total_seconds())
        while True:
            try:
                await renewable.renew()
            except (OSError, ValueError) as error:
                said = str(error) if type(error) is ValueError else type(error).__name__
                raise TransientFailure(f"what there was stays in use: {said}") from None
            done()
            await asyncio.sleep(renewable.interval.total_seconds())
