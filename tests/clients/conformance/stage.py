"""Plays a scenario with one client: the gateway, the network before it, the program, and what it was told."""

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

from changefeed.v1 import change_event_pb2, partition_pb2
from changefeed_gateway.core import errors
from changefeed_gateway.core.model import Address, Feed
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.providers.memory.provider import MemoryProvider
from changefeed_gateway.providers.memory.store import MemoryStore
from tests.clients.conformance.certificate import Certificate
from tests.clients.conformance.consumer import Consumer
from tests.clients.conformance.language import Language
from tests.clients.conformance.mirror import applied, copied
from tests.clients.conformance.scenario import Scenario
from tests.clients.conformance.script import script
from tests.clients.relay import Relay
from tests.clients.scripted_gateway import ScriptedGateway
from tests.conformance.backend import Backend, Item
from tests.conformance.journal import Commit
from tests.conformance.world import CONNECTION, World

Json = dict[str, Any]

_STEP_SECONDS = 30
"""How long a step may take, on a busy machine."""


class _FailingProvider(MemoryProvider):
    """Fails every call with the category that its collection is named after."""

    async def open_feed(self, address: Address) -> Feed:
        raise _FAILURES[address.collection]("said by the provider of the tests")


_FAILURES: Mapping[str, type[errors.ChangeFeedError]] = {
    kind.category.value: kind
    for kind in (
        errors.InvalidRequest,
        errors.CheckpointExpired,
        errors.NewItemStateUnavailable,
        errors.NotFound,
        errors.AuthenticationFailed,
        errors.AuthorizationFailed,
        errors.Throttled,
        errors.TransientFailure,
        errors.ProviderFailure,
        errors.InternalFailure,
    )
}


class _WorldOfClients(World):
    async def _providers(self) -> Mapping[str, Provider]:
        return {CONNECTION: await self.backend.connect(), "failing": _FailingProvider(MemoryStore())}


class Stage:
    """Where one scenario is played; `play` raises AssertionError for what the client did wrong."""

    def __init__(self, scenario: Scenario, language: Language, backend: Backend | None, folder: Path) -> None:
        self._scenario = scenario
        self._language = language
        self._folder = folder
        self._world = _WorldOfClients(backend) if backend else None
        self._scripted = ScriptedGateway(*(script(steps) for steps in scenario.scripts))
        self._certificate = Certificate(folder) if scenario.tls else None
        self._relay = Relay("127.0.0.1:1")
        self._target = ""
        self._runs: list[Consumer] = []

    async def play(self) -> None:
        """Set up, take every step, look at the whole, and clean up."""
        try:
            await self._set_up()
            for number, step in enumerate(self._scenario.steps, start=1):
                [(verb, argument)] = step.items()
                action: Callable[[Any], Awaitable[None]] = getattr(self, f"_step_{verb}")
                try:
                    async with asyncio.timeout(_STEP_SECONDS):
                        await action(argument)
                except (AssertionError, TimeoutError) as error:
                    raise AssertionError(f"step {number}, {step}: {error!r}. {self._told()}") from error
            if self._world:
                self._check_changes()
        finally:
            await self._clean_up()

    async def _set_up(self) -> None:
        if self._world:
            await self._world.backend.start()
            await self._serve()
            self._target = await self._relay.start()
        else:
            credentials = self._certificate.server_credentials() if self._certificate else None
            self._target = await self._scripted.start(credentials)

    async def _clean_up(self) -> None:
        # All of it, whatever a part does; the last first.
        async with AsyncExitStack() as stack:
            if self._world:
                stack.push_async_callback(self._world.backend.stop)
                stack.push_async_callback(self._world.stop)
            else:
                stack.push_async_callback(self._scripted.stop)
            stack.push_async_callback(self._relay.stop)
            for run in self._runs:
                stack.push_async_callback(run.kill)

    def _told(self) -> str:
        said = [
            f"run {number}: {len(run.events)} events, {len(run.deliveries)} deliveries, {run.reconnects}, {run.errors}"
            for number, run in enumerate(self._runs, start=1)
        ]
        return "; ".join(said)

    @property
    def world(self) -> World:
        assert self._world is not None, "a scripted gateway has no collection"
        return self._world

    @property
    def run(self) -> Consumer:
        """The newest run."""
        return self._runs[-1]

    async def _serve(self) -> None:
        gateway = await self.world.serve()
        self._relay.target = gateway.target

    # --- Steps: the client

    async def _step_run(self, order: Json) -> None:
        await self._step_runs([order])

    async def _step_runs(self, orders: list[Json]) -> None:
        wholes = [json.dumps(self._whole(order)) for order in orders]
        await self._start([*self._language.program, *wholes])

    def _whole(self, order: Json) -> Json:
        whole = {"call": "tail", "collection": self._collection(), "target": self._target, **order}
        if order.get("checkpoint"):
            whole["checkpoint"] = str(self._folder / "checkpoint.json")
        if order.get("roots"):
            assert self._certificate is not None
            whole["roots"] = str(self._certificate.file)
        return whole

    async def _step_mirror(self, _: bool) -> None:
        await self._start([*self._language.mirror, self._collection(), str(self._mirror)], is_example=True)

    async def _start(self, command: list[str], *, is_example: bool = False) -> None:
        # No variable of a proxy may lead elsewhere than to the relay.
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment["CHANGEFEED_TARGET"] = self._target
        log = self._folder / "program.log"
        self._runs.append(await Consumer.start(command, log, environment, is_example=is_example))

    async def _step_kill(self, _: bool) -> None:
        await self.run.kill()

    async def _step_expect_error(self, wanted: Json) -> None:
        await self._step_expect_errors([wanted])

    async def _step_expect_errors(self, wanted: list[Json]) -> None:
        await self.run.finish()
        assert len(self.run.errors) == len(wanted), self.run.errors
        for want, error in zip(wanted, self.run.errors, strict=True):
            assert want.items() <= error.items(), error
            answered = self._world is not None and want.get("reason") != ""
            assert not answered or (error["request_id"] and error["reason"]), error

    async def _step_expect_end(self, _: bool) -> None:
        await self.run.finish()
        assert self.run.ended, self.run.errors

    # --- Steps: the collection

    async def _step_write(self, items: list[tuple[str, str, str]]) -> None:
        for partition, name, content in items:
            await self.world.put(Item(partition, name), content)

    async def _step_delete(self, item: tuple[str, str]) -> None:
        await self.world.delete(Item(*item))

    async def _step_write_many(self, count: int) -> None:
        await self.world.write(count)

    async def _step_write_large(self, size: Json) -> None:
        for number in range(size["count"]):
            await self.world.put(Item("large", f"{number}"), "x" * size["bytes"])

    async def _step_split(self, _: bool) -> None:
        await self.world.backend.split((await self._active())[0].partition_id)

    async def _step_merge(self, which: list[int] | bool) -> None:
        """Merge the newest twins, or the active partitions of two numbers."""
        if isinstance(which, list):
            active = await self._active()
            return await self.world.backend.merge(*(active[number].partition_id for number in which))
        children = [partition for partition in await self._active() if partition.parent_partition_ids]
        twins = [p for p in children if p.parent_partition_ids == children[-1].parent_partition_ids]
        await self.world.backend.merge(*(partition.partition_id for partition in twins[:2]))

    async def _step_trim(self, _: bool) -> None:
        await self.world.backend.trim()

    async def _active(self) -> list[partition_pb2.PhysicalPartition]:
        listed = await self.world.client.partitions()
        return [p for p in listed if p.state == partition_pb2.PARTITION_STATE_ACTIVE]

    # --- Steps: the way to it

    async def _step_network(self, does: Json) -> None:
        match does:
            case {"cut": True}:
                self._relay.cut()
            case {"stall": True}:
                self._relay.stall()
            case {"delay_ms": delay}:
                self._relay.delay = delay / 1_000
            case _:
                raise AssertionError("no such network")

    async def _step_gateway(self, does: str) -> None:
        match does:
            case "start":
                await self._serve()
            case "drain":
                await self.world.gateway.drain()
            case "kill":
                await self.world.gateway.kill()
                self._relay.cut()
            case _:
                raise AssertionError("no such gateway")

    # --- Steps: what was told

    async def _step_await(self, what: Any) -> None:
        match what:
            case "changes":
                await self.run.until(lambda: len(self._distinct()) >= len(self.world.journal.commits))
            case "live":
                await self.run.until(lambda: any(delivery["live"] for delivery in self.run.deliveries))
            case "saved":
                await self._until_saved()
            case "mirror":
                await self._until_mirrored()
            case "snapshot":
                await self.run.until(lambda: self.run.finished_snapshots)
            case "equal":
                await self.run.until(lambda: self._as_items(applied(self._events())) == self.world.journal.items)
            case {"reconnects": count}:
                await self.run.until(lambda: len(self.run.reconnects) >= count)
            case {"deliveries": count}:
                await self.run.until(lambda: len(self.run.deliveries) >= count)
            case _:
                raise AssertionError("nothing to wait for")

    async def _until_saved(self) -> None:
        """Until what was delivered last has been saved: a later heartbeat shows it, as they come in order."""
        seen = len(self.run.deliveries)
        await self.run.until(lambda: len(self.run.deliveries) > seen + 1)

    async def _until_mirrored(self) -> None:
        while self._as_items(copied(self._mirror)) != self.world.journal.items:
            assert self.run.process.returncode is None, (self._folder / "program.log").read_text()
            await asyncio.sleep(0.02)  # Nobody tells of a file that another process replaces.

    def _as_items(self, held: Mapping[str, str]) -> dict[Item, str]:
        return {Item(*json.loads(key)): self.world.backend.content_of(item) for key, item in held.items()}

    def _events(self) -> list[Json]:
        """Everything that the runs were told, in order."""
        return [event for run in self._runs for event in run.events]

    @property
    def _mirror(self) -> Path:
        return self._folder / "mirror.json"

    def _collection(self) -> str:
        if self._world is None:
            return "main/documents"
        return f"{CONNECTION}/{self.world.backend.address(CONNECTION).collection}"

    async def _step_expect(self, wanted: Json) -> None:
        for what, value in wanted.items():
            got = self._facts()[what.removesuffix("_at_least").removesuffix("_at_most")]()
            if what.endswith("_at_least") and isinstance(value, list):
                assert len(got) >= len(value), f"{what}: {got}"
                assert all(one >= least for one, least in zip(got, value, strict=False)), f"{what}: {got}"
            elif what.endswith("_at_least"):
                assert got >= value, f"{what}: {got}"
            elif what.endswith("_at_most"):
                assert got <= value, f"{what}: {got}"
            else:
                assert got == value, f"{what}: {got}"

    def _facts(self) -> dict[str, Callable[[], Any]]:
        events = self._events()
        sent = self._scripted.arrivals
        return {
            "runs": lambda: len(self._runs),
            "events": lambda: len(events),
            "reconnects": lambda: len(self.run.reconnects),
            "connections": lambda: self._relay.connections,
            "finished_snapshots": lambda: self.run.finished_snapshots,
            "repeats": lambda: len(events) - len(self._distinct()),
            "largest_batch_bytes": lambda: max(
                sum(len(event["item"] or "") for event in delivery["events"]) for delivery in self.run.deliveries
            ),
            "ids": lambda: [event["id"] for event in events],
            "types": lambda: [event["type"] for event in events],
            "states": lambda: [event["state"] for event in events],
            "warnings": lambda: [delivery["warnings"] for delivery in self.run.deliveries],
            "last_token": lambda: self.run.deliveries[-1]["token"],
            "starts": lambda: [
                r.start_position.continuation_token or r.start_position.WhichOneof("start")
                for r in self._scripted.requests[: len(self._scenario.scripts)]
            ],
            "pauses_ms": lambda: [(b - a) * 1_000 for a, b in pairwise(sent)],
            "authorizations": lambda: self._scripted.authorizations[: len(self._scenario.scripts)],
        }

    async def _step_expect_items(self, texts: list[str]) -> None:
        """Every number as it was written, digit for digit in value."""
        got = [event["item"] for event in self.run.events]
        assert [_exact(text) for text in got] == [_exact(text) for text in texts], got

    # --- The whole

    def _distinct(self) -> dict[str, Json]:
        first: dict[str, Json] = {}
        for event in self._events():
            first.setdefault(event["id"], event)
        return first

    def _check_changes(self) -> None:
        """Everything that was told is what was committed, each item's changes in their order (P1, P2, P3)."""
        got: dict[Item, list[Json]] = defaultdict(list)
        distinct = self._distinct()
        for event in self._events():
            assert event == distinct[event["id"]], "an event came again as another one"
        for event in distinct.values():
            components = [change_event_pb2.KeyComponent(value=value) for value in event["key"]]
            got[self.world.backend.item_of(change_event_pb2.Key(components=components))].append(event)
        for item, events in got.items():
            committed = [commit for commit in self.world.journal.commits if commit.item == item]
            if self._has_snapshot:
                contents = {commit.content for commit in committed}
                assert contents >= {self._as_commit(item, event).content for event in events}, item
            else:
                assert [self._as_commit(item, event) for event in events] == committed[: len(events)], item

    @property
    def _has_snapshot(self) -> bool:
        """Whether items came that were there: what they became before is not told, and `equal` holds the whole."""
        return any(event["type"] == change_event_pb2.CHANGE_TYPE_SNAPSHOT for event in self._events())

    def _as_commit(self, item: Item, event: Json) -> Commit:
        content = None if event["item"] is None else self.world.backend.content_of(event["item"])
        return Commit(item, content, created=event["type"] == change_event_pb2.CHANGE_TYPE_CREATE)


def _exact(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)
