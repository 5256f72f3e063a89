"""What capture costs writers: one backend, the parts of its function, bulk, then many clients."""

import argparse
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import psycopg
from psycopg import sql

from bench.core import private_directory
from bench.database import Database
from bench.gateway import Gateway
from bench.processes import Worker
from bench.report import Report
from bench.write_tax import WriteTax

_ROWS: Final = 2_000
_SETUP: Final = """
    INSERT INTO documents.workspaces (id, name) VALUES (md5('w')::uuid, 'w');
    INSERT INTO documents.files (id, workspace_id, title)
    SELECT md5('f' || n)::uuid, md5('w')::uuid, 'Contract' FROM generate_series(1, 2000) n;
    INSERT INTO documents.file_versions (id, file_id, version, byte_size, content_type)
    SELECT md5('v' || n)::uuid, md5('f' || n)::uuid, 1, 1000, 'application/pdf' FROM generate_series(1, 2000) n;
    INSERT INTO documents.file_tags (file_id, tag) SELECT md5('f' || n)::uuid, '0' FROM generate_series(1, 2000) n;
    INSERT INTO documents.runs (id, input_file_version_id, status)
    SELECT md5('r' || n)::uuid, md5('v' || n)::uuid, 'running' FROM generate_series(1, 2000) n;
"""
_ORDERS: Final = "UPDATE {table} SET item_count = item_count + 1, stamp = stamp + 1 WHERE id = i"
_STATEMENTS: Final = {
    "a tag": "UPDATE documents.file_tags SET tag = (tag::int + 1)::text WHERE file_id = md5('f' || i)::uuid",
    "a run's end": "UPDATE documents.runs SET error = clock_timestamp()::text WHERE id = md5('r' || i)::uuid",
    "a file's update": "UPDATE documents.files SET title = clock_timestamp()::text WHERE id = md5('f' || i)::uuid",
}
_TABLES: Final = {"file_tags": "a tag", "runs": "a run's end", "files": "a file's update"}


class _Part(NamedTuple):
    """A part of a capture function, and how its text is taken out."""

    name: str
    pattern: str
    instead: str = ""


_PARTS: Final = (
    _Part(
        "annotations",
        r"\n +or pg_catalog.current_setting\('changefeed.annotations', true\) operator\(pg_catalog.<>\) ''",
    ),
    _Part(
        "what came before",
        r"pg_catalog.current_setting\('changefeed.mode_\d+', true\) operator\(pg_catalog.<>\) ''\n +or ",
    ),
    _Part("the day floor", r"\n        or pg_catalog.date_bin.*?::pg_catalog.float8\)"),
    _Part("the whole first test", r"\n    if \(case when.*?\n    end if;(?=\n +insert)"),
    _Part("nested statements", r"pg_catalog.pg_trigger_depth\(\) operator\(pg_catalog.>\) 1 or "),
    _Part("the bell", r" or pg_catalog.pg_sequence_last_value.*?, 0\)"),
    _Part("the whole last test", r"\n    if found and \(.*?\n    end if;"),
    _Part("the bucket", r"changefeed.bucket\(c.partition_key\)", "0::pg_catalog.int2"),
    _Part("the image", r"pg_catalog.row_to_json\(n.\*\)::pg_catalog.text", "null::pg_catalog.text"),
    _Part("the INSERT and all", r".*", "begin return null; end"),
)
"""The text of a made function is in docs/providers/postgres.md, line by line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench tax`."""
    parser.add_argument("--quick", action="store_true", help="short runs: no figures to quote")
    parser.add_argument("--gateway", action="store_true", help="with a gateway that is read along with, every feed")
    parser.add_argument("--parts", default="1pbc", help="1: one backend, p: parts, b: bulk, c: 16 and 64 clients")
    parser.add_argument("--rounds", type=int, default=12, help="rounds of 1 and p; default 12")
    parser.add_argument("--client-rounds", type=int, default=5, help="rounds of c; default 5")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement of c; default 10")


def run(options: argparse.Namespace) -> None:
    """Measure the chosen parts."""
    report = Report("tax", quick=options.quick)
    if options.quick:
        options.rounds, options.client_rounds, options.seconds = 2, 1, 2.0
    with private_directory() as directory, Database(directory) as database, contextlib.ExitStack() as stack:
        report.environment(database)
        tax = WriteTax(database, report)
        tax.prepare()
        database.fetch(_SETUP)
        for table in _TABLES:
            database.fetch(f"CREATE TABLE public.bare_{table} (LIKE documents.{table} INCLUDING ALL)")
            database.fetch(f"INSERT INTO public.bare_{table} SELECT * FROM documents.{table}")
        for (feed,) in database.fetch("SELECT feed_id FROM changefeed.feeds"):
            database.fetch("SELECT changefeed.tick(%s, true)", (feed,))  # begins the day floor
        database.settle()
        if options.gateway:
            stack.enter_context(_read_along(database, report))
        if "1" in options.parts:
            _one_backend(database, report, options.rounds)
        if "p" in options.parts:
            _parts(database, report, options.rounds)
        if "b" in options.parts:
            _bulk(database, report, options.rounds)
        if "c" in options.parts:
            tax.run([16, 64], options.seconds, options.client_rounds)
    report.say(f"every figure: {report.file}")


@contextlib.contextmanager
def _read_along(database: Database, report: Report) -> Iterator[None]:
    """A gateway, and one subscriber of each feed in a process of its own; both take processor time from the writers."""
    feeds = [name for (name,) in database.fetch("SELECT name FROM changefeed.feeds ORDER BY name")]
    with Gateway(database.directory, database.dsn) as gateway:
        job = {"target": gateway.target, "collections": feeds, "heartbeat": 10}
        with Worker("idle.count", job) as reader:
            reader.await_ready()
            reader.go()
            yield
            reader.finish()
            answer = reader.answer()
    if answer["closed_streams"]:
        raise RuntimeError(f"a stream ended while it was measured: {answer}")
    report.record("read along", answer)
    report.say(f"read meanwhile: {answer['arrived']}")


def _loop(statement: str, times: int = _ROWS) -> str:
    return f"DO $$ BEGIN FOR i IN 1..{times} LOOP {statement}; COMMIT; END LOOP; END $$"


class _Backend:
    """One session, and the processor time that its backend has used."""

    def __init__(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        self._connection = connection
        self._clock = Path(f"/proc/{connection.info.backend_pid}/schedstat")
        connection.execute("SET synchronous_commit = off")

    def cost(self, statement: str, rows: int) -> float:
        """Microseconds a row."""
        before = self._microseconds()
        self._connection.execute(statement.encode())
        return (self._microseconds() - before) / rows

    def _microseconds(self) -> float:
        return int(self._clock.read_text().split()[0]) / 1000


def _least(database: Database, statements: dict[str, str], rows: int, rounds: int) -> dict[str, float]:
    """Microseconds of one backend's processor time a row; of each statement the least of its interleaved rounds."""
    least: dict[str, float] = {}
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        backend = _Backend(connection)
        for number in range(rounds + 1):
            for name, statement in statements.items():
                for _ in range(3):
                    took = backend.cost(statement, rows)
                    if number:  # the first makes the plans
                        least[name] = min(took, least.get(name, took))
            connection.execute("VACUUM")
    return least


def _one_backend(database: Database, report: Report, rounds: int) -> None:
    statements = {
        name: _loop(_ORDERS.format(table=f"public.tax_{table}"))
        for name, table in (("no capture", "none"), ("images", "images"), ("ids only", "ids"))
    }
    for table, name in _TABLES.items():
        statements[f"{name}, no capture"] = _loop(
            _STATEMENTS[name].replace(f"documents.{table}", f"public.bare_{table}")
        )
        statements[name] = _loop(_STATEMENTS[name])
    found = _least(database, statements, _ROWS, rounds)
    rows = [
        [name, f"{us:.1f}", f"{us - found[bare]:+.1f}" if bare != name else ""]
        for name, us in found.items()
        for bare in [
            name if "no capture" in name else f"{name}, no capture" if f"{name}, no capture" in found else "no capture"
        ]
    ]
    title = f"One backend, single rows, least of {rounds} rounds"
    report.table(title, ["", "us a transaction", "capture"], rows, "Aim: +20 us or less.")


def _bulk(database: Database, report: Report, rounds: int) -> None:
    statements = {
        name: f"UPDATE public.tax_{table} SET item_count = item_count + 1"
        for name, table in (("no capture", "none"), ("images", "images"), ("ids only", "ids"))
    }
    found = _least(database, statements, 10_000, max(2, rounds // 3))
    rows = [[name, f"{us:.1f}", f"{us - found['no capture']:+.1f}"] for name, us in found.items()]
    report.table("10,000 rows in one statement", ["", "us a row", "capture"], rows, "Aim: +5 us a row or less.")


def _parts(database: Database, report: Report, rounds: int) -> None:
    feed = database.log_of("public.tax_images").rpartition("_")[2]
    name = f"capture_{feed}_update"
    ((whole, body),) = database.fetch("SELECT pg_get_functiondef(oid), prosrc FROM pg_proc WHERE proname = %s", (name,))
    functions = {"whole": whole, "without its settings": re.sub(r'\n SET "TimeZone".*', "", whole)}
    for part in _PARTS:
        count = 1 if part.pattern == ".*" else 0
        less = re.sub(part.pattern, part.instead, body, count=count, flags=re.DOTALL)
        if less == body:
            raise ValueError(f"the capture function has no {part.name}: adapt bench/tax.py")
        functions[f"without {part.name}"] = whole[: whole.index("AS $")] + "AS " + sql.Literal(less).as_string()
    statement, least = _loop(_ORDERS.format(table="public.tax_images")), dict[str, float]()
    try:
        with psycopg.connect(database.dsn, autocommit=True) as connection:
            backend = _Backend(connection)
            for _ in range(rounds):
                for what, function in functions.items():
                    database.fetch(function)
                    connection.execute(_loop(_ORDERS.format(table="public.tax_images"), 20).encode())
                    took = backend.cost(statement, _ROWS)
                    least[what] = min(took, least.get(what, took))
                connection.execute("VACUUM")
    finally:
        database.fetch(whole)
    rows = [[what, f"{us:.1f}", f"{least['whole'] - us:+.1f}" if what != "whole" else ""] for what, us in least.items()]
    report.table("What each part of capture costs", ["", "us a transaction", "the part"], rows)
