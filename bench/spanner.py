"""Cloud Spanner's emulator: draining, and from a commit to the handler, beside the bare SDK in the same run.

The emulator looks for news every 100 ms, which would hide what is measured: this one looks every 25 ms. More often it
would do little else.
"""

import argparse
import asyncio
import logging
import os
import socket
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import quantiles
from typing import Any

os.environ.setdefault("SPANNER_DISABLE_BUILTIN_METRICS", "true")

import structlog
from google.auth.credentials import AnonymousCredentials
from google.cloud.spanner_v1 import AsyncClient, param_types

from bench.figures import median, spread
from changefeed.v1 import position_pb2, read_changes_pb2, resource_pb2
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import Address
from tests.conformance.client import NOW, Client, wire_address
from tests.gateway import TOKEN_KEY, RunningGateway
from tests.spanner.emulator import HOST_VARIABLE, MISSING, Emulator, find_program, running_emulator
from tests.spanner.gateway import make_provider
from tests.spanner.writing import Writer, put

DDL = (
    "CREATE TABLE things (id INT64, text STRING(MAX)) PRIMARY KEY (id)",
    "CREATE CHANGE STREAM changes FOR things OPTIONS (value_capture_type = 'NEW_ROW')",
)
SQL = "SELECT ChangeRecord FROM READ_changes(@start, @end, @token, @heartbeat, NULL)"
TYPES = {
    "start": param_types.TIMESTAMP,
    "end": param_types.TIMESTAMP,
    "token": param_types.STRING,
    "heartbeat": param_types.INT64,
}
_TEXT = "x" * 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--commits", type=int, default=200)


def run(options: argparse.Namespace) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> None:
    async with _eager_emulator(), running_emulator(churn=False) as emulator, _Bench.opened(emulator) as bench:
        await bench.fill(options.records)
        rounds = [(await bench.drain_bare(), await bench.drain_gateway()) for _ in range(options.rounds)]
        bare, ours = [list(column) for column in zip(*rounds, strict=True)]
        ratio = median([b / g for b, g in rounds])
        print(
            f"{options.records} records: bare SDK {options.records / median(bare):,.0f}/s, gateway"
            f" {options.records / median(ours):,.0f}/s, ratio {ratio:.2f}"
            f" (spread {spread(bare):.0%} and {spread(ours):.0%})"
        )
        latencies = await bench.latencies(options.commits)
        for name, seconds in latencies.items():
            cuts = quantiles(seconds, n=100)
            print(f"commit to handler, {name}: p50 {cuts[49] * 1e3:.1f} ms, p99 {cuts[98] * 1e3:.1f} ms")


@asynccontextmanager
async def _eager_emulator() -> AsyncIterator[None]:
    program = find_program()
    if program is None:
        raise SystemExit(MISSING)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        program,
        f"--host_port={host}",
        "--enable_change_stream_churning=false",
        "--change_streams_partition_query_chop_interval=25ms",
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    os.environ[HOST_VARIABLE] = host
    try:
        yield
    finally:
        process.kill()
        await process.wait()


class _Bench:
    """A database, the bare SDK's client of it, and a gateway."""

    def __init__(self, emulator: Emulator, path: str, database: Any, gateway: RunningGateway, writer: Writer) -> None:
        self._emulator, self._path, self._database = emulator, path, database
        self._gateway, self._writer = gateway, writer
        self._count = 0
        self._start = ""

    @classmethod
    @asynccontextmanager
    async def opened(cls, emulator: Emulator) -> AsyncIterator["_Bench"]:
        path = await emulator.create_database("bench", DDL)
        client = AsyncClient(project=emulator.project, credentials=AnonymousCredentials())  # type: ignore[no-untyped-call]
        database = await client.instance(emulator.instance).database("bench")  # type: ignore[no-untyped-call]
        provider = make_provider(path, emulator.host)
        gateway = await RunningGateway.start({"main": provider}, limits=Limits(), keys=(TOKEN_KEY,))
        writer = Writer(emulator.host, path)
        try:
            yield cls(emulator, path, database, gateway, writer)
        finally:
            await gateway.kill()
            await writer.close()

    # --- Draining

    async def fill(self, count: int) -> None:
        self._start = await self._now()
        for low in range(0, count, 500):
            rows = [[str(number), _TEXT] for number in range(low, min(count, low + 500))]
            await self._writer.commit(put("things", ["id", "text"], *rows))
        self._count = count

    async def drain_bare(self) -> float:
        """Seconds that the SDK needs by itself, all partitions at once."""
        started, end = time.perf_counter(), await self._now()

        async def drain(token: str) -> int:
            seen = 0
            async for row in self._query(self._start, end, token):
                for change in row[0]:
                    seen += sum(len(record[6]) for record in change[0])
            return seen

        counts = await asyncio.gather(*(drain(token) for token in await self._partitions()))
        assert sum(counts) == self._count
        return time.perf_counter() - started

    async def drain_gateway(self) -> float:
        """Seconds to read it all through gRPC pages of the entire collection."""
        started, seen = time.perf_counter(), 0
        start = position_pb2.StartPosition(beginning=position_pb2.Beginning())
        while True:
            page = await self._gateway.stub.ReadChanges(
                read_changes_pb2.ReadChangesRequest(
                    address=resource_pb2.ResourceAddress(connection="main", collection="things"),
                    start_position=start,
                    max_page_size=5_000,
                )
            )
            seen += len(page.events)
            if not page.more_available:
                assert seen == self._count
                return time.perf_counter() - started
            start = position_pb2.StartPosition(continuation_token=page.continuation_token)

    # --- Latency

    async def latencies(self, commits: int) -> dict[str, list[float]]:
        """Seconds from each commit's answer to each of two handlers, which listen at the same time."""
        found: dict[str, list[float]] = {"bare SDK": [], "gateway": []}
        committed: dict[str, float] = {}
        heard = {name: asyncio.Event() for name in found}
        now = await self._now()

        def handle(name: str, key: str) -> None:
            if key in committed:
                found[name].append(time.perf_counter() - committed[key])
                heard[name].set()

        async def bare(token: str) -> None:
            async for row in self._query(now, None, token):
                for change in row[0]:
                    for record in change[0]:
                        for mod in record[6]:
                            handle("bare SDK", str(mod[0]["id"]))

        listening = [asyncio.create_task(bare(token)) for token in await self._partitions()]
        address = Address(connection="main", database="", collection="things")
        async with Client(self._gateway.stub, wire_address(address)).subscribe(NOW) as stream:
            await stream.until_live()

            async def gateway() -> None:
                while True:
                    message = await stream.next()
                    assert message is not None
                    for event in message.batch.events:
                        handle("gateway", event.key.partition_key)

            listening.append(asyncio.create_task(gateway()))
            for number in range(commits):
                key = str(1_000_000 + number)
                for event in heard.values():
                    event.clear()
                committed[key] = time.perf_counter()
                await self._writer.commit(put("things", ["id", "text"], [key, _TEXT]))
                await asyncio.gather(*(event.wait() for event in heard.values()))
            for task in listening:
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)
        return found

    # --- The bare SDK

    async def _now(self) -> Any:
        async with self._database.snapshot() as snapshot:
            async for row in await snapshot.execute_sql("SELECT CURRENT_TIMESTAMP()"):
                return row[0]

    async def _partitions(self) -> list[str]:
        tokens: list[str] = []
        start = await self._now()
        async for row in self._query(start, start, None):
            for change in row[0]:
                tokens += [child[0] for record in change[2] for child in record[2]]
        return tokens

    async def _query(self, start: Any, end: Any, token: str | None) -> AsyncIterator[Any]:
        values = {"start": start, "end": end, "token": token, "heartbeat": 1_000}
        async with self._database.snapshot() as snapshot:
            async for row in await snapshot.execute_sql(SQL, params=values, param_types=TYPES):
                yield row
