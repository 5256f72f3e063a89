"""How soon streams that resume all at once on a busy feed are live, and what those that were live feel of it."""

import argparse
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from bench.core import private_directory
from bench.database import Database
from bench.figures import percentile
from bench.gateway import Gateway
from bench.processes import Answer, ForeignLoad, Worker
from bench.report import Report
from bench.workers.drain import Stub, address, channel
from changefeed.v1 import position_pb2, token_pb2

_TABLE: Final = "public.reopened"
_ROWS: Final = 100
_OTHERS: Final = 20
"""Streams that are live before."""
_TOKENS: Final = 25
"""Different places from which the streams resume in the second case."""
_WARM_UP_SECONDS: Final = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench reopen`."""
    parser.add_argument("--streams", type=int, default=500, help="that resume at once; default 500")
    parser.add_argument("--rate", type=float, default=14.0, help="changes a second meanwhile; default 14")
    parser.add_argument("--missed", type=int, default=200, help="changes since the oldest token; default 200")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long they are listened to; default 20")
    parser.add_argument("--quick", action="store_true", help="50 streams, 5 s: no figures to quote")


def run(options: argparse.Namespace) -> None:
    """Resume all from one token, then from many."""
    if options.quick:
        options.streams, options.seconds = 50, 5.0
    report = Report("reopen", quick=options.quick)
    with private_directory() as directory, Database(directory) as database:
        report.environment(database)
        database.make_orders(_TABLE, _ROWS)
        database.fetch("SELECT changefeed.watch(%s)", (_TABLE,))
        others = ForeignLoad()
        answers = []
        limits = {"max_streams": 2 * options.streams, "peer_stream_share": 1}
        with Gateway(database.directory, database.dsn, limits=limits) as gateway:
            for count, what in ((1, "one token"), (_TOKENS, f"{_TOKENS} tokens")):
                # Anew for each: what the first wrote would be missed by the second as well.
                tokens = _collect(database, gateway, options.missed)[:count]
                answers.append({"from": what, **_measure(database, gateway, tokens, options)})
        for answer in answers:
            report.record("reopen", answer)
        report.table(
            f"{options.streams} streams resume at once, up to {options.missed} changes behind, at {options.rate:g} "
            f"changes/s; {_OTHERS} streams were live before",
            ["from", "live", "the last after s", "their p99 ms then", "others p50 ms", "others p99", "gateway cores"],
            [_row(answer) for answer in answers],
            "Aims for 500 streams at 14 changes/s: all live within 5 s, the others' p99 500 ms.",
            str(others),
        )
    report.say(f"every figure: {report.file}")


def _collect(database: Database, gateway: Gateway, missed: int) -> list[str]:
    """Tokens from before the missed changes and from between them."""
    stub = Stub(channel(gateway.target))
    tokens = []
    for _ in range(_TOKENS):
        request = token_pb2.ResolveStartPositionRequest(
            address=address(_TABLE), start_position=position_pb2.StartPosition(now=position_pb2.Now())
        )
        tokens.append(stub.ResolveStartPosition(request).continuation_token)
        database.update_orders(_TABLE, clients=1, rows=_ROWS, transactions=max(1, missed // _TOKENS))
    return tokens


def _measure(database: Database, gateway: Gateway, tokens: list[str], options: argparse.Namespace) -> Answer:
    job = {"target": gateway.target, "collection": _TABLE, "tokens": tokens, "streams": options.streams}
    listening = {"target": gateway.target, "collections": [_TABLE] * _OTHERS, "heartbeat": 10}
    with (
        Worker("idle.listen", listening) as before,
        Worker("reopen.listen", job) as many,
        _writing(database, options.rate),
    ):
        for worker in (before, many):
            worker.await_ready()
        before.go()
        time.sleep(_WARM_UP_SECONDS)
        cpu = gateway.cpu()
        many.go()
        time.sleep(options.seconds)
        cores = cpu.seconds() / options.seconds
        before.finish()
        heard = before.answer()
        many.finish()
        answer = many.answer()
    if heard["closed_streams"] or answer["closed_streams"]:
        raise RuntimeError(f"streams ended: {gateway.log_tail()}")
    live, ages = answer["live_s"], answer["ages_ms"]
    return {
        "streams": options.streams,
        "live": len(live),
        "last_live_s": live[-1] if live else None,
        "their_p99_ms": percentile(ages, 0.99) if ages else None,
        "others": heard,
        "gateway_cores": cores,
    }


@contextmanager
def _writing(database: Database, rate: float) -> Iterator[None]:
    """Single updates at a rate, with the clock just before each."""
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(database.dsn, autocommit=True) as connection:
            due, number = time.monotonic(), 0
            while not stop.wait(max(0.0, due - time.monotonic())):
                due, number = due + 1 / rate, number + 1
                statement = f"UPDATE {_TABLE} SET stamp = %s WHERE id = %s"
                connection.execute(statement.encode(), (time.time_ns(), number % _ROWS + 1))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _row(answer: Answer) -> list[str]:
    others = answer["others"]
    return [
        answer["from"],
        f"{answer['live']} of {answer['streams']}",
        "never" if answer["last_live_s"] is None else f"{answer['last_live_s']:.1f}",
        "" if answer["their_p99_ms"] is None else f"{answer['their_p99_ms']:.0f}",
        f"{others['p50']:.0f}",
        f"{others['p99']:.0f}",
        f"{answer['gateway_cores']:.2f}",
    ]
