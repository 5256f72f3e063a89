"""Thousands of huge bad tokens: the gateway's memory while it refuses them, and a stream beside them."""

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

_FEED: Final = "public.watched"
_ROWS: Final = 1_000
_RATE: Final = 50
"""Changes a second of the stream beside."""
_SECONDS: Final = 16.0
_LIMIT_MB: Final = 512
_TOKEN_CHARS: Final = (933_000, 390_000)
"""Longer than any that is looked at, and just short enough to be looked at."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench abuse`."""
    parser.add_argument("--tokens", type=int, default=2_000, help="bad tokens of each size; default 2000")
    parser.add_argument("--quick", action="store_true", help="200 tokens: no figures to quote")


def run(options: argparse.Namespace) -> None:
    """Send the tokens of each size within 16 seconds; fails above 512 MB."""
    if options.quick:
        options.tokens = 200
    report = Report("abuse", quick=options.quick)
    with private_directory() as directory, Database(directory) as database:
        report.environment(database)
        database.make_orders(_FEED, _ROWS)
        database.fetch("SELECT changefeed.watch(%s)", (_FEED,))
        others = ForeignLoad()
        answers = []
        for chars in _TOKEN_CHARS:
            with Gateway(database.directory, database.dsn) as gateway:
                answers.append(_attack(database, gateway, options.tokens, chars))
        for answer in answers:
            report.record("abuse", answer)
        report.table(
            f"{options.tokens} bad tokens within {_SECONDS:.0f} s",
            ["characters", "refused", "MB before", "MB at most", "stream p50 ms", "p99", "max", "heard of written"],
            [_row(answer) for answer in answers],
            f"Limit: {_LIMIT_MB} MB.",
            str(others),
        )
    report.say(f"every figure: {report.file}")
    if any(answer["peak_mb"] > _LIMIT_MB for answer in answers):
        raise RuntimeError(f"the gateway took more than {_LIMIT_MB} MB")


def _attack(database: Database, gateway: Gateway, tokens: int, chars: int) -> Answer:
    listen = {"target": gateway.target, "collection": _FEED, "warm_up": 0.0}
    write = {
        "dsn": database.dsn,
        "table": _FEED,
        "rows": _ROWS,
        "first_row": 1,
        "interval": 1 / _RATE,
        "delay": 0.0,
        "warm_up": 0.0,
        "seconds": _SECONDS,
    }
    send = {"target": gateway.target, "collection": _FEED, "tokens": tokens, "chars": chars, "seconds": _SECONDS}
    with ExitStack() as stack:
        listener, writer, attacker = workers = [
            Worker("latency.listen", listen),
            Worker("latency.write", write),
            Worker("abuse.send", send),
        ]
        for worker in workers:
            stack.enter_context(worker)
            worker.await_ready()
        gateway.reset_peak_rss()
        before = gateway.rss_mb()
        begin_at = time.time() + 0.2
        sleep_until(begin_at)
        for worker in reversed(workers):
            worker.go(begin_at)
        sent, written = attacker.answer(), writer.answer()
        listener.finish()
        heard = listener.answer()
    if sent["refused"] != tokens or heard["measured"] != written["writes"]:
        raise RuntimeError(f"not every token was refused, or not every change heard of: {sent} {written} {heard}")
    return {"chars": chars, **sent, **written, **heard, "before_mb": before, "peak_mb": gateway.peak_rss_mb()}


def _row(answer: Answer) -> list[str]:
    return [
        f"{answer['chars']:,}",
        f"{answer['refused']} in {answer['attack_seconds']:.1f} s",
        *(f"{answer[key]:.0f}" for key in ("before_mb", "peak_mb")),
        *(f"{answer[key]:.1f}" for key in ("p50", "p99", "max")),
        f"{answer['measured']} of {answer['writes']}",
    ]
