"""(b) How long after its commit a change reaches a client's handler."""

import time
from contextlib import ExitStack
from typing import Final

from bench.database import Database
from bench.figures import median
from bench.gateway import Gateway
from bench.processes import Answer, ForeignLoad, Worker
from bench.report import Report
from bench.workers.latency import summary

TABLE: Final = "public.ledger"
_WRITERS: Final = 8
_WARM_UP_SECONDS: Final = 5.0
_ROWS_EACH: Final = 100
_AIMS: Final = "aim at 2000/s: p50 2 ms, p99 6 ms"


class Latency:
    """Writers on an open schedule; one subscriber that compares the stamp in each row with its clock."""

    def __init__(
        self, database: Database, gateway: Gateway, report: Report, credentials: dict[str, str] | None = None
    ) -> None:
        self._database, self._gateway, self._report = database, gateway, report
        self._credentials = credentials

    def run(self, rates: list[int], seconds: float, rounds: int) -> None:
        """Measure each rate in turn and print."""
        rows, others = [], ForeignLoad()
        for rate in rates:
            answers = [self.measure(rate, seconds, number) for number in range(rounds)]
            rows.append(_row(f"{rate}/s to handler", [answer["handler"] for answer in answers], answers))
            rows.append(_row(f"{rate}/s UPDATE answered", [answer["writer"] for answer in answers], None))
        self._report.record("foreign load", {"part": "latency", "cores": others.cores()})
        self._report.table(
            f"(b) From just before the UPDATE, {_WRITERS} writers, {seconds:.0f} s after {_WARM_UP_SECONDS:.0f} s, "
            f"{rounds} rounds: milliseconds",
            [
                *("", "p50", "p95", "p99", "max", "p50 of rounds"),
                *("gateway cores", "server cores", "events a message"),
            ],
            rows,
            f"Medians over the rounds; {_AIMS}. 'UPDATE answered' is PostgreSQL alone: when the writer had its answer.",
            str(others),
        )

    def measure(self, rate: int, seconds: float, number: int) -> Answer:
        """Measure one rate once."""
        with ExitStack() as stack:
            job = {
                "target": self._gateway.target,
                "collection": TABLE,
                "warm_up": _WARM_UP_SECONDS,
                "credentials": self._credentials,
            }
            listener = stack.enter_context(Worker("latency.listen", job))
            writers = [stack.enter_context(self._writer(index, rate, seconds)) for index in range(_WRITERS)]
            for worker in (listener, *writers):
                worker.await_ready()
            begin_at = time.time() + 0.5
            for worker in (listener, *writers):
                worker.go(begin_at)
            sleep_until(begin_at + _WARM_UP_SECONDS)
            gateway, server = self._gateway.cpu(), self._database.cpu()
            sleep_until(begin_at + _WARM_UP_SECONDS + seconds)
            cores = {"gateway_cores": gateway.seconds() / seconds, "server_cores": server.seconds() / seconds}
            written = [writer.answer() for writer in writers]
            listener.finish()
            heard = listener.answer()
        return self._answer(rate, number, heard, written) | cores

    def _writer(self, index: int, rate: int, seconds: float) -> Worker:
        interval = _WRITERS / rate
        job = {
            "dsn": self._database.dsn,
            "table": TABLE,
            "rows": _ROWS_EACH,
            "first_row": 1 + index * _ROWS_EACH,
            "interval": interval,
            # Spread over the interval, so that the writers do not act in step.
            "delay": index * interval / _WRITERS,
            "warm_up": _WARM_UP_SECONDS,
            "seconds": seconds,
        }
        return Worker("latency.write", job)

    def _answer(self, rate: int, number: int, heard: Answer, written: list[Answer]) -> Answer:
        writes = sum(answer["writes"] for answer in written)
        acknowledged = [age for answer in written for age in answer["acknowledged_ms"]]
        answer = {
            "rate": rate,
            "round": number,
            "writes": writes,
            "events": heard["events"],
            "messages": heard["messages"],
            "handler": {name: heard[name] for name in ("p50", "p95", "p99", "max", "measured")},
            "writer": summary(acknowledged),
            "late_ms": max(answer["late_ms"] for answer in written),
        }
        self._report.record("latency", answer)
        # Each writer also wrote once before the listener may have been there.
        if not writes <= heard["events"] <= writes + _WRITERS:
            self._report.say(f"[red]{writes} writes, {heard['events']} events heard[/red]")
        return answer


def prepare_ledger(database: Database) -> None:
    """Make and watch the table that is written to."""
    database.make_orders(TABLE)
    database.fetch("SELECT changefeed.watch(%s)", (TABLE,))


def sleep_until(moment: float) -> None:
    """Sleep until a time of the clock."""
    time.sleep(max(0.0, moment - time.time()))


def _row(name: str, figures: list[Answer], answers: list[Answer] | None) -> list[str]:
    middles = [median([figure[key] for figure in figures]) for key in ("p50", "p95", "p99", "max")]
    lowest, highest = min(figure["p50"] for figure in figures), max(figure["p50"] for figure in figures)
    row = [name, *(f"{value:.2f}" for value in middles), f"{lowest:.2f}-{highest:.2f}"]
    if answers is None:
        return [*row, "", "", ""]
    cores = [f"{median([answer[key] for answer in answers]):.2f}" for key in ("gateway_cores", "server_cores")]
    messages = median([answer["events"] / max(1, answer["messages"]) for answer in answers])
    return [*row, *cores, f"{messages:.1f}"]
