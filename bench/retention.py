"""How long writers stand still while days are added and dropped, beside the obvious DDL."""

import argparse
import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from bench.core import private_directory
from bench.database import Database
from bench.report import Report
from changefeed_gateway.providers.postgres.retention import run as retention

_TABLE: Final = "public.stall"
_ROWS: Final = 10_000
_READER_SECONDS: Final = 5.0

# As if the feed had been made ten days ago: three days are too old, and fewer are ahead than retention wants.
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
            PERFORM changefeed.create_days(parent, (now() AT TIME ZONE 'UTC')::date - 10, 12);
        END LOOP;
        INSERT INTO changefeed_log.tick_{feed} SELECT * FROM kept;
    END $$
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench retention`."""
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured; default 3")
    parser.add_argument("--clients", type=int, default=16, help="writers at once; default 16")
    parser.add_argument("--quick", action="store_true", help="one round: no figures to quote")


def run(options: argparse.Namespace) -> None:
    """Measure: nothing but the reader, retention, the obvious DDL."""
    report = Report("retention", quick=options.quick)
    with private_directory() as directory, Database(directory) as database:
        report.environment(database)
        database.make_orders(_TABLE, _ROWS)
        database.fetch("SELECT changefeed.watch(%s)", (_TABLE,))
        stall = _Stall(database, options.clients)
        worst: dict[str, list[float]] = {}
        for _ in range(1 if options.quick else options.rounds):
            for name, work in (
                ("only the reader", stall.nothing),
                ("retention run", stall.retention),
                ("CREATE ... PARTITION OF, DROP TABLE", stall.obvious),
            ):
                stall.lay_out()
                milliseconds = 1000 * stall.measure(work)
                worst.setdefault(name, []).append(milliseconds)
                report.record("retention stall", {"what": name, "clients": options.clients, "worst_ms": milliseconds})
        report.table(
            f"Worst statement of {options.clients} writers, with a reader open for {_READER_SECONDS:.0f} s",
            ["", "worst ms, each round", "aim"],
            [
                [name, ", ".join(f"{figure:,.0f}" for figure in figures), "150" if "run" in name else ""]
                for name, figures in worst.items()
            ],
        )
    report.say(f"every figure: {report.file}")


class _Stall:
    def __init__(self, database: Database, clients: int) -> None:
        self._database, self._clients = database, clients
        self._log = database.log_of(_TABLE)
        self._feed = int(self._log.rsplit("_", 1)[1])

    def lay_out(self) -> None:
        self._database.fetch(_LAY_OUT.replace("{feed}", str(self._feed)))

    def measure(self, work: Callable[[], None]) -> float:
        """Seconds of the longest statement of any writer while something is done beside a reader."""
        stop, worst = threading.Event(), [0.0] * self._clients
        writers = [threading.Thread(target=self._write, args=(n, stop, worst)) for n in range(self._clients)]
        for writer in writers:
            writer.start()
        time.sleep(1.0)
        worst[:] = [0.0] * self._clients
        with self._reader():
            work()
        time.sleep(0.5)
        stop.set()
        for writer in writers:
            writer.join()
        return max(worst)

    def _write(self, number: int, stop: threading.Event, worst: list[float]) -> None:
        with psycopg.connect(self._database.dsn, autocommit=True) as connection:
            row = number
            while not stop.is_set():
                row = (row + self._clients) % _ROWS
                begin = time.perf_counter()
                connection.execute(
                    "UPDATE public.stall SET item_count = item_count + 1 WHERE id = %s", (row + 1,), prepare=True
                )
                worst[number] = max(worst[number], time.perf_counter() - begin)

    @contextmanager
    def _reader(self) -> Iterator[None]:
        """A transaction that has read the log; it ends by itself after five seconds, and so does the context."""
        opened = threading.Event()

        def read() -> None:
            with psycopg.connect(self._database.dsn) as connection:
                connection.execute(f"SELECT FROM {self._log} LIMIT 1".encode())
                opened.set()
                time.sleep(_READER_SECONDS)

        reader = threading.Thread(target=read)
        reader.start()
        opened.wait()
        yield
        reader.join()

    def nothing(self) -> None:
        """The weather."""

    def retention(self) -> None:
        """Everything that is due: eight days made ahead, three dropped, of the log and of the ticks."""
        [feed] = [feed for feed in asyncio.run(retention.run(self._database.dsn)) if feed.feed == _TABLE]
        if feed.problem or not feed.steps:
            raise RuntimeError(f"retention did not do its work: {feed.problem}")

    def obvious(self) -> None:
        """One day made and one dropped, without regard to anybody."""
        oldest, future = self._names()
        with psycopg.connect(self._database.dsn, autocommit=True) as connection:
            connection.execute(f"ALTER TABLE {self._log} DETACH PARTITION {future} CONCURRENTLY".encode())
            with self._reader():
                bounds = "FOR VALUES FROM ('2200-01-01') TO (MAXVALUE)"
                connection.execute(f"CREATE TABLE {self._log}_more PARTITION OF {self._log} {bounds}".encode())
                connection.execute(f"DROP TABLE {oldest}".encode())
            connection.execute(f"DROP TABLE {future}".encode())

    def _names(self) -> tuple[str, str]:
        rows = self._database.fetch(
            "SELECT name FROM changefeed.days(%s) WHERE part = 'log' AND starts IS NOT NULL ORDER BY starts",
            (self._feed,),
        )
        return f"changefeed_log.{rows[0][0]}", f"changefeed_log.{rows[-1][0]}"
