"""How soon the first change comes after a token from anywhere in a long log, and the answer to an expired one."""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

import grpc
import psycopg

from bench.core import private_directory
from bench.database import Database
from bench.figures import percentile
from bench.gateway import Gateway
from bench.processes import ForeignLoad
from bench.report import Report
from bench.workers.drain import Stub, address, channel
from changefeed.v1 import position_pb2, read_changes_pb2, subscribe_pb2, token_pb2

_TABLE: Final = "public.long"
_BATCH_ROWS: Final = 5_000
_LARGEST_PAGE: Final = 1_000
_AIMS: Final = {"an expired token": 20}
_AIM_MS: Final = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench resume`."""
    parser.add_argument("--rows", type=int, default=10_000_000, help="changes in the log; default 10,000,000")
    parser.add_argument("--tokens", type=int, default=200, help="default 200")
    parser.add_argument("--quick", action="store_true", help="200,000 rows, 50 tokens: no figures to quote")


def run(options: argparse.Namespace) -> None:
    """Collect tokens, then resume at each: cold, warm and once its history is gone."""
    if options.quick:
        options.rows, options.tokens = 200_000, 50
    report = Report("resume", quick=options.quick)
    with private_directory() as directory, Database(directory) as database:
        report.environment(database)
        database.make_orders(_TABLE, 0)
        database.fetch("SELECT changefeed.watch(%s)", (_TABLE,))
        _fill(database, report, options.rows)
        with Gateway(database.directory, database.dsn) as gateway:
            tokens = _collect(database, gateway, options.tokens)
        others = ForeignLoad()
        database.restart()
        ages: dict[str, list[float]] = {}
        with Gateway(database.directory, database.dsn) as gateway:
            stub = Stub(channel(gateway.target))
            ages["cold: server and gateway just started"] = _each(tokens, lambda token: _first_event(stub, token))
            ages["warm: the same tokens again"] = _each(tokens, lambda token: _first_event(stub, token))
        _drop_history(database)
        with Gateway(database.directory, database.dsn) as gateway:
            stub = Stub(channel(gateway.target))
            ages["an expired token"] = _each(tokens, lambda token: _refused(stub, token))
        _print(report, options.rows, ages, others)
    report.say(f"every figure: {report.file}")


def _fill(database: Database, report: Report, rows: int) -> None:
    """Write into the log what capture would, in batches with a tick each: the table itself is never read."""
    began = time.perf_counter()
    log = database.log_of(_TABLE)
    statement = (
        f"INSERT INTO {log} (xid, changed_at, bucket, created, op, partition_key, key, image)"
        " SELECT pg_current_xact_id(), clock_timestamp(), changefeed.bucket(n::text), true, 'upsert', n::text, n::text,"
        """ '{"id":' || n || ',"note":"' || repeat(md5(n::text), 9) || '"}'"""
        " FROM generate_series(%s::int, %s::int) n"
    )
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        for low in range(1, rows + 1, _BATCH_ROWS):
            connection.execute(statement.encode(), (low, min(rows, low + _BATCH_ROWS - 1)), prepare=True)
            connection.execute("SELECT changefeed.tick(%s)", (int(log.rsplit("_", 1)[1]),), prepare=True)
    database.settle()
    changes, ticks = database.stored(_TABLE)
    report.say(f"{changes:,} changes with {ticks:,} ticks in {time.perf_counter() - began:.0f} s")


def _collect(database: Database, gateway: Gateway, count: int) -> list[str]:
    """Tokens of positions at random ticks, and in the middle of the batches behind them."""
    chance, stub = random.Random(4), Stub(channel(gateway.target))
    ticks = database.log_of(_TABLE).replace(".log_", ".tick_")
    times = [at for (at,) in database.fetch(f"SELECT at FROM {ticks} ORDER BY id OFFSET 1")][:-2]
    tokens = []
    for _ in range(count):
        start = position_pb2.StartPosition()
        start.at_time.FromDatetime(chance.choice(times))
        resolved = stub.ResolveStartPosition(
            token_pb2.ResolveStartPositionRequest(address=address(_TABLE), start_position=start)
        )
        page = stub.ReadChanges(
            read_changes_pb2.ReadChangesRequest(
                address=address(_TABLE),
                start_position=position_pb2.StartPosition(continuation_token=resolved.continuation_token),
                max_page_size=chance.randint(1, _LARGEST_PAGE),
            )
        )
        tokens.append(page.continuation_token)
    return tokens


def _each(tokens: Sequence[str], act: Callable[[str], None]) -> list[float]:
    """Milliseconds that it takes with each token, sorted."""
    taken = []
    for token in tokens:
        began = time.perf_counter()
        act(token)
        taken.append(1000 * (time.perf_counter() - began))
    return sorted(taken)


def _first_event(stub: Stub, token: str) -> None:
    stream = stub.Subscribe(
        subscribe_pb2.SubscribeRequest(
            address=address(_TABLE), start_position=position_pb2.StartPosition(continuation_token=token)
        )
    )
    for message in stream:
        if message.WhichOneof("content") == "batch" and message.batch.events:
            break
    else:
        raise RuntimeError("the stream ended without an event")
    stream.cancel()


def _refused(stub: Stub, token: str) -> None:
    try:
        _first_event(stub, token)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.OUT_OF_RANGE:
            raise
    else:
        raise RuntimeError("an expired token was served")


def _drop_history(database: Database) -> None:
    """What a reader sees of dropped days: their ticks are gone, and no search passes over what is left of them."""
    ticks = database.log_of(_TABLE).replace(".log_", ".tick_")
    database.fetch(
        f"CREATE TEMP TABLE newest ON COMMIT DROP AS SELECT * FROM {ticks} ORDER BY id DESC LIMIT 1;"
        f"TRUNCATE {ticks}; INSERT INTO {ticks} SELECT * FROM newest"
    )


def _print(report: Report, rows: int, ages: dict[str, list[float]], others: ForeignLoad) -> None:
    table = []
    for name, taken in ages.items():
        figures = {"p50": percentile(taken, 0.5), "p99": percentile(taken, 0.99), "max": taken[-1]}
        report.record("resume", {"what": name, "rows": rows, "tokens": len(taken), **figures})
        table.append([name, *(f"{figure:.1f}" for figure in figures.values()), str(_AIMS.get(name, _AIM_MS))])
    report.table(
        f"First event of a stream that resumes anywhere in {rows:,} changes, {len(next(iter(ages.values())))} tokens",
        ["", "p50 ms", "p99", "max", "aim"],
        table,
        "Cold as far as the server's buffers and the gateway go; the kernel's page cache was not dropped.",
        str(others),
    )
