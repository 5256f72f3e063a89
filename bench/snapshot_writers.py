"""What writers keep of their throughput beside snapshots, and beside other readers of the same table, in turn."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from bench.database import Database
from bench.figures import median, spread
from bench.gateway import Gateway
from bench.processes import Answer, ForeignLoad, Worker
from bench.report import Report

_CLIENTS: Final = 8
_AIM: Final = 0.9

Job = dict[str, object]


@dataclass(slots=True)
class _Reader:
    """What reads beside the writers, if anything does."""

    name: str
    worker: str
    job: Callable[[], Job] = dict
    rounds: list[Answer] = field(default_factory=list)

    def middle(self, name: str) -> float:
        return float(median([answer[name] for answer in self.rounds]))

    @contextmanager
    def beside(self) -> Iterator[Answer]:
        """Read for as long as the block takes; the answer is filled after it."""
        answer: Answer = {"events": 0, "seconds": 1.0, "client_cpu": 0.0}
        if not self.worker:
            yield answer
            return
        with Worker(self.worker, self.job()) as worker:
            worker.await_ready()
            worker.go()
            yield answer
            worker.finish()
            answer |= worker.answer()


def measure_writers(
    database: Database, gateway: Gateway, report: Report, *, table: str, rows: int, rounds: int, seconds: float
) -> None:
    """Single-row updates at full speed, with each reader beside them and without, in turn."""
    snapshots = _Reader("snapshots", "snapshot.again", lambda: {"target": gateway.target, "collection": table})

    def keyset(name: str, per_second: Callable[[], float]) -> _Reader:
        job = {"dsn": database.dsn, "table": table, "page_size": 1_000}
        return _Reader(name, "keyset.rows_again", lambda: job | {"per_second": per_second()})

    alone = _Reader("alone", "")
    readers = [
        alone,
        snapshots,
        # The price of so many rows a second for whoever reads them.
        keyset("keyset pages of psycopg, as many rows a second", lambda: snapshots.rounds[-1]["read_per_second"]),
        keyset("keyset pages of psycopg", lambda: 0.0),
        _Reader("COPY", "keyset.copy_again", lambda: {"dsn": database.dsn, "table": table}),
    ]
    others = ForeignLoad()
    for _ in range(max(2, rounds)):
        for reader in readers:
            server, served = database.cpu(), gateway.cpu()
            with reader.beside() as read:
                run_ = database.update_orders(table, clients=_CLIENTS, rows=rows, seconds=seconds)
                spent = {"server_cpu": server.seconds(), "gateway_cpu": served.seconds()}
            answer = spent | read
            answer |= {"per_second": run_.per_second, "read_per_second": answer["events"] / answer["seconds"]}
            reader.rounds.append(answer)
            report.record("snapshot writers", {"beside": reader.name, **answer})
    report.table(
        f"Single-row updates of {_CLIENTS} writers for {seconds:.0f} s, with a reader beside them",
        ["", "updates/s", "spread", "of alone", "in rounds", "rows/s read", "PostgreSQL", "gateway", "client"],
        [_row(reader, alone, seconds) for reader in readers],
        f"Aim: {_AIM} beside snapshots. The last three: cores that each took, of those that all share.",
        str(others),
    )


def _row(reader: _Reader, alone: _Reader, seconds: float) -> list[str]:
    rates = [answer["per_second"] for answer in reader.rounds]
    shares = [beside / answer["per_second"] for beside, answer in zip(rates, alone.rounds, strict=True)]
    return [
        reader.name,
        f"{median(rates):,.0f}",
        f"{spread(rates):.0%}",
        f"{median(shares):.2f}",
        " ".join(f"{share:.2f}" for share in shares),
        f"{reader.middle('read_per_second'):,.0f}",
        *(f"{reader.middle(name) / seconds:.2f}" for name in ("server_cpu", "gateway_cpu", "client_cpu")),
    ]
