"""What one principal that asks without a pause takes from another: with a quota and without."""

import argparse
import time
from contextlib import ExitStack
from typing import Any, Final

from bench.core import private_directory
from bench.database import Database
from bench.figures import median
from bench.gateway import Gateway
from bench.latency import sleep_until
from bench.processes import Answer, ForeignLoad, Worker
from bench.report import Report

TABLE: Final = "public.shared"
_RATE: Final = 50
"""Calls a second of the steady one, and the quota of the greedy one."""
_AT_ONCE: Final = 50
_TOKENS: Final = {"steady": "steady-caller-of-the-bench", "greedy": "greedy-caller-of-the-bench"}
_CASES: Final = ("alone", "beside one without a quota", "beside one with a quota")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench quota`."""
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short round: no figures to quote")


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    if options.quick:
        options.rounds, options.seconds = 1, 3.0
    report = Report("quota", quick=options.quick)
    with private_directory() as directory, Database(directory) as database:
        report.environment(database)
        database.make_orders(TABLE)
        database.fetch("SELECT changefeed.watch(%s)", (TABLE,))
        database.update_orders(TABLE, clients=1, transactions=100)
        load = ForeignLoad()
        found: dict[str, list[Answer]] = {case: [] for case in _CASES}
        for _ in range(options.rounds):
            for case in _CASES:
                found[case].append(_measure(database, case, options.seconds))
                report.record("quota", {"case": case, **found[case][-1]})
    columns = ("p50", "p99", "max", "answered_a_second", "refused_a_second", "gateway_cores")
    report.table(
        f"{_RATE} calls a second of one principal, and {_AT_ONCE} at once without a pause of another, "
        f"{options.seconds:.0f} s",
        ["", "p50, ms", "p99, ms", "max, ms", "other answered/s", "other refused/s", "cores of the gateway"],
        [
            [case, *(f"{median([float(answer[name]) for answer in answers]):,.1f}" for name in columns)]
            for case, answers in found.items()
        ],
        f"Medians of {options.rounds} rounds in turn; the quota is {_RATE} reads a second. {load}",
    )
    report.say(f"every figure: {report.file}")


def _measure(database: Database, case: str, seconds: float) -> Answer:
    with Gateway(database.directory, database.dsn, settings=_settings(database, case)) as gateway, ExitStack() as stack:
        target = {"target": gateway.target, "collection": TABLE, "seconds": seconds}
        steady = stack.enter_context(
            Worker("quota.steady", {**target, "bearer": _TOKENS["steady"], "rate": _RATE}),
        )
        workers = [steady]
        if case != _CASES[0]:
            job = {**target, "bearer": _TOKENS["greedy"], "at_once": _AT_ONCE}
            workers.append(stack.enter_context(Worker("quota.greedy", job)))
        for worker in workers:
            worker.await_ready()
        begin_at = time.time() + 0.2
        for worker in workers:
            worker.go(begin_at)
        sleep_until(begin_at)
        cpu = gateway.cpu()
        sleep_until(begin_at + seconds)
        cores = cpu.seconds() / seconds
        answer = {**steady.answer(), "gateway_cores": cores, "answered_a_second": 0.0, "refused_a_second": 0.0}
        for worker in workers[1:]:
            told = worker.answer()
            answer |= {f"{name}_a_second": told[name] / seconds for name in ("answered", "refused")}
    return answer


def _settings(database: Database, case: str) -> dict[str, Any]:
    tokens = database.directory / "tokens"
    tokens.write_text("".join(f"{name} {token}\n" for name, token in _TOKENS.items()))
    tokens.chmod(0o600)
    quota = {"principals": ["token:greedy"], "reads_per_second": _RATE}
    return {
        "security": {
            "access_tokens_file": str(tokens),
            "policy": [{"principals": ["*"], "connections": ["main"]}],
            "quotas": [quota] if case == _CASES[2] else [],
        }
    }
