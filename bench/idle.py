"""What feeds cost while nothing happens in them, and how soon a single change wakes their readers."""

import argparse
import random
import time
from collections.abc import Sequence
from typing import Final

import psycopg

from bench.core import private_directory
from bench.database import Database
from bench.gateway import Gateway
from bench.processes import Answer, ForeignLoad, Worker
from bench.report import Report

_SETTLE_SECONDS: Final = 12.0
"""PostgreSQL counts what an idle connection did with a delay of up to ten seconds."""
_LONGEST_PAUSE_SECONDS: Final = 0.6
"""Between two of the single writes."""
_HEARTBEAT_SECONDS: Final = 15
_ROWS: Final = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench idle`."""
    parser.add_argument("--feeds", type=int, default=100, help="watched tables; default 100")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long nothing happens; default 60")
    parser.add_argument("--writes", type=int, default=100, help="single writes afterwards; default 100")
    parser.add_argument("--quick", action="store_true", help="short runs: no figures to quote")


def run(options: argparse.Namespace) -> None:
    """Measure with a reader on every feed, on ten of them and on none."""
    if options.quick:
        options.seconds, options.writes = 10.0, 20
    report = Report("idle", quick=options.quick)
    feeds = [f"public.idle_{number}" for number in range(options.feeds)]
    with private_directory() as directory, Database(directory) as database:
        report.environment(database)
        for feed in feeds:
            database.make_orders(feed, _ROWS)
            database.fetch("SELECT changefeed.watch(%s)", (feed,))
        others = ForeignLoad()
        answers = [_measure(database, feeds[:count], options) for count in (len(feeds), 10, 0)]
        for answer in answers:
            report.record("idle", answer)
        report.table(
            f"{len(feeds)} watched feeds where nothing happens for {options.seconds:.0f} s, then single writes",
            [
                "feeds with a reader",
                *("gateway, % of a core", "server, % of a core", "transactions/s"),
                *("wake-up p50 ms", "p99", "max", "of writes"),
            ],
            [_row(answer) for answer in answers],
            "Aims: 2 % of a core of the gateway, 10 queries/s. Each statement of the gateway is a transaction.",
            str(others),
        )
    report.say(f"every figure: {report.file}")


def _measure(database: Database, read: Sequence[str], options: argparse.Namespace) -> Answer:
    with Gateway(database.directory, database.dsn) as gateway:
        time.sleep(_SETTLE_SECONDS)
        if not read:
            return {"readers": 0, "measured": 0, **_cost(database, gateway, options.seconds)}
        job = {"target": gateway.target, "collections": read, "heartbeat": _HEARTBEAT_SECONDS}
        with Worker("idle.listen", job) as listener:
            listener.await_ready()
            listener.go()
            time.sleep(_SETTLE_SECONDS)
            cost = _cost(database, gateway, options.seconds)
            _write(database, read, options.writes)
            listener.finish()
            heard = listener.answer()
    if heard["closed_streams"] or heard["measured"] != options.writes:
        raise RuntimeError(f"the readers did not hear every write: {heard}")
    return {"readers": len(read), **cost, **heard}


def _cost(database: Database, gateway: Gateway, seconds: float) -> Answer:
    transactions, cpu, server = _transactions(database), gateway.cpu(), database.cpu()
    time.sleep(seconds)
    return {
        "gateway_cores": cpu.seconds() / seconds,
        "server_cores": server.seconds() / seconds,
        "transactions_a_second": (_transactions(database) - transactions) / seconds,
    }


def _transactions(database: Database) -> int:
    ((committed,),) = database.fetch(
        "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    )
    return int(committed)


def _write(database: Database, feeds: Sequence[str], writes: int) -> None:
    """Single updates, each of any feed at any time, with the clock just before it."""
    chance = random.Random(4)
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for _ in range(writes):
            time.sleep(chance.uniform(0, _LONGEST_PAUSE_SECONDS))
            statement = f"UPDATE {chance.choice(feeds)} SET stamp = %s WHERE id = %s"
            connection.execute(statement.encode(), (time.time_ns(), chance.randint(1, _ROWS)))


def _row(answer: Answer) -> list[str]:
    woken = answer["measured"]
    return [
        str(answer["readers"]),
        f"{100 * answer['gateway_cores']:.1f}",
        f"{100 * answer['server_cores']:.1f}",
        f"{answer['transactions_a_second']:.1f}",
        *(f"{answer[name]:.1f}" if woken else "" for name in ("p50", "p99", "max")),
        str(woken) if woken else "",
    ]
