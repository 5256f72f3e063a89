"""What ends the process: asked once it drains, asked again it cuts the drain short."""

import asyncio
import signal


class Orders:
    """Made inside the loop that it serves."""

    def __init__(self) -> None:
        self._drain: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._end = asyncio.Event()

    def take_signals(self, *, impatient: bool = True) -> None:
        """Take SIGTERM and SIGINT for orders; `impatient`: the second one for the order to end at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number, impatient)

    def _signalled(self, number: signal.Signals, impatient: bool) -> None:
        if impatient and self._drain.done():
            self.end()
        self.drain(number.name)

    def drain(self, by: str) -> None:
        """Order the drain; the first who does is told of."""
        if not self._drain.done():
            self._drain.set_result(by)

    def end(self) -> None:
        """Order the end, whatever is open."""
        self._end.set()

    async def to_drain(self) -> str:
        """Wait for the order to drain; answers by whom."""
        return await asyncio.shield(self._drain)

    async def to_end(self) -> None:
        """Wait for the order to end at once."""
        await self._end.wait()
