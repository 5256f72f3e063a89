"""(c) What capture costs the writers."""

from dataclasses import dataclass, field
from typing import Final

from bench.database import Database
from bench.figures import median, spread
from bench.processes import ForeignLoad
from bench.report import Report

_NOTIFY: Final = """
    CREATE FUNCTION public.notify_each_commit() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('bench', txid_current()::text);
        RETURN NULL;
    END $$;
    CREATE TRIGGER notify_each_commit AFTER UPDATE ON public.tax_notify
        FOR EACH STATEMENT EXECUTE FUNCTION public.notify_each_commit();
"""
_ROWS: Final = 10_000
_AIMS: Final = {("images", 16): 0.62, ("images", 64): 0.48, ("ids only", 16): 0.66, ("ids only", 64): 0.54}


@dataclass(slots=True)
class _Variant:
    name: str
    table: str
    rates: dict[int, list[float]] = field(default_factory=dict)
    costs: dict[int, list[float]] = field(default_factory=dict)
    """Processor seconds of the server a transaction."""


class WriteTax:
    """The same single-row UPDATEs on tables that differ only in what captures their changes."""

    def __init__(self, database: Database, report: Report) -> None:
        self._database, self._report = database, report
        self._variants = [
            _Variant("no capture", "public.tax_none"),
            _Variant("images", "public.tax_images"),
            _Variant("ids only", "public.tax_ids"),
            _Variant("images, NOTIFY on every commit", "public.tax_notify"),
            _Variant("no capture again (A/A)", "public.tax_none"),
        ]

    def prepare(self) -> None:
        """Make the tables and their triggers."""
        for table in dict.fromkeys(variant.table for variant in self._variants):
            self._database.make_orders(table, _ROWS)
        captured, none = "captured", "none"
        for table, image in (("tax_images", captured), ("tax_ids", none), ("tax_notify", captured)):
            self._database.fetch("SELECT changefeed.watch(%s, image => %s)", (f"public.{table}", image))
        self._database.fetch(_NOTIFY)

    def run(self, clients: list[int], seconds: float, rounds: int) -> None:
        """Every variant in turn, round after round, so that each meets the same weather; then print."""
        others = ForeignLoad()
        for number in range(rounds):
            for count in clients:
                for variant in self._variants:
                    self._measure(variant, count, seconds, number)
        for count in clients:
            self._print(count, seconds, rounds, others)
        self._report.record("foreign load", {"part": "write tax", "cores": others.cores()})

    def _measure(self, variant: _Variant, clients: int, seconds: float, number: int) -> None:
        server = self._database.cpu()
        run = self._database.update_orders(variant.table, clients=clients, rows=_ROWS, seconds=seconds)
        cost = server.seconds() / run.transactions
        variant.rates.setdefault(clients, []).append(run.per_second)
        variant.costs.setdefault(clients, []).append(cost)
        self._report.record(
            "write tax",
            {
                "variant": variant.name,
                "clients": clients,
                "round": number,
                "per_second": run.per_second,
                "server_us": cost * 1e6,
            },
        )

    def _print(self, clients: int, seconds: float, rounds: int, others: ForeignLoad) -> None:
        none = median(self._variants[0].rates[clients])
        rows = [
            [
                variant.name,
                f"{median(rates):,.0f}",
                f"{spread(rates):.0%}",
                f"{median(rates) / none:.2f}",
                f"{_AIMS[variant.name, clients]:.2f}" if (variant.name, clients) in _AIMS else "",
                f"{median(variant.costs[clients]) * 1e6:.0f}",
            ]
            for variant in self._variants
            for rates in [variant.rates[clients]]
        ]
        self._report.table(
            f"(c) Single-row UPDATEs, {clients} clients, {rounds} rounds of {seconds:.0f} s in turn",
            ["", "transactions/s", "spread", "of no capture", "aim", "server us"],
            rows,
            "server us: processor time of PostgreSQL a transaction.",
            str(others),
        )
