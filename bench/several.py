"""Many streams of one feed, served by one process and by several."""

import argparse
import time
from typing import Final

from bench.core import private_directory
from bench.database import Database
from bench.figures import median
from bench.gateway import Gateway
from bench.latency import sleep_until
from bench.processes import Answer, ForeignLoad, Worker, run_worker
from bench.report import Report

TABLE: Final = "public.several"
_CONNECTIONS: Final = 20
"""Enough that chance gives each process about as many."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench several`."""
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--rate", type=int, default=400, help="changes a second: more than one process can deliver")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="one short round: no figures to quote")


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    if options.quick:
        options.rounds, options.seconds, options.rate = 1, 3.0, 100
    report = Report("several", quick=options.quick)
    load = ForeignLoad()
    with private_directory() as directory, Database(directory) as database:
        report.environment(database)
        database.make_orders(TABLE)
        database.fetch("SELECT changefeed.watch(%s)", (TABLE,))
        found: dict[int, list[Answer]] = {count: [] for count in options.processes}
        for _ in range(options.rounds):
            for count in options.processes:
                found[count].append(_measure(database, count, options))
    report.record("several", {str(count): answers for count, answers in found.items()})
    columns = ("a_second", "p50", "p99", "gateway_cores", "client_cores")
    report.table(
        f"{options.streams} streams of one feed, {options.rate} changes a second for {options.seconds:.0f} s",
        ["processes", "deliveries/s", "age p50, ms", "age p99, ms", "cores of the gateway", "cores of the clients"],
        [
            [str(count), *(f"{median([float(answer[name]) for answer in answers]):,.1f}" for name in columns)]
            for count, answers in found.items()
        ],
        f"Medians of {options.rounds} rounds in turn. {load}",
    )
    report.say(f"every figure: {report.file}")


def _measure(database: Database, processes: int, options: argparse.Namespace) -> Answer:
    settings = {"workers": processes}
    with Gateway(database.directory, database.dsn, limits={"peer_stream_share": 1}, settings=settings) as gateway:
        run_worker("drain.touch", {"target": gateway.target, "collection": TABLE})
        job = {"target": gateway.target, "collection": TABLE, "streams": options.streams, "connections": _CONNECTIONS}
        writes = {"dsn": database.dsn, "table": TABLE, "rows": 1_000, "first_row": 1, "interval": 1 / options.rate}
        timing = {"delay": 0.0, "warm_up": 0.0, "seconds": options.seconds}
        with Worker("fan.listen", job) as listener, Worker("latency.write", {**writes, **timing}) as writer:
            for worker in (listener, writer):
                worker.await_ready()
            begin_at = time.time() + 0.5
            for worker in (listener, writer):
                worker.go(begin_at)
            sleep_until(begin_at)
            cpu = gateway.cpu()
            sleep_until(begin_at + options.seconds)
            cores = cpu.seconds() / options.seconds
            listener.finish()
            heard = listener.answer()
            writer.answer()
    return {
        **heard,
        "a_second": heard["deliveries"] / heard["seconds"],
        "gateway_cores": cores,
        "client_cores": heard["client_cpu"] / heard["seconds"],
    }
