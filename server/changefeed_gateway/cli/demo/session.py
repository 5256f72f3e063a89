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

from changefeed.v1.resource_pb2 import ResourceAddress
from changefeed_client import NOW, ChangeFeedClient, after, collection, connect
from changefeed_gateway.app.gateway import Gateway, open_gateway
from changefeed_gateway.cli.demo.mirror import Mirror, document_of
from changefeed_gateway.cli.demo.orders import TABLE, OrdersTable
from changefeed_gateway.cli.demo.stage import Stage
from changefeed_gateway.cli.demo.view import View
from changefeed_gateway.cli.output import complain, err
from changefeed_gateway.settings import Settings
from changefeed_gateway.settings.values import HostPort

_FEED: Final = collection("main/documents")
_ORDERS: Final = collection(f"main/{TABLE}")
_SAVE_SECONDS: Final = 1.0
_SETTLE_SECONDS: Final = 20.0
_INCIDENTS_WITHIN: Final = 20.0
"""Seconds in which all of them happen, however long the demo lasts."""
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
    orders: int
    """Changes of orders that were committed."""
    orders_received: int

    @property
    def equal(self) -> bool:
        """Whether everything that was committed was received, once, and the mirror equals the source."""
        same = self.committed == self.received and self.orders == self.orders_received
        return same and not self.duplicates and not self.differing


class Session:
    """Runs gateway, editors and consumer in this process, and the database of the stage."""

    def __init__(self, stage: Stage, settings: Settings, seconds: float | None, *, json: bool = False) -> None:
        self._stage, self._settings, self._seconds, self._json = stage, settings, seconds, json
        self._serving = AsyncExitStack()
        self._killed = False
        self._gateway: Gateway
        self._view: View
        self._consumer: asyncio.Task[None]
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
            with err.status(f"starting {self._stage.database} and the gateway"):
                self._settings = await stack.enter_async_context(self._stage.opened(self._settings))
                stack.push_async_callback(self._kill_gateway)
                target = await self._start_gateway()
                client = await stack.enter_async_context(connect(target))
                self._view = View(target, self._stage.ledger, self._mirror, json=self._json)
                await self._find_place(client)
            async with asyncio.TaskGroup() as tasks:
                following = [
                    tasks.create_task(self._follow_orders(client, orders, await self._now(client, _ORDERS)))
                    for orders in (self._stage.orders,)
                    if orders
                ]
                self._consumer = tasks.create_task(self._read(client))
                with err.status("catching up"):
                    await self._unless_stopped(self._caught_up.wait())
                caught_up = self._mirror.take_count()
                if caught_up:
                    self._view.say(f"resumed: {caught_up:,} changes were made since the last run")
                with self._view:
                    await self._work(client, tasks)
                with err.status("waiting for the last changes"):
                    await self._settle()
                for task in (self._consumer, *following):
                    task.cancel()
            return await self._compare(caught_up)

    # --- What goes wrong

    async def _start_gateway(self) -> str:
        gateway = await self._serving.enter_async_context(open_gateway(self._settings))
        # The next one listens where this one did.
        host, _, port = gateway.target.rpartition(":")
        listen = HostPort(host.strip("[]"), int(port))
        self._settings = self._settings.model_copy(update={"listen": listen})
        self._gateway = gateway
        return gateway.target

    async def _kill_gateway(self) -> None:
        """End the gateway without a word to those who read."""
        await self._gateway.server.abort()
        await self._serving.aclose()

    async def _incidents(self, client: ChangeFeedClient, tasks: asyncio.TaskGroup) -> None:
        """What happens to every installation some day, one after the other."""
        pause = min(self._seconds or _INCIDENTS_WITHIN, _INCIDENTS_WITHIN) / 4
        await asyncio.sleep(pause)
        await self._stage.disturb(self._view.say)
        await asyncio.sleep(pause)
        self._view.say("the gateway is killed and started again, while documents are edited")
        await self._kill_gateway()
        await self._start_gateway()
        await asyncio.sleep(pause)
        self._view.say("the consumer is killed: the next one begins where it saved its place last")
        self._killed = True
        self._consumer.cancel()
        await asyncio.wait({self._consumer})
        self._killed = False
        self._mirror.die()
        self._consumer = tasks.create_task(self._read(client))

    async def _follow_orders(self, client: ChangeFeedClient, orders: OrdersTable, token: str) -> None:
        async with client.tail(_ORDERS, after(token), heartbeat_interval=_HEARTBEAT) as tail:
            async for delivery in tail:
                orders.take(delivery.events)
                self._view.take(delivery.events)
                self._arrived.set()

    async def _find_place(self, client: ChangeFeedClient) -> None:
        """Go on where the last run stopped; where that is not possible, have every document sent anew."""
        try:
            if not self._mirror.load():
                self._mirror.token = (await client.resolve(_FEED, self._stage.first_position)).continuation_token
                return
            inspected = await client.inspect(_FEED, self._mirror.token)
            problem = "" if inspected.usable else inspected.problem.message
        except ValueError as error:
            problem = str(error)
        if problem:
            complain(f"cannot resume ({problem}): starting over")
            self._mirror.forget()
            self._mirror.token = await self._now(client, _FEED)
            await self._stage.touch_all()

    async def _read(self, client: ChangeFeedClient) -> None:
        saved = time.monotonic()
        tail = client.tail(_FEED, after(self._mirror.token), heartbeat_interval=_HEARTBEAT)
        try:
            async with tail:
                async for delivery in tail:
                    self._view.take(delivery.events)
                    self._mirror.take(delivery)
                    for event in delivery.events:
                        self._stage.ledger.arrived(document_of(event))
                    if delivery.live:
                        self._caught_up.set()
                    self._heartbeats = 0 if delivery.events or not delivery.live else self._heartbeats + 1
                    self._arrived.set()
                    if time.monotonic() - saved > _SAVE_SECONDS:
                        saved = time.monotonic()
                        self._mirror.save()
        finally:
            if not self._killed:
                self._mirror.save()

    async def _work(self, client: ChangeFeedClient, tasks: asyncio.TaskGroup) -> None:
        if self._stop.is_set():
            return
        # Before anything can be killed.
        self._mirror.save()
        async with asyncio.TaskGroup() as running:
            running.create_task(self._stage.edit(self._stop))
            incidents = running.create_task(self._incidents(client, tasks))
            ended = running.create_task(self._stop.wait())
            await asyncio.wait({ended}, timeout=self._seconds)
            if not self._stop.is_set():
                # None of them is left half done.
                await asyncio.wait({ended, incidents}, return_when=FIRST_COMPLETED)
            self._stop.set()
            await asyncio.wait({incidents}, timeout=_SETTLE_SECONDS)
            incidents.cancel()

    async def _settle(self) -> None:
        """Wait until as much has arrived as was committed, or heartbeats say that nothing more will."""
        self._heartbeats = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                while self._heartbeats < _HEARTBEATS_OF_SILENCE:
                    committed, received = self._orders_told()
                    if received >= committed and self._mirror.received.total() >= self._stage.ledger.changes.total():
                        return
                    self._arrived.clear()
                    await self._arrived.wait()

    def _orders_told(self) -> tuple[int, int]:
        """How many changes of orders were committed, how many received."""
        orders = self._stage.orders
        return (orders.committed, len(orders.received)) if orders else (0, 0)

    async def _compare(self, caught_up: int) -> Outcome:
        ledger, mirror = self._stage.ledger, self._mirror
        source, copy = await self._stage.documents(), mirror.documents()
        orders, orders_received = self._orders_told()
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
            orders=orders,
            orders_received=orders_received,
        )

    @staticmethod
    async def _now(client: ChangeFeedClient, address: ResourceAddress) -> str:
        return (await client.resolve(address, NOW)).continuation_token

    async def _unless_stopped(self, waiting: Coroutine[object, object, object]) -> None:
        tasks = {asyncio.ensure_future(waiting), asyncio.ensure_future(self._stop.wait())}
        await asyncio.wait(tasks, return_when=FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
