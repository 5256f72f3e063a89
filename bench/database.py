"""The PostgreSQL under test: a server of its own in a directory of its own, with durable commits."""

import asyncio
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import psycopg
from psycopg import sql

from bench.processes import CpuMeter
from changefeed_gateway.providers.postgres.embedded.host import find_binaries
from changefeed_gateway.providers.postgres.embedded.server import EmbeddedPostgres
from changefeed_gateway.providers.postgres.operations.migrations import migrate

PARAMETERS: Final = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "max_connections": "300",
}
"""Durable as by default; checkpoints are kept out of the measured seconds, for every system alike."""

IDLE_TICK_SECONDS: Final = 1.0
"""How often a gateway makes ticks while nobody reads."""
LIVE_TICK_SECONDS: Final = 0.002
"""How often it does while somebody is subscribed."""

# About 330 bytes as JSON text.
_TABLE: Final = """
    CREATE TABLE {table} (
        id bigint PRIMARY KEY, customer text, status text, amount numeric(12,2), currency text,
        item_count int, stamp bigint, note text, updated_at timestamptz
    );
    INSERT INTO {table}
    SELECT id, 'customer-' || lpad(id::text, 8, '0'), 'shipped', id * 1.25, 'EUR', 3, 10^18::bigint + id,
           substr(repeat(md5(id::text), 5), 1, 134), '2026-01-01 12:00:00.123456+00'
    FROM generate_series(1, {rows}) AS id;
"""
_UPDATE: Final = """\\set id random(1, {rows})
UPDATE {table} SET item_count = item_count + 1, stamp = stamp + 1 WHERE id = :id;
"""


class Script(NamedTuple):
    """One script of pgbench's."""

    name: str
    weight: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRun:
    """What pgbench reports."""

    transactions: int
    per_second: float
    failed: int


class Database:
    """A server for one run; change log and documents schema are installed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._server = EmbeddedPostgres(directory / "postgres", parameters=PARAMETERS)

    def __enter__(self) -> Self:
        self._server.start()
        self._migrate()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()

    def restart(self) -> None:
        """Stop and start the server: its buffers are empty afterwards."""
        self._server.stop()
        self._server.start()

    @property
    def dsn(self) -> str:
        """Connection string of the database."""
        return self._server.dsn

    def _migrate(self) -> None:
        asyncio.run(migrate(self.dsn, documents=True))

    def fetch(self, statement: str, parameters: tuple[object, ...] | None = None) -> list[tuple[Any, ...]]:
        """Run our own SQL, several statements only without parameters, and fetch the rows if it has any."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def cpu(self) -> CpuMeter:
        """Begin to measure the processor time of the server and its backends."""
        pid = (self.directory / "postgres" / "postmaster.pid").read_text().splitlines()[0]
        return CpuMeter(int(pid))

    def make_orders(self, table: str, rows: int = 10_000) -> None:
        """Make a table whose rows are about 330 bytes as JSON text."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            name = sql.Identifier(*table.split("."))
            connection.execute(sql.SQL(_TABLE).format(table=name, rows=sql.Literal(rows)))
            connection.execute(sql.SQL("VACUUM ANALYZE {}").format(name))

    def log_of(self, feed: str) -> str:
        """The table that holds a feed's changes."""
        ((feed_id,),) = self.fetch("SELECT feed_id FROM changefeed.feeds WHERE name = %s", (feed,))
        return f"changefeed_log.log_{feed_id}"

    def stored(self, feed: str) -> tuple[int, int]:
        """How many changes and ticks a feed holds."""
        log = self.log_of(feed)
        ((changes,),) = self.fetch(f"SELECT count(*) FROM {log}")
        ((ticks,),) = self.fetch(f"SELECT count(*) FROM {log.replace('.log_', '.tick_')}")
        return int(changes), int(ticks)

    def settle(self) -> None:
        """Bring statistics up to date and write dirty pages now rather than while something is measured."""
        self.fetch("VACUUM ANALYZE")
        self.fetch("CHECKPOINT")

    @contextmanager
    def ticks(self, every: float) -> Iterator[None]:
        """Make ticks for every feed, as a gateway would, so many seconds apart."""
        stop = threading.Event()

        def run() -> None:
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                while not stop.wait(every):
                    _make_ticks(connection)
                _make_ticks(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def update_orders(
        self,
        table: str,
        *,
        clients: int,
        rows: int = 10_000,
        seconds: float | None = None,
        transactions: int | None = None,
    ) -> WriteRun:
        """Update single rows in single transactions with pgbench, for a time or until so many are done."""
        script = Script("update", 1, _UPDATE.format(rows=rows, table=table))
        return self.pgbench([script], clients=clients, seconds=seconds, transactions=transactions)

    def pgbench(
        self,
        scripts: Sequence[Script],
        *,
        clients: int,
        seconds: float | None = None,
        transactions: int | None = None,
    ) -> WriteRun:
        """Run scripts of pgbench's with prepared statements, each as often as its weight says."""
        options = ["--no-vacuum", "--protocol=prepared", f"--client={clients}", "--jobs=2"]
        for script in scripts:
            file = self.directory / f"{script.name}.sql"
            file.write_text(script.text)
            options.append(f"--file={file}@{script.weight}")
        end = f"--time={seconds:.0f}" if seconds else f"--transactions={-(-(transactions or 1) // clients)}"
        done = subprocess.run(
            [str(find_binaries(self.directory / "postgres") / "pgbench"), *options, end, self.dsn],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"pgbench failed:\n{done.stderr[-2000:]}")
        return WriteRun(
            transactions=int(_figure(done.stdout, r"actually processed: (\d+)")),
            per_second=_figure(done.stdout, r"tps = ([\d.]+)"),
            failed=int(_figure(done.stdout, r"failed transactions: (\d+)")),
        )


def _make_ticks(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    for (feed,) in connection.execute("SELECT feed_id FROM changefeed.feeds").fetchall():
        connection.execute("SELECT changefeed.tick(%s)", (feed,))


def _figure(output: str, pattern: str) -> float:
    found = re.search(pattern, output)
    if found is None:
        raise ValueError(f"pgbench did not report {pattern!r}:\n{output}")
    return float(found[1])
