"""A snapshot of a table: beside COPY and keyset pages, what it costs the source and its writers, and after a kill."""

import argparse
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from bench.core import private_directory
from bench.database import Database
from bench.figures import median, spread
from bench.gateway import Gateway
from bench.processes import Answer, ForeignLoad, run_worker
from bench.report import Report
from bench.sampling import top_functions, top_lines
from bench.snapshot_writers import measure_writers
from bench.workers.drain import Stub, address, channel, start_of
from changefeed.v1 import subscribe_pb2

_TABLE: Final = "public.orders"
_KEYSET: Final = "keyset 1000, JSON text"
_LOOK_SECONDS: Final = 0.01
_AIMS: Final = {"of keyset": 0.3, "rows/s": 100_000, "peak MB": 120, "transaction s": 1.0}

_LONGEST: Final = """
    SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8 FROM pg_stat_activity
    WHERE application_name = 'changefeed-gateway' AND xact_start IS NOT NULL
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench snapshot`."""
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table; default 1,000,000")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long the writers write; default 10")
    parser.add_argument("--parts", default="swk", help="s: speed, w: writers, k: kills; default swk")
    parser.add_argument("--profile", action="store_true", help="also say where the gateway spends its time")
    parser.add_argument("--quick", action="store_true", help="50,000 rows, one round: no figures to quote")


def run(options: argparse.Namespace) -> None:
    """Measure the chosen parts."""
    if options.quick:
        options.rows, options.rounds, options.seconds = 50_000, 1, 3.0
    report = Report("snapshot", quick=options.quick)
    with private_directory() as directory, Database(directory) as database:
        report.environment(database)
        database.make_orders(_TABLE, options.rows)
        database.fetch("SELECT changefeed.watch(%s)", (_TABLE,))
        database.settle()
        with Gateway(database.directory, database.dsn) as gateway:
            if "s" in options.parts:
                _Speed(database, gateway, report, options.rows).run(options.rounds)
            if "w" in options.parts:
                measure_writers(
                    database,
                    gateway,
                    report,
                    table=_TABLE,
                    rows=options.rows,
                    rounds=options.rounds,
                    seconds=options.seconds,
                )
            if "k" in options.parts:
                _kills(gateway, report, options.rows)
        if options.profile:
            _profile(database, report, options.rows)
    report.say(f"every figure: {report.file}")


class _Watch:
    """The gateway's memory and its longest transaction, looked at again and again in a thread."""

    def __init__(self, database: Database, gateway: Gateway) -> None:
        self._dsn, self._gateway = database.dsn, gateway
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._megabytes: list[float] = []
        self._longest = 0.0

    def _look(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._stop.wait(_LOOK_SECONDS):
                self._megabytes.append(self._gateway.rss_mb())
                ((longest,),) = connection.execute(_LONGEST, prepare=True).fetchall()
                self._longest = max(self._longest, longest)

    def start(self) -> None:
        self._gateway.reset_peak_rss()
        self._thread.start()

    def answer(self) -> Answer:
        """End, and tell."""
        self._stop.set()
        self._thread.join()
        third = max(1, len(self._megabytes) // 3)
        first, last = self._megabytes[:third], self._megabytes[-third:]
        return {
            "longest_transaction": self._longest,
            "gateway_peak_rss_mb": self._gateway.peak_rss_mb(),
            "first_third_mb": median(first) if first else 0.0,
            "last_third_mb": median(last) if last else 0.0,
        }


@dataclass(slots=True)
class _System:
    name: str
    run: Callable[[], Answer]
    through_gateway: bool = False
    rounds: list[Answer] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        return [answer["events"] / answer["seconds"] for answer in self.rounds]

    def middle(self, name: str) -> float:
        return float(median([answer.get(name, 0.0) for answer in self.rounds]))


class _Speed:
    """Every way to read the table in turn, the order turned by one each round."""

    def __init__(self, database: Database, gateway: Gateway, report: Report, rows: int) -> None:
        self._database, self._gateway, self._report, self._rows = database, gateway, report, rows

    def run(self, rounds: int) -> None:
        systems, others = self._systems(), ForeignLoad()
        for number in range(rounds):
            turn = number % len(systems)
            for system in systems[turn:] + systems[:turn]:
                self._measure(system, number)
        self._print(systems, others)

    def _systems(self) -> list[_System]:
        def keyset(page_size: int, *, json: bool) -> Callable[[], Answer]:
            job = {"dsn": self._database.dsn, "table": _TABLE, "events": self._rows}
            return lambda: run_worker("keyset.rows", job | {"page_size": page_size, "json": json})

        return [
            _System("COPY", lambda: run_worker("keyset.copy", {"dsn": self._database.dsn, "table": _TABLE})),
            _System(_KEYSET, keyset(1_000, json=True)),
            _System("keyset 5000, JSON text", keyset(5_000, json=True)),
            _System("keyset 1000, columns", keyset(1_000, json=False)),
            *(_System(name, work, through_gateway=True) for name, work in snapshots(self._gateway, self._rows)),
        ]

    def _measure(self, system: _System, number: int) -> None:
        gateway, server = self._gateway.cpu(), self._database.cpu()
        watch = _Watch(self._database, self._gateway) if system.through_gateway else None
        if watch is not None:
            watch.start()
        try:
            answer = system.run()
        finally:
            watched = watch.answer() if watch is not None else {}
        answer |= {"server_cpu": server.seconds()} | watched
        if system.through_gateway:
            answer["gateway_cpu"] = gateway.seconds()
        if answer["events"] != self._rows:
            raise RuntimeError(f"{system.name} read {answer['events']} rows of {self._rows}")
        system.rounds.append(answer)
        self._report.record("snapshot", {"system": system.name, "round": number, **answer})

    def _print(self, systems: Sequence[_System], others: ForeignLoad) -> None:
        keyset = next(system for system in systems if system.name == _KEYSET)

        def of_keyset(system: _System) -> float:
            return median([one / other for one, other in zip(system.rates, keyset.rates, strict=True)])

        rows = [[*_row(system, self._rows), f"{of_keyset(system):.2f}"] for system in systems]
        watched = [_watched(system) for system in systems if system.through_gateway]
        self._report.record("foreign load", {"part": "snapshot", "cores": others.cores()})
        self._report.table(
            f"A snapshot of {self._rows:,} rows, {len(systems[0].rounds)} rounds",
            ["", "rows/s", "spread", "client us", "gateway us", "server us", "of keyset"],
            rows,
            f"us a row: processor time. Aims: {_AIMS['of keyset']} of keyset pages of 1000, {_AIMS['rows/s']:,} rows/s"
            " on a fast machine.",
            str(others),
        )
        self._report.table(
            "Meanwhile",
            ["", "gateway's peak MB", "first third", "last third", "longest transaction ms"],
            watched,
            f"Aims: {_AIMS['peak MB']} MB, {1_000 * _AIMS['transaction s']:.0f} ms.",
        )


def snapshots(gateway: Gateway, rows: int) -> Iterator[tuple[str, Callable[[], Answer]]]:
    """The ways through the gateway."""

    def worker(name: str, **job: object) -> Callable[[], Answer]:
        every = {"target": gateway.target, "collection": _TABLE, "events": rows, "start": "snapshot"}
        return lambda: run_worker(name, every | job)

    yield "Subscribe", worker("drain.subscribe")
    yield "Subscribe 5000", worker("drain.subscribe", batch_size=5_000)
    yield "ReadChanges 1000", worker("drain.read", page_size=1_000)
    yield "ReadChanges 5000", worker("drain.read", page_size=5_000)


def _row(system: _System, rows: int) -> list[str]:
    def per_row(name: str) -> str:
        spent = system.middle(name)
        return f"{spent / rows * 1e6:.2f}" if spent else ""

    return [
        system.name,
        f"{median(system.rates):,.0f}",
        f"{spread(system.rates):.0%}",
        *(per_row(name) for name in ("client_cpu", "gateway_cpu", "server_cpu")),
    ]


def _watched(system: _System) -> list[str]:
    memory = [f"{system.middle(name):.0f}" for name in ("gateway_peak_rss_mb", "first_third_mb", "last_third_mb")]
    return [system.name, *memory, f"{1e3 * max(answer['longest_transaction'] for answer in system.rounds):.0f}"]


# --- Kills


def _kills(gateway: Gateway, report: Report, rows: int, kills: int = 10) -> None:
    """A consumer that saves its token after each message, killed before it saves one; each other time the gateway."""
    chance, token, seen, most, again = random.Random(4), "", set[str](), 0, 0
    largest = 0
    for kill in range(kills + 1):
        stub = Stub(channel(gateway.target))
        left = chance.randint(1, max(1, rows // 5_000 // (kills + 1))) if kill < kills else None
        repeated = 0
        for batch in _batches(stub, token):
            keys = {event.key.partition_key for event in batch.events}
            repeated += len(keys & seen)
            seen |= keys
            largest = max(largest, len(batch.events))
            if left == 0:
                break
            token = batch.continuation_token
            left = left and left - 1
        most, again = max(most, repeated), again + repeated
        if kill % 2 and kill < kills:
            gateway.kill()
            gateway.start()
    if len(seen) != rows:
        raise RuntimeError(f"{len(seen)} of {rows} rows arrived")
    report.record("snapshot kills", {"kills": kills, "most": most, "all": again, "page": largest})
    report.table(
        f"{kills} kills of a consumer that had not saved its last message, half of them with the gateway",
        ["", "items"],
        [["read again after one kill, at most", f"{most:,}"], ["a page, at most", f"{largest:,}"]],
        "Aim: at most one page.",
    )


def _batches(stub: Any, token: str) -> Iterator[subscribe_pb2.ChangeBatch]:
    """The messages of a stream up to the end of the snapshot."""
    request = subscribe_pb2.SubscribeRequest(
        address=address(_TABLE), start_position=start_of(token, "snapshot"), max_batch_size=5_000
    )
    stream = stub.Subscribe(request)
    try:
        for message in stream:
            if message.HasField("batch"):
                yield message.batch
            if message.HasField("snapshot_finished"):
                return
    finally:
        stream.cancel()


def _profile(database: Database, report: Report, rows: int) -> None:
    file = database.directory / "profile.json"
    with Gateway(database.directory, database.dsn, profile=file) as gateway:
        for _, read in snapshots(gateway, rows):
            read()
    functions = [[name, f"{own:.1%}", f"{within:.1%}"] for name, own, within in top_functions(file)]
    report.table("Where the gateway spends its time", ["function", "own", "with its calls"], functions)
    report.table("The same by line", ["line", "own"], [[name, f"{own:.1%}"] for name, own in top_lines(file)])
