"""Many subscribers, and slow and dead ones beside a fast one."""

import argparse
import time
from typing import Final

from bench.core import private_directory
from bench.database import Database
from bench.drain import ORDERS, prepare_orders
from bench.figures import median
from bench.gateway import Gateway
from bench.latency import sleep_until
from bench.processes import Answer, Worker, run_worker
from bench.report import Report

TABLE: Final = "public.fanned"
_CONNECTIONS: Final = 10
_SLOW_PAUSE_SECONDS: Final = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench fanout`."""
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--rate", type=int, default=50, help="changes a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--events", type=int, default=100_000, help="stored changes for the slow and dead readers")
    parser.add_argument("--quick", action="store_true", help="short runs: no figures to quote")


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    if options.quick:
        options.streams, options.seconds, options.events = 100, 4.0, 20_000
    report = Report("fanout", quick=options.quick)
    with private_directory() as directory, Database(directory) as database:
        report.environment(database)
        database.make_orders(TABLE)
        database.fetch("SELECT changefeed.watch(%s)", (TABLE,))
        _fan_out(database, report, options)
        prepare_orders(database, report, options.events)
        _slow_and_dead(database, report, options.events)
    report.say(f"every figure: {report.file}")


def _fan_out(database: Database, report: Report, options: argparse.Namespace) -> None:
    with Gateway(database.directory, database.dsn, limits={"peer_stream_share": 1}) as gateway:
        run_worker("drain.touch", {"target": gateway.target, "collection": TABLE})
        before = gateway.rss_mb()
        job = {"target": gateway.target, "collection": TABLE, "streams": options.streams, "connections": _CONNECTIONS}
        with Worker("fan.listen", job) as listener, _writer(database, options.rate, options.seconds) as writer:
            for worker in (listener, writer):
                worker.await_ready()
            idle = gateway.rss_mb()
            begin_at = time.time() + 0.5
            for worker in (listener, writer):
                worker.go(begin_at)
            sleep_until(begin_at)
            reads, cpu, server = _log_reads(database), gateway.cpu(), database.cpu()
            sleep_until(begin_at + options.seconds)
            cores, server_cores = cpu.seconds() / options.seconds, server.seconds() / options.seconds
            written = writer.answer()
            time.sleep(2.0)
            reads = _log_reads(database) - reads
            listener.finish()
            heard = listener.answer()
        answer = {
            **heard,
            "streams": options.streams,
            "writes": written["writes"],
            "gateway_cores": cores,
            "server_cores": server_cores,
            "client_cores": heard["client_cpu"] / heard["seconds"],
            "kb_a_stream": (idle - before) * 1024 / options.streams,
            "log_reads_an_event": reads / written["writes"],
            "peak_rss_mb": gateway.peak_rss_mb(),
        }
    report.record("fan-out", answer)
    _print_fan_out(report, answer, options.seconds)


def _writer(database: Database, rate: int, seconds: float) -> Worker:
    job = {
        "dsn": database.dsn,
        "table": TABLE,
        "rows": 1_000,
        "first_row": 1,
        "interval": 1 / rate,
        "delay": 0.0,
        "warm_up": 0.0,
        "seconds": seconds,
    }
    return Worker("latency.write", job)


def _log_reads(database: Database) -> int:
    """How often the log has been read: a read opens every day, so the day that was opened most often counts."""
    log = database.log_of(TABLE).removeprefix("changefeed_log.")
    ((reads,),) = database.fetch(
        "SELECT max(idx_scan + seq_scan) FROM pg_stat_user_tables WHERE relname ~ %s", (f"^{log}_[0-9]{{8}}$",)
    )
    return int(reads)


def _print_fan_out(report: Report, answer: Answer, seconds: float) -> None:
    expected = answer["writes"] * answer["streams"]
    rate = answer["deliveries"] / seconds
    rows = [
        ["delivered of expected", f"{answer['deliveries']:,} of {expected:,}"],
        ["deliveries/s", f"{rate:,.0f}"],
        ["deliveries/s a gateway core", f"{rate / answer['gateway_cores']:,.0f}"],
        ["age at delivery p50 / p99 / max, ms", " / ".join(f"{answer[name]:.0f}" for name in ("p50", "p99", "max"))],
        [
            "cores: gateway, server, clients",
            ", ".join(f"{answer[name]:.2f}" for name in ("gateway_cores", "server_cores", "client_cores")),
        ],
        ["gateway memory a stream, KB", f"{answer['kb_a_stream']:.0f}"],
        ["gateway peak memory, MB", f"{answer['peak_rss_mb']:.0f}"],
        ["reads of the log an event", f"{answer['log_reads_an_event']:.2f}"],
        ["streams that ended", f"{answer['closed_streams']}"],
    ]
    report.table(f"{answer['streams']} subscribers of one feed for {seconds:.0f} s", ["", ""], rows)


def _slow_and_dead(database: Database, report: Report, events: int) -> None:
    with Gateway(database.directory, database.dsn) as gateway:
        job = {"target": gateway.target, "collection": ORDERS, "events": events}
        alone = [run_worker("drain.subscribe", job) for _ in range(3)]
        alone_peak = gateway.peak_rss_mb()
        gateway.reset_peak_rss()
        slow = Worker("drain.subscribe", {**job, "pause": _SLOW_PAUSE_SECONDS})
        dead = Worker("fan.dead", {"target": gateway.target, "collection": ORDERS, "streams": 20})
        with slow, dead:
            for worker in (slow, dead):
                worker.await_ready()
                worker.go()
            time.sleep(2.0)
            beside = [run_worker("drain.subscribe", job) for _ in range(3)]
            dead.finish()
            starved = dead.answer()
        beside_peak = gateway.peak_rss_mb()
    rows = [
        ["alone", f"{_rate(alone):,.0f}", f"{alone_peak:.0f}"],
        ["beside one slow and 20 dead readers", f"{_rate(beside):,.0f}", f"{beside_peak:.0f}"],
    ]
    values = {"alone": _rate(alone), "beside": _rate(beside), "alone_peak": alone_peak, "beside_peak": beside_peak}
    report.record("slow and dead", {**values, "dead": starved})
    report.table(
        f"A fast reader of {events:,} stored changes",
        ["", "events/s", "gateway peak MB"],
        rows,
        f"The dead readers took {starved['received_bytes'] / 1024:,.0f} KB together and gave no window back.",
    )


def _rate(answers: list[Answer]) -> float:
    return median([float(answer["events"] / answer["seconds"]) for answer in answers])
