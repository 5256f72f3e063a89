"""One run of the demo, from start to comparison."""

import asyncio
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from changefeed_client import BEGINNING, ChangeFeedClient, ChangeFeedRpcError, after, collection, connect
from changefeed_gateway.app import database, open_gateway
from changefeed_gateway.cli.demo.mirror import Mirror, source_documents
from changefeed_gateway.cli.demo.view import View
from changefeed_gateway.cli.demo.workload import Workload
from changefeed_gateway.cli.output import complain, err
from changefeed_gateway.settings import Settings

_FEED: Final = collection("main/documents")
_SAVE_SECONDS: Final = 1.0
_SETTLE_SECONDS: Final = 20.0
_HEARTBEAT: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Both sides at the end."""

    caught_up: int
    """Changes received that were made before this run."""
    transactions: int
    rolled_back: int
    committed: int
    received: int
    duplicates: int
    documents: int
    differing: tuple[str, ...]
    """Documents with another number of changes received than committed, or another content."""

    @property
    def equal(self) -> bool:
        """Whether everything that was committed was received, once, and the mirror equals the source."""
        return self.committed == self.received and not self.duplicates and not self.differing


class Session:
    """Runs PostgreSQL, gateway, editors and consumer in this process."""

    def __init__(self, settings: Settings, seconds: float | None) -> None:
        self._settings, self._seconds = settings, seconds
        self._mirror = Mirror(settings.state_directory / "demo.json")
        self._stop = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._arrived = asyncio.Event()

    async def run(self) -> Outcome:
        """Work until the time is over or a signal comes, then compare."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        status = err.status("starting PostgreSQL and the gateway")
        status.start()
        try:
            async with (
                database(self._settings, "main") as dsn,
                open_gateway(self._settings) as gateway,
                connect(gateway.target) as client,
            ):
                workload = Workload(dsn)
                await workload.prepare()
                status.update("catching up")
                view = View(gateway.target, workload.ledger, self._mirror)
                async with asyncio.TaskGroup() as tasks:
                    reading = tasks.create_task(self._read(client, view))
                    await self._unless_stopped(self._caught_up.wait())
                    status.stop()
                    caught_up = self._mirror.received.total()
                    self._mirror.received.clear()
                    if caught_up:
                        complain(f"resumed: {caught_up:,} changes were made while nobody listened")
                    with view:
                        await self._work(workload)
                        await self._settle(workload)
                    reading.cancel()
                return await self._compare(dsn, workload, caught_up)
        finally:
            status.stop()
