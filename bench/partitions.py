"""Draining one sparse physical partition beside the whole feed: what it costs in proportion to its own changes."""

import argparse
import asyncio
import time
from typing import Final

from bench.core import private_directory
from bench.database import LIVE_TICK_SECONDS, Database
from bench.figures import median, spread
from bench.report import Report
from changefeed.v1.position_pb2 import Beginning, StartPosition
from changefeed.v1.read_changes_pb2 import ReadChangesRequest
from changefeed.v1.resource_pb2 import FeedScope, ResourceAddress
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.providers.postgres.provider import PostgresProvider
from tests.gateway import RunningGateway

_TABLE: Final = "public.sparse"
_ROWS: Final = 10_000
_SPARSE_BUCKETS: Final = 3
"""Of 256: 1.2 % of the keys."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench partitions`."""
    parser.add_argument("--changes", type=int, default=300_000, help="single-row transactions; default 300000")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is drained; default 5")
    parser.add_argument("--quick", action="store_true", help="20000 changes, one round: no figures to quote")


def run(options: argparse.Namespace) -> None:
    """Measure: the whole feed, one sparse partition, a quarter of the buckets."""
    report = Report("partitions", quick=options.quick)
    changes, rounds = (20_000, 1) if options.quick else (options.changes, options.rounds)
    with private_directory() as directory, Database(directory) as database:
        report.environment(database)
        database.make_orders(_TABLE, _ROWS)
        database.fetch("SELECT changefeed.watch(%s)", (_TABLE,))
        sparse, rest = _split(database, "0-4095", _SPARSE_BUCKETS)
        quarter, _ = _split(database, rest, _SPARSE_BUCKETS + 64)
        with database.ticks(LIVE_TICK_SECONDS):
            database.update_orders(_TABLE, clients=8, rows=_ROWS, transactions=changes)
        database.settle()
        drained = asyncio.run(_drain(database.dsn, {"whole feed": "", "sparse": sparse, "a quarter": quarter}, rounds))
    whole = median([seconds / events for events, seconds in drained["whole feed"]])
    rows = []
    for name, runs in drained.items():
        each = [seconds / events for events, seconds in runs]
        for events, seconds in runs:
            report.record("partition drain", {"what": name, "events": events, "seconds": seconds})
        rows.append(
            [name, f"{runs[0][0]:,}", f"{1e6 * median(each):.1f}", f"{median(each) / whole:.2f}", f"{spread(each):.0%}"]
        )
    report.table(
        "ReadChanges, 1000 a page, from the beginning",
        ["", "events", "us an event", "of the whole feed's", "spread"],
        rows,
    )
    report.say(f"every figure: {report.file}")


def _split(database: Database, partition_id: str, first_bucket: int) -> list[str]:
    statement = "SELECT partition_id FROM changefeed.split_partition(%s, %s, %s::int)"
    return [str(row[0]) for row in database.fetch(statement, (_TABLE, partition_id, first_bucket))]


async def _drain(dsn: str, partitions: dict[str, str], rounds: int) -> dict[str, list[tuple[int, float]]]:
    """Events and seconds of each drain; a partition without a name is the entire collection."""
    gateway = await RunningGateway.start({"main": PostgresProvider(dsn)}, limits=Limits())
    try:
        drained: dict[str, list[tuple[int, float]]] = {name: [] for name in partitions}
        for _ in range(rounds):
            for name, partition_id in partitions.items():
                begin = time.perf_counter()
                events = await _read_all(
                    gateway, FeedScope(physical_partition_id=partition_id) if partition_id else None
                )
                drained[name].append((events, time.perf_counter() - begin))
        return drained
    finally:
        await gateway.kill()


async def _read_all(gateway: RunningGateway, scope: FeedScope | None) -> int:
    start, events = StartPosition(beginning=Beginning()), 0
    while True:
        page = await gateway.stub.ReadChanges(
            ReadChangesRequest(
                address=ResourceAddress(connection="main", collection=_TABLE),
                scope=scope,
                start_position=start,
                max_page_size=1000,
            )
        )
        events += len(page.events)
        if not page.more_available:
            return events
        start = StartPosition(continuation_token=page.continuation_token)
