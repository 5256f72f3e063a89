"""The main measurement: drain, latency, write tax, and what guards cost, with what is bare beside each of them."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.database import Database
from bench.documents import prepare_documents
from bench.drain import FOLLOWED, Drain, prepare_orders
from bench.gateway import Gateway
from bench.guarded import Guarded
from bench.latency import Latency, prepare_ledger
from bench.report import Report
from bench.sampling import top_functions, top_lines
from bench.write_tax import WriteTax


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    events: int = 300_000
    document_events: int = 50_000
    rounds: int = 5
    latency_seconds: float = 20.0
    latency_rounds: int = 3
    write_seconds: float = 10.0
    write_rounds: int = 2
    guarded_latency_seconds: float = 10.0

    @classmethod
    def quick(cls) -> Self:
        """Enough to see that everything runs; no figures to quote."""
        return cls(
            events=30_000,
            document_events=5_000,
            rounds=2,
            latency_seconds=4.0,
            latency_rounds=1,
            write_seconds=2.0,
            write_rounds=1,
            guarded_latency_seconds=4.0,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench core`."""
    parser.add_argument("--rounds", type=int, help="rounds of the drain")
    parser.add_argument("--quick", action="store_true", help="short runs: no figures to quote")
    parser.add_argument(
        "--parts",
        default="abcd",
        help="which of a (drain), b (latency), c (write tax), d (drain and latency with TLS, web tokens, policy, "
        "metrics and traces beside a bare gateway); default abcd",
    )
    parser.add_argument("--profile", action="store_true", help="also say where the gateway spends its time in (a)")


def run(options: argparse.Namespace) -> None:
    """Measure the chosen parts."""
    plan = Plan.quick() if options.quick else Plan()
    report = Report("core", quick=options.quick)
    with private_directory() as directory, Database(directory) as database:
        report.environment(database)
        if "a" in options.parts:
            _drain(database, report, plan, options.rounds or plan.rounds)
        if "a" in options.parts and options.profile:
            _profile(database, report, plan)
        if "b" in options.parts:
            _latency(database, report, plan)
        if "c" in options.parts:
            tax = WriteTax(database, report)
            tax.prepare()
            tax.run([16, 64], plan.write_seconds, plan.write_rounds)
        if "d" in options.parts:
            _guarded(database, report, plan, options)
    report.say(f"every figure: {report.file}")


@contextmanager
def private_directory() -> Iterator[Path]:
    """A directory for one run, gone after it."""
    with tempfile.TemporaryDirectory(prefix="changefeed-bench-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def _drain(database: Database, report: Report, plan: Plan, rounds: int) -> None:
    prepare_orders(database, report, plan.events)
    prepare_orders(database, report, plan.events, table=FOLLOWED, live=True)
    documents = prepare_documents(database, report, plan.document_events)
    database.settle()
    with Gateway(database.directory, database.dsn) as gateway:
        drain = Drain(database, gateway, report, plan.events)
        drain.run(rounds)
        drain.documents(documents, min(rounds, 3))


def _latency(database: Database, report: Report, plan: Plan) -> None:
    with Gateway(database.directory, database.dsn) as gateway:
        prepare_ledger(database)
        latency = Latency(database, gateway, report)
        latency.run([200, 2_000], plan.latency_seconds, plan.latency_rounds)


def _guarded(database: Database, report: Report, plan: Plan, options: argparse.Namespace) -> None:
    rounds = options.rounds or plan.rounds
    if "a" not in options.parts:
        prepare_orders(database, report, plan.events)
    if "b" not in options.parts:
        prepare_ledger(database)
    database.settle()
    guarded = Guarded(database, report)
    guarded.run(plan.events, rounds, [200, 2_000], plan.guarded_latency_seconds, min(rounds, plan.latency_rounds))


def _profile(database: Database, report: Report, plan: Plan) -> None:
    file = database.directory / "profile.json"
    with Gateway(database.directory, database.dsn, profile=file) as gateway:
        Drain(database, gateway, report, plan.events).profile()
    report.table(
        "Where the gateway spends its time while it is drained",
        ["function", "own", "with its calls"],
        [[name, f"{own:.1%}", f"{within:.1%}"] for name, own, within in top_functions(file)],
    )
    report.table("The same by line", ["line", "own"], [[name, f"{own:.1%}"] for name, own in top_lines(file)])


def main() -> None:
    """`python -m bench.core`."""
    parser = argparse.ArgumentParser(prog="python -m bench.core", description=__doc__)
    add_arguments(parser)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
