"""One transaction of millions of rows: the gateway's memory during its drain, and another feed's stream beside it."""

import argparse
import time
from contextlib import ExitStack
from typing import Final

from bench.core import private_directory
from bench.database import Database
from bench.gateway import Gateway
from bench.latency import sleep_until
from bench.processes import Answer, ForeignLoad, Worker
from bench.report import Report

_LARGE: Final = "public.large"
_OTHER: Final = "public.other"
_OTHER_ROWS: Final = 1_000
_RATE: Final = 50
"""Changes a second of the other feed."""
_AIM_MB: Final = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench large`."""
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of the transaction; default 5,000,000")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the other stream is measured; default 20")
    parser.add_argument("--quick", action="store_true", help="500,000 rows: no figures to quote")


def run(options: argparse.Namespace) -> None:
    """Measure the other stream alone, then beside the drain."""
    if options.quick:
        options.rows, options.seconds = 500_000, 4.0
    report = Report("large", quick=options.quick)
    with private_directory() as directory, Database(directory) as database:
        report.environment(database)
        database.make_orders(_OTHER, _OTHER_ROWS)
        database.make_orders(_LARGE, 0)
        for feed in (_OTHER, _LARGE):
            database.fetch("SELECT changefeed.watch(%s)", (feed,))
        _fill(database, report, options.rows)
        others = ForeignLoad()
        with Gateway(database.directory, database.dsn) as gateway:
            alone = _beside(database, gateway, options.seconds, drained=0)
            gateway.reset_peak_rss()
            before = gateway.rss_mb()
            beside = _beside(database, gateway, options.seconds, drained=options.rows)
            beside |= {"before_mb": before, "peak_mb": gateway.peak_rss_mb()}
        for name, answer in (("alone", alone), ("beside", beside)):
            report.record("large", {"what": name, "rows": options.rows, **answer})
        _print(report, options.rows, alone, beside, others)
    report.say(f"every figure: {report.file}")


def _fill(database: Database, report: Report, rows: int) -> None:
    """One transaction, by one statement."""
    began = time.perf_counter()
    database.fetch(
        f"INSERT INTO {_LARGE} SELECT n, 'customer-' || n, 'shipped', n * 1.25, 'EUR', 3, n,"
        f" substr(repeat(md5(n::text), 5), 1, 134), now() FROM generate_series(1, {rows:d}) n"
    )
    report.say(f"{rows:,} rows by one statement in {time.perf_counter() - began:.0f} s")
    database.settle()


def _beside(database: Database, gateway: Gateway, seconds: float, drained: int) -> Answer:
    """The ages of another feed's changes, while the large transaction is drained if it is."""
    listen = {"target": gateway.target, "collection": _OTHER, "warm_up": 0.0}
    write = {
        "dsn": database.dsn,
        "table": _OTHER,
        "rows": _OTHER_ROWS,
        "first_row": 1,
        "interval": 1 / _RATE,
        "delay": 0.0,
        "warm_up": 0.0,
        "seconds": seconds,
    }
    with ExitStack() as stack:
        workers = [Worker("latency.listen", listen), Worker("latency.write", write)]
        if drained:
            workers.append(
                Worker("drain.subscribe", {"target": gateway.target, "collection": _LARGE, "events": drained})
            )
        for worker in workers:
            stack.enter_context(worker)
            worker.await_ready()
        begin_at = time.time() + 0.2
        sleep_until(begin_at)
        for worker in reversed(workers):
            worker.go(begin_at)
        written = workers[1].answer()
        workers[0].finish()
        heard = workers[0].answer()
        answer = {"writes": written["writes"], **heard}
        if drained:
            drain = workers[2].answer()
            if drain["events"] != drained:
                raise RuntimeError(f"{drain['events']} of {drained} events arrived")
            answer["drain_seconds"] = drain["seconds"]
    return answer


def _print(report: Report, rows: int, alone: Answer, beside: Answer, others: ForeignLoad) -> None:
    report.table(
        f"{rows:,} rows in one transaction, drained by one subscriber in {beside['drain_seconds']:.0f} s",
        ["another feed's stream", "p50 ms", "p99", "max", "heard of written"],
        [
            [
                name,
                *(f"{answer[key]:.1f}" for key in ("p50", "p99", "max")),
                f"{answer['measured']} of {answer['writes']}",
            ]
            for name, answer in (("alone", alone), ("beside the drain", beside))
        ],
        f"Gateway's memory: {beside['before_mb']:.0f} MB before, at most {beside['peak_mb']:.0f} MB; aim {_AIM_MB} MB.",
        str(others),
    )
