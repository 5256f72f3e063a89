"""What one change costs as history and feeds grow: processor time of server and gateway, and how soon it is heard."""

import argparse
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import psutil
import psycopg

from bench.core import private_directory
from bench.database import Database
from bench.gateway import Gateway
from bench.processes import Answer, ForeignLoad, Worker
from bench.report import Report

_TABLE: Final = "public.growing"
_ROWS: Final = 100
_DAYS: Final = (16, 46, 380)
_FEEDS: Final = (1, 50, 300)
_AHEAD: Final = 4
"""Days from today on, of those that a feed is laid out with."""
_INTERVAL: Final = 0.05
"""Seconds between two changes, so that each is a lone one."""
_SETTLE_SECONDS: Final = 3.0

_LAY_OUT: Final = """
    DO $$
    DECLARE
        parent text;
        child regclass;
    BEGIN
        CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM changefeed_log.tick_{feed};
        FOREACH parent IN ARRAY array ['log_{feed}', 'tick_{feed}'] LOOP
            FOR child IN SELECT inhrelid FROM pg_inherits WHERE inhparent = ('changefeed_log.' || parent)::regclass LOOP
                EXECUTE format('DROP TABLE %s', child);
            END LOOP;
            PERFORM changefeed.create_days(parent, (now() AT TIME ZONE 'UTC')::date - {past}, {days});
        END LOOP;
        INSERT INTO changefeed_log.tick_{feed} SELECT * FROM kept;
    END $$
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench growth`."""
    parser.add_argument("--changes", type=int, default=400, help="lone changes a line of the table; default 400")
    parser.add_argument("--days", type=int, nargs="*", default=_DAYS, help="partitions of log and ticks, one feed")
    parser.add_argument("--feeds", type=int, nargs="*", default=_FEEDS, help="feeds of 16 partitions, one of them read")
    parser.add_argument("--quick", action="store_true", help="few changes: no figures to quote")


def run(options: argparse.Namespace) -> None:
    """Measure each number of days with one feed, then each number of feeds."""
    changes = 60 if options.quick else options.changes
    report = Report("growth", quick=options.quick)
    shapes = [(days, 1) for days in options.days] + [(_DAYS[0], feeds) for feeds in options.feeds if feeds > 1]
    rows: list[list[str]] = []
    others = ForeignLoad()
    for days, feeds in shapes:
        with private_directory() as directory, Database(directory) as database:
            if not rows:
                report.environment(database)
            answer = {"days": days, "feeds": feeds, **_measure(database, days, feeds, changes)}
        report.record("growth", answer)
        rows.append(_row(answer))
    report.table(
        f"{changes} lone changes, {_INTERVAL * 1e3:.0f} ms apart, heard by one subscriber",
        [
            "partitions, feeds",
            "server us a change",
            "gateway us a change",
            "p50 ms",
            "p99 ms",
            "server idle, % of a core",
        ],
        rows,
        "Server: the gateway's own sessions. Both without what they cost while nothing happens.",
        "Aims: 250 us of the server and 600 us of the gateway, whatever the days and feeds.",
        str(others),
    )
    report.say(f"every figure: {report.file}")


def _measure(database: Database, days: int, feeds: int, changes: int) -> Answer:
    for number in range(feeds):
        table = _TABLE if not number else f"{_TABLE}_{number}"
        database.make_orders(table, _ROWS if not number else 1)
        database.fetch("SELECT changefeed.watch(%s)", (table,))
        feed = database.log_of(table).rsplit("_", 1)[1]
        past = days - 2 - _AHEAD
        database.fetch(_LAY_OUT.replace("{feed}", feed).replace("{past}", str(past)).replace("{days}", str(days - 2)))
    with ExitStack() as stack:
        gateway = Gateway(database.directory, database.dsn, connection={"retention_interval": "0s"})
        job = {"target": stack.enter_context(gateway).target, "collection": _TABLE, "warm_up": 0.0}
        listener = stack.enter_context(Worker("latency.listen", job))
        listener.await_ready()
        listener.go(time.time() + changes * _INTERVAL + _SETTLE_SECONDS + 2)
        _write(database, 20)
        time.sleep(_SETTLE_SECONDS)
        before = _costs(database, gateway)
        time.sleep(changes * _INTERVAL)
        idle = _spent(database, gateway, before)
        before = _costs(database, gateway)
        _write(database, changes)
        busy = _spent(database, gateway, before)
        listener.finish()
        heard = listener.answer()
    seconds = changes * _INTERVAL
    return {
        "server_us": 1e6 * (busy["server"] - idle["server"]) / changes,
        "gateway_us": 1e6 * (busy["gateway"] - idle["gateway"]) / changes,
        "server_idle": idle["server"] / seconds,
        "gateway_idle": idle["gateway"] / seconds,
        **heard,
    }


def _write(database: Database, changes: int) -> None:
    """Single updates, each with the clock just before it."""
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for number in range(changes):
            time.sleep(_INTERVAL)
            connection.execute(
                f"UPDATE {_TABLE} SET stamp = %s WHERE id = %s".encode(),
                (time.time_ns(), 1 + number % _ROWS),
                prepare=True,
            )


def _costs(database: Database, gateway: Gateway) -> Mapping[int, float]:
    """Processor seconds of the gateway, and of each session that is its own, by process."""
    rows = database.fetch("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'changefeed-gateway%'")
    return {pid: _scheduled(pid) for pid in (gateway.pid, *(pid for (pid,) in rows))}


def _spent(database: Database, gateway: Gateway, before: Mapping[int, float]) -> dict[str, float]:
    """What was used since; a session that began since counts whole."""
    spent = {pid: seconds - before.get(pid, 0.0) for pid, seconds in _costs(database, gateway).items()}
    return {"gateway": spent.pop(gateway.pid), "server": sum(spent.values())}


def _scheduled(pid: int) -> float:
    """Seconds on a processor, of all its threads; by the scheduler's own count where it tells, which is finer."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    except OSError:
        return float(sum(psutil.Process(pid).cpu_times()[:2]))


def _row(answer: Answer) -> list[str]:
    return [
        f"{answer['days']}, {answer['feeds']}",
        *(f"{answer[name]:,.0f}" for name in ("server_us", "gateway_us")),
        *(f"{answer[name]:.1f}" for name in ("p50", "p99")),
        f"{100 * answer['server_idle']:.1f}",
    ]
