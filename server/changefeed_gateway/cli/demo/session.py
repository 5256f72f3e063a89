"""One run of the demo, from start to comparison."""

import asyncio
import signal
import time
from asyncio import FIRST_COMPLETED
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from changefeed_client import BEGINNING, NOW, ChangeFeedClient, after, collection, connect
from changefeed_gateway.app.gateway import open_gateway
from changefeed_gateway.app.operations import database
from changefeed_gateway.cli.demo.mirror import Mirror, document_of, source_documents
from changefeed_gateway.cli.demo.view import View
from changefeed_gateway.cli.demo.workload import Workload
from changefeed_gateway.cli.output import complain, err
from changefeed_gateway.settings import Settings

_FEED: Final = collection("main/documents")
_SAVE_SECONDS: Final = 1.0
_SETTLE_SECONDS: Final = 20.0
_HEARTBEAT: Final = timedelta(seconds=1)
_HEARTBEATS_OF_SILENCE: Final = 3


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
        self._heartbeats = 0
        """How many came since the last change."""

    async def run(self) -> Outcome:
        """Work until the time is over or a signal comes, then compare."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        async with AsyncExitStack() as stack:
            with err.status("starting PostgreSQL and the gateway"):
                dsn = await stack.enter_async_context(database(self._settings, "main"))
                gateway = await stack.enter_async_context(open_gateway(self._settings))
                client = await stack.enter_async_context(connect(gateway.target))
                workload = Workload(dsn)
                await workload.prepare()
                view = View(gateway.target, workload.ledger, self._mirror)
                await self._find_place(client, workload)
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(self._read(client, workload, view))
                with err.status("catching up"):
                    await self._unless_stopped(self._caught_up.wait())
                caught_up = self._mirror.take_count()
                if caught_up:
                    complain(f"resumed: {caught_up:,} changes were made since the last run")
                with view:
                    await self._work(workload, view)
                with err.status("waiting for the last changes"):
                    await self._settle(workload)
                reading.cancel()
            return await self._compare(dsn, workload, caught_up)

    async def _find_place(self, client: ChangeFeedClient, workload: Workload) -> None:
        """Go on where the last run stopped; where that is not possible, have every document sent anew."""
        try:
            if not self._mirror.load():
                self._mirror.token = (await client.resolve(_FEED, BEGINNING)).continuation_token
                return
            inspected = await client.inspect(_FEED, self._mirror.token)
            problem = "" if inspected.usable else inspected.problem.message
        except ValueError as error:
            problem = str(error)
        if problem:
            complain(f"cannot resume ({problem}): starting over")
            self._mirror.forget()
            self._mirror.token = (await client.resolve(_FEED, NOW)).continuation_token
            await workload.touch_all()

    async def _read(self, client: ChangeFeedClient, workload: Workload, view: View) -> None:
        saved = time.monotonic()
        tail = client.tail(_FEED, after(self._mirror.token), heartbeat_interval=_HEARTBEAT)
        try:
            async with tail:
                async for delivery in tail:
                    self._mirror.take(delivery)
                    for event in delivery.events:
                        workload.ledger.arrived(document_of(event))
                    view.take(delivery.events)
                    if delivery.live:
                        self._caught_up.set()
                    self._heartbeats = 0 if delivery.events or not delivery.live else self._heartbeats + 1
                    self._arrived.set()
                    if time.monotonic() - saved > _SAVE_SECONDS:
                        saved = time.monotonic()
                        self._mirror.save()
        finally:
            self._mirror.save()

    async def _work(self, workload: Workload, view: View) -> None:
        if self._stop.is_set():
            return
        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(workload.run(self._stop))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await asyncio.wait({working, tasks.create_task(self._stop.wait())}, return_when=FIRST_COMPLETED)
            self._stop.set()

    async def _settle(self, workload: Workload) -> None:
        """Wait until as much has arrived as was committed, or heartbeats say that nothing more will."""
        self._heartbeats = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                while self._heartbeats < _HEARTBEATS_OF_SILENCE:
                    if self._mirror.received.total() >= workload.ledger.changes.total():
                        return
                    self._arrived.clear()
                    await self._arrived.wait()

    async def _compare(self, dsn: str, workload: Workload, caught_up: int) -> Outcome:
        ledger, mirror = workload.ledger, self._mirror
        source, copy = await source_documents(dsn), mirror.documents()
        differing = {
            *(document for document in ledger.changes if ledger.changes[document] != mirror.received[document]),
            *(document for document in mirror.received if ledger.changes[document] != mirror.received[document]),
            *(document for document in {*source, *copy} if source.get(document) != copy.get(document)),
        }
        return Outcome(
            caught_up=caught_up,
            transactions=ledger.transactions,
            rolled_back=ledger.rolled_back,
            committed=ledger.changes.total(),
            received=mirror.received.total(),
            duplicates=mirror.duplicates,
            documents=len(source),
            differing=tuple(sorted(differing)),
        )

    async def _unless_stopped(self, waiting: Coroutine[object, object, object]) -> None:
        tasks = {asyncio.ensure_future(waiting), asyncio.ensure_future(self._stop.wait())}
        await asyncio.wait(tasks, return_when=FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
