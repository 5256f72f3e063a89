"""Cosmos DB: draining ranges beside the bare SDK on the same data, an idle stream's calls, one hot range of many."""

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from azure.cosmos.aio import ContainerProxy, CosmosClient

from bench.figures import median, spread
from bench.processes import run_worker
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import Address
from changefeed_gateway.providers.cosmos.provider import CosmosOptions, CosmosProvider
from changefeed_gateway.providers.cosmos.sdk import Endpoint
from tests.conformance.client import NOW, Client, wire_address
from tests.gateway import TOKEN_KEY, RunningGateway

_AT_ONCE = 8
"""Ranges that both sides read at once."""
_PAGE = 1_000
_MODE: Final = "AllVersionsAndDeletes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranges", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--changes", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle-seconds", type=float, default=60.0)
    parser.add_argument("--hot-changes", type=int, default=100)
    parser.add_argument("--parts", default="dih", help="which of d (drain), i (idle), h (hot); default dih")


def run(options: argparse.Namespace) -> None:
    for ranges in options.ranges if "d" in options.parts else ():
        with serving(ranges) as server:
            asyncio.run(_drain(server, ranges, options.changes, options.rounds))
    if "i" in options.parts:
        with serving(16) as server:
            asyncio.run(_idle(server, options.idle_seconds))
    for ranges in (1, 16) if "h" in options.parts else ():
        with serving(ranges) as server:
            asyncio.run(_hot(server, ranges, options.hot_changes))


@dataclass(frozen=True)
class Server:
    """The wire-level server, in a process of its own."""

    url: str
    key: str
    database: str
    container: str
    process: subprocess.Popen[str]

    def ask(self, command: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"command": command, "arguments": arguments}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@contextmanager
def serving(ranges: int) -> Iterator[Server]:
    command = [sys.executable, "-m", "tests.cosmos.server", "--ranges", str(ranges)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        yield Server(said["url"], said["key"], said["database"], said["container"], process)
        process.stdin.close()


@asynccontextmanager
async def bare(server: Server) -> AsyncIterator[ContainerProxy]:
    async with CosmosClient(server.url, server.key) as client:
        yield client.get_database_client(server.database).get_container_client(server.container)


@asynccontextmanager
async def gateway(server: Server) -> AsyncIterator[RunningGateway]:
    endpoint = Endpoint(url=server.url, key=server.key)
    provider = CosmosProvider(CosmosOptions(endpoint=endpoint, database=server.database))
    await provider.start()
    running = await RunningGateway.start({"main": provider}, limits=Limits(), keys=(TOKEN_KEY,))
    try:
        yield running
    finally:
        await running.kill()


def _client(server: Server, running: RunningGateway) -> Client:
    return Client(running.stub, wire_address(Address(connection="main", database="", collection=server.container)))


# --- Draining


async def _drain(server: Server, ranges: int, changes: int, rounds: int) -> None:
    async with bare(server) as container, gateway(server) as running:
        tokens = [await _now(container, found) async for found in container.read_feed_ranges()]
        start = (await _client(server, running).resolve(NOW)).continuation_token
        server.ask("upsert_many", server.container, changes, 10_000, 200)
        await _drain_bare(container, tokens, changes)
        # As in a gateway's process.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        job = {"target": running.target, "collection": server.container, "events": changes, "token": start}
        systems: dict[str, Callable[[], Awaitable[float]]] = {
            "bare SDK": lambda: _drain_bare(container, tokens, changes),
            "ReadChanges 5000": lambda: _drain_gateway("drain.read", job | {"page_size": 5_000}),
            "Subscribe": lambda: _drain_gateway("drain.subscribe", job),
        }
        rounds_of: dict[str, list[_Round]] = {name: [] for name in systems}
        for _ in range(rounds):
            for name, drain in systems.items():
                before = time.process_time()
                seconds = await drain()
                rounds_of[name].append(_Round(seconds, time.process_time() - before))
    bare_rounds = rounds_of["bare SDK"]
    for name, measured in rounds_of.items():
        rates, costs = [changes / each.seconds for each in measured], [each.cpu / changes * 1e6 for each in measured]
        ratio = median([bare.seconds / own.seconds for bare, own in zip(bare_rounds, measured, strict=True)])
        print(
            f"{ranges} ranges, {changes} changes, {name}: {median(rates):,.0f}/s (spread {spread(rates):.0%}), ratio"
            f" {ratio:.2f}; processor time a change: {min(costs):.1f} us at least, {median(costs):.1f} us in the median"
        )


class _Round(NamedTuple):
    seconds: float
    cpu: float
    """Of the process that holds the SDK: the loop around it, or the gateway."""


async def _now(container: ContainerProxy, feed_range: dict[str, Any]) -> str:
    """A continuation of one range, which the SDK tells with an empty page to nobody but its hook."""
    told: list[Mapping[str, Any]] = []

    def hook(headers: Mapping[str, Any], _: dict[str, Any]) -> None:
        told.append(headers)

    feed = container.query_items_change_feed(mode=_MODE, start_time="Now", feed_range=feed_range, response_hook=hook)
    assert not [each async for each in feed]
    found: str = told[-1]["etag"]
    return found


async def _drain_bare(container: ContainerProxy, tokens: list[str], changes: int) -> float:
    """Seconds that the SDK needs by itself, with as many ranges at once."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def drain(token: str) -> int:
        async with gate:
            pages = container.query_items_change_feed(continuation=token, max_item_count=_PAGE).by_page()
            seen = 0
            async for page in pages:
                seen += len([each async for each in page])
            return seen

    started = time.perf_counter()
    assert sum(await asyncio.gather(*map(drain, tokens))) == changes
    return time.perf_counter() - started


async def _drain_gateway(worker: str, job: Mapping[str, object]) -> float:
    """Seconds until a client, a process of its own, has parsed it all."""
    answer = await asyncio.to_thread(run_worker, worker, job)
    assert answer["events"] == job["events"]
    return float(answer["seconds"])


# --- Idle, and nearly so


async def _idle(server: Server, seconds: float) -> None:
    """What the service gets from one live stream where nothing happens."""
    async with gateway(server) as running, _client(server, running).subscribe(NOW) as stream:
        await stream.until_live()
        await asyncio.sleep(15)
        server.ask("clear")
        await asyncio.sleep(seconds)
        calls, units = sum(server.ask("counts").values()), server.ask("request_units")
    print(
        f"idle, one stream, 16 ranges: {calls / seconds:.1f} calls and {units / seconds:.1f} request units a second,"
        f" {calls / seconds / 16:.2f} calls a range"
    )


async def _hot(server: Server, ranges: int, changes: int) -> None:
    """How old a change is when a stream brings it, where one range is written ten times a second."""
    ages = []
    async with gateway(server) as running, _client(server, running).subscribe(NOW) as stream:
        await stream.until_live()
        for number in range(1, changes + 1):
            began = time.perf_counter()
            server.ask("upsert", server.container, {"id": f"{number}", "pk": "hot", "text": "x" * 200})
            await stream.until_events(number)
            ages.append(time.perf_counter() - began)
            await asyncio.sleep(0.1)
    ages.sort()
    print(f"one hot range of {ranges}: p50 {median(ages) * 1e3:.0f} ms, p95 {ages[len(ages) * 95 // 100] * 1e3:.0f} ms")
