"""Drains one feed with each language's client in turn: changes a second, and what client and gateway spend."""

import argparse
import json
import os
import statistics
import subprocess
from collections.abc import Sequence
from typing import Final, NamedTuple

from bench.core import private_directory
from bench.database import Database
from bench.gateway import Gateway
from bench.processes import CpuMeter, ForeignLoad
from bench.report import Report
from tests.clients.conformance.language import LANGUAGES

_TABLE: Final = "public.drained"
_BATCH_ROWS: Final = 5_000


class _Drain(NamedTuple):
    rate: float
    """Changes a second, from the first call on."""
    client_us: float
    """CPU of the client's process for a change, its start included."""
    gateway_us: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench clients`."""
    parser.add_argument("--rows", type=int, default=300_000, help="changes in the feed; default 300,000")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--quick", action="store_true", help="20,000 rows, one round: no figures to quote")


def run(options: argparse.Namespace) -> None:
    """Fill a feed, then drain it with each client, the order turned by one each round."""
    if options.quick:
        options.rows, options.rounds = 20_000, 1
    languages = [language for language in LANGUAGES if not language.missing()]
    commands = {language.name: language.make_fast() for language in languages}
    report = Report("clients", quick=options.quick)
    with private_directory() as directory, Database(directory) as database:
        report.environment(database)
        _fill(database, options.rows)
        with Gateway(database.directory, database.dsn) as gateway:
            others = ForeignLoad()
            drains: dict[str, list[_Drain]] = {language.name: [] for language in languages}
            for number in range(options.rounds):
                for language in languages[number % len(languages) :] + languages[: number % len(languages)]:
                    drained = _drain(language.name, commands[language.name], gateway, options.rows)
                    report.record(language.name, drained._asdict())
                    drains[language.name].append(drained)
        _print(report, options.rows, drains, others)
    report.say(f"every figure: {report.file}")


def _fill(database: Database, rows: int) -> None:
    database.fetch(f"CREATE TABLE {_TABLE} (id bigint PRIMARY KEY, note text NOT NULL)")
    database.fetch("SELECT changefeed.watch(%s)", (_TABLE,))
    for low in range(1, rows + 1, _BATCH_ROWS):
        statement = f"INSERT INTO {_TABLE} SELECT n, repeat(md5(n::text), 9) FROM generate_series(%s::int, %s::int) n"
        database.fetch(statement, (low, min(rows, low + _BATCH_ROWS - 1)))
    database.settle()


def _drain(name: str, command: Sequence[str], gateway: Gateway, rows: int) -> _Drain:
    order = {"call": "drain", "target": gateway.target, "collection": f"main/{_TABLE}", "start": "beginning"}
    meter = CpuMeter(gateway.pid)
    process = subprocess.Popen([*command, json.dumps({**order, "max_events": rows})], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    drained, _ = map(json.loads, process.stdout)
    said = drained["drained"]
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert said["events"] == rows, f"{name} drained {said['events']} of {rows}"
    assert process.returncode == 0
    client = usage.ru_utime + usage.ru_stime
    return _Drain(rows / said["seconds"], client / rows * 1e6, meter.seconds() / rows * 1e6)


def _print(report: Report, rows: int, drains: dict[str, list[_Drain]], others: ForeignLoad) -> None:
    report.table(
        f"Drain of {rows:,} changes, medians",
        ["client", "changes/s", "client, µs of CPU a change", "gateway, µs of CPU a change"],
        [[name, *_medians(some)] for name, some in drains.items()],
        str(others),
    )


def _medians(drains: list[_Drain]) -> list[str]:
    rate, client, gateway = (statistics.median(figures) for figures in zip(*drains, strict=True))
    return [f"{rate:,.0f}", f"{client:.2f}", f"{gateway:.2f}"]
