"""How long one page over many partitions keeps the event loop: the longest stall while a stream reads them."""

import argparse
import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime

from bench.report import Report
from changefeed_gateway.api.wire.encode import subscribe_response
from changefeed_gateway.api.wire.records import encode_changes
from changefeed_gateway.core.answer import Batch, SubscribeRequest
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import (
    Address,
    After,
    Beginning,
    Capability,
    CapabilityName,
    Change,
    ChangeType,
    Cursor,
    Feed,
    ItemState,
    Key,
    KeyComponent,
    Page,
    PageRead,
    Partition,
    PartitionId,
    PhysicalPartition,
    Start,
)
from changefeed_gateway.core.router import Router
from changefeed_gateway.core.token import TokenCodec, TokenKey

_SHAPES = [(1, 300), (100, 300), (1_000, 300), (256, 4_000), (1_000, 4_000)]
"""Partitions, and bytes of an item."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench joined`."""
    parser.add_argument("--changes", type=int, default=10_000, help="changes of each collection; default 10000")
    parser.add_argument("--page", type=int, default=1_000, help="changes of a batch; default 1000")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is read; the longest stall counts")
    parser.add_argument("--quick", action="store_true", help="one round: no figures to quote")


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    report = Report("joined", quick=options.quick)
    rows = []
    for partitions, item_bytes in _SHAPES:
        stalls, works, seconds = [], [], []
        for _ in range(1 if options.quick else options.rounds):
            stall, work, took = asyncio.run(_read(partitions, item_bytes, options.changes, options.page))
            stalls.append(stall)
            works.append(work)
            seconds.append(took)
        report.record("joined", {"partitions": partitions, "item_bytes": item_bytes, "stall": stalls, "work": works})
        rows.append(
            [
                f"{partitions:,} partitions, items of {item_bytes:,} bytes",
                f"{1e3 * min(stalls):.0f}",
                f"{1e3 * max(stalls):.0f}",
                f"{1e3 * min(works):.0f}",
                f"{options.changes / min(seconds):,.0f}",
            ]
        )
    report.table(
        f"Subscribe, {options.page} a batch, entire collection",
        ["", "longest stall, best round, ms", "worst round, ms", "of it at work, ms", "events/s"],
        rows,
        "At work: processor time of this process within one turn of the loop; what other processes took is not in it.",
    )
    report.say(f"every figure: {report.file}")


class _Partitions:
    """A provider of many partitions in memory, each a list of changes; costs next to nothing itself."""

    provider_id = "bench"

    def __init__(self, partitions: int, item_bytes: int, changes: int) -> None:
        item = json.dumps({"text": "x" * item_bytes})
        self._logs: dict[PartitionId, list[Change]] = {
            PartitionId(f"shardId-{number:020}"): [] for number in range(partitions)
        }
        for number in range(changes):
            partition_id = PartitionId(f"shardId-{number % partitions:020}")
            log = self._logs[partition_id]
            key = Key(f"group {number}", (KeyComponent("id", f"group {number}"),))
            at = datetime(2026, 11, 29, tzinfo=UTC)
            log.append(
                Change(
                    f"e-{number}", ChangeType.UPDATE, key, ItemState.INCLUDED, item, at, partition_id, str(len(log) + 1)
                )
            )

    async def start(self) -> None:
        """Nothing to start."""

    async def ping(self) -> None:
        """Nothing that could fail."""

    async def open_feed(self, address: Address) -> Feed:
        """Always the same."""
        supported = tuple(Capability(name=name, supported=True) for name in CapabilityName)
        return Feed(
            address=address,
            provider_id=self.provider_id,
            incarnation="1",
            capabilities=supported,
            item_state=ItemState.INCLUDED,
            single_order=False,
        )

    async def list_partitions(self, feed: Feed, start: Start | None = None) -> Sequence[Partition]:
        """All of them."""
        return [Partition(partition_id=partition_id) for partition_id in self._logs]

    async def read_page(self, feed: Feed, read: PageRead) -> Page:
        """What fits, at once; nothing is ever new."""
        assert isinstance(read.scope, PhysicalPartition)
        log = self._logs[read.scope.partition_id]
        start = int(read.start.cursor) if isinstance(read.start, After) else 0
        # Every real provider lets go of the loop while it reads.
        await asyncio.sleep(read.max_wait.total_seconds() if start == len(log) else 0)
        fits = max(1, read.max_bytes // len(log[0].item or "x")) if log else 1
        end = min(len(log), start + min(read.max_changes, fits))
        return Page(
            changes=log[start:end],
            cursors=[_cursor(number + 1) for number in range(start, end)],
            start=_cursor(start),
            cursor=_cursor(end),
            more_available=end < len(log),
            expire_time=datetime(2026, 11, 30, tzinfo=UTC),
        )

    async def aclose(self) -> None:
        """Nothing to close."""


def _cursor(position: int) -> Cursor:
    return Cursor(b"%030d" % position)


async def _read(partitions: int, item_bytes: int, changes: int, page: int) -> tuple[float, float, float]:
    router = Router(
        providers={"here": _Partitions(partitions, item_bytes, changes)},
        tokens=TokenCodec([TokenKey(key_id="bench", secret=b"0123456789abcdef")]),
        limits=Limits(),
        encoder=encode_changes,
    )
    # As the gateway does: the collector looks seldom.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    request = SubscribeRequest(
        address=Address(connection="here", database="", collection="things"),
        scope=None,
        start=Beginning(),
        batch_size=page,
    )
    began, read = time.perf_counter(), 0
    async with _watched_loop() as longest:
        async with aclosing(router.subscribe(request, end_write=lambda: None)) as items:
            async for item in items:
                subscribe_response(item, sequence=1, request_id="bench")
                await asyncio.sleep(0)
                read += len(item.records) if isinstance(item, Batch) else 0
                if read >= changes:
                    break
        took = time.perf_counter() - began
    await router.aclose()
    return longest[0], longest[1], took


@asynccontextmanager
async def _watched_loop() -> AsyncIterator[list[float]]:
    """The longest time between two turns of the loop, by the clock and by this process's own processor time."""
    longest = [0.0, 0.0]

    async def watch() -> None:
        at, worked = time.perf_counter(), time.process_time()
        while True:
            await asyncio.sleep(0)
            now, works = time.perf_counter(), time.process_time()
            longest[0], longest[1] = max(longest[0], now - at), max(longest[1], works - worked)
            at, worked = now, works

    watching = asyncio.create_task(watch())
    try:
        yield longest
    finally:
        watching.cancel()
        await asyncio.wait({watching})
