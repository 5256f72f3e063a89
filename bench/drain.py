"""(a) How fast stored changes are read by one client that parses every event."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.database import IDLE_TICK_SECONDS, LIVE_TICK_SECONDS, Database
from bench.figures import median, spread
from bench.gateway import Gateway
from bench.processes import Answer, ForeignLoad, run_worker
from bench.report import Report

ORDERS: Final = "public.orders"
FOLLOWED: Final = "public.followed"
"""As orders, with the ticks that are made while somebody is subscribed."""
DOCUMENTS: Final = "documents"
CEILING: Final = "Python ceiling (add, keywords)"
_AIMS: Final = {"Subscribe": 0.55, "ReadChanges 1000": 0.45}


@dataclass(slots=True)
class System:
    """One way to read; `through_gateway` says whether the gateway's processor time and memory belong to it."""

    name: str
    run: Callable[[], Answer]
    through_gateway: bool
    collection: str = ORDERS
    rounds: list[Answer] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Events a second of each round."""
        return [float(answer["events"]) / float(answer["seconds"]) for answer in self.rounds]

    def middle(self, name: str) -> float:
        """The median over the rounds of one measurement; 0 where there is none."""
        return float(median([answer.get(name, 0.0) for answer in self.rounds]))


class Drain:
    """Every reader in turn on the same changes, the order turned by one each round."""

    def __init__(self, database: Database, gateway: Gateway, report: Report, events: int) -> None:
        self._database, self._gateway, self._report, self._events = database, gateway, report, events
        self._sample = database.directory / "sample.pickle"

    def run(self, rounds: int) -> None:
        """Measure and print."""
        sample = self._gateway_job(ORDERS, events=self._events, file=str(self._sample))
        sampled = run_worker("ceiling.sample", sample)
        self._report.record("drain sample", sampled)
        systems, others = self._systems(), ForeignLoad()
        for number in range(rounds):
            turn = number % len(systems)
            for system in systems[turn:] + systems[:turn]:
                self._measure(system, number)
        self._print(systems, sampled["mean_item_bytes"], others)

    def profile(self) -> None:
        """Load only the two ways through the gateway, for a profile of it."""
        for system in self._systems():
            if system.through_gateway and "documents" not in system.name:
                self._measure(system, 0)

    def documents(self, events: int, rounds: int) -> None:
        """The documents feed, whose images are read with the page."""
        systems, others = self._document_systems(events), ForeignLoad()
        for number in range(rounds):
            for system in systems:
                self._measure(system, number)
        self._print(systems, None, others)

    def _systems(self) -> list[System]:
        events, dsn, log = self._events, self._database.dsn, self._database.log_of(ORDERS)
        sample = str(self._sample)

        def ceiling(style: str) -> Callable[[], Answer]:
            return lambda: run_worker("ceiling.build", {"file": sample, "style": style})

        def keyset(page_size: int) -> Callable[[], Answer]:
            job = {"dsn": dsn, "log": log, "events": events, "page_size": page_size}
            return lambda: run_worker("keyset.read", job)

        def read(page_size: int) -> Callable[[], Answer]:
            job = self._gateway_job(ORDERS, events=events, page_size=page_size)
            return lambda: run_worker("drain.read", job)

        def subscribe(collection: str = ORDERS) -> Answer:
            return run_worker("drain.subscribe", self._gateway_job(collection, events=events))

        return [
            System(CEILING, ceiling("added"), through_gateway=False),
            System("Subscribe", subscribe, through_gateway=True),
            System("keyset 1000", keyset(1_000), through_gateway=False),
            System("ReadChanges 1000", read(1_000), through_gateway=True),
            System(f"{CEILING} again (A/A)", ceiling("added"), through_gateway=False),
            System("Subscribe again (A/A)", subscribe, through_gateway=True),
            System("keyset 5000", keyset(5_000), through_gateway=False),
            System("ReadChanges 5000", read(5_000), through_gateway=True),
            System(
                "Subscribe, ticks 2 ms apart", lambda: subscribe(FOLLOWED), through_gateway=True, collection=FOLLOWED
            ),
            System("Python, constructors", ceiling("constructed"), through_gateway=False),
            System("Python, assignments", ceiling("assigned"), through_gateway=False),
        ]

    def _document_systems(self, events: int) -> list[System]:
        stream = self._gateway_job(DOCUMENTS, events=events)
        pages = self._gateway_job(DOCUMENTS, events=events, page_size=1_000)
        return [
            System("Subscribe, documents", lambda: run_worker("drain.subscribe", stream), through_gateway=True),
            System("ReadChanges 1000, documents", lambda: run_worker("drain.read", pages), through_gateway=True),
        ]

    def _gateway_job(self, collection: str, **job: object) -> dict[str, object]:
        return {"target": self._gateway.target, "collection": collection, **job}

    def _measure(self, system: System, number: int) -> None:
        self._gateway.reset_peak_rss()
        gateway, server = self._gateway.cpu(), self._database.cpu()
        answer = system.run()
        answer["server_cpu"] = server.seconds()
        if system.through_gateway:
            answer |= {"gateway_cpu": gateway.seconds(), "gateway_peak_rss_mb": self._gateway.peak_rss_mb()}
        if answer["events"] != self._events and "documents" not in system.name:
            raise RuntimeError(f"{system.name} read {answer['events']} events of {self._events}")
        system.rounds.append(answer)
        self._report.record("drain", {"system": system.name, "round": number, **answer})

    def _print(self, systems: Sequence[System], mean_item_bytes: float | None, others: ForeignLoad) -> None:
        ceiling = next((system for system in systems if system.name == CEILING), None)
        rows = [_row(system, median(ceiling.rates) if ceiling else None) for system in systems]
        events = systems[0].rounds[0]["events"]
        notes = ["us an event: processor time. Medians; spread is (max - min) / median over the rounds."]
        if ceiling:
            notes += [_aims(systems, median(ceiling.rates)), _content_note(systems)]
        notes.append(str(others))
        self._report.record("foreign load", {"part": "drain", "cores": others.cores()})
        size = f" of {mean_item_bytes:.0f} bytes" if mean_item_bytes else ""
        self._report.table(
            f"(a) Drain of {events} stored changes{size}, {len(systems[0].rounds)} rounds",
            [
                *("", "events/s", "spread", "of ceiling", "client us", "gateway us", "server us", "peak MB"),
            ],
            rows,
            *notes,
        )


def _row(system: System, ceiling: float | None) -> list[str]:
    rate, events = median(system.rates), system.rounds[0]["events"]
    memory = system.middle("gateway_peak_rss_mb")

    def per_event(name: str) -> str:
        spent = system.middle(name)
        return f"{spent / events * 1e6:.2f}" if spent else ""

    return [
        system.name,
        f"{rate:,.0f}",
        f"{spread(system.rates):.0%}",
        f"{rate / ceiling:.2f}" if ceiling else "",
        *(per_event(name) for name in ("client_cpu", "gateway_cpu", "server_cpu")),
        f"{memory:.0f}" if memory else "",
    ]


def _aims(systems: Sequence[System], ceiling: float) -> str:
    rates = {system.name: median(system.rates) for system in systems}
    reached = [f"{name} {rates[name] / ceiling:.2f} (aim {aim})" for name, aim in _AIMS.items()]
    again = {name: rates[f"{name} again (A/A)"] / rates[name] for name in (CEILING, "Subscribe")}
    return f"Of ceiling: {', '.join(reached)}. A/A: " + ", ".join(f"{name} {r:.2f}" for name, r in again.items())


def _content_note(systems: Sequence[System]) -> str:
    contents = {
        (s.collection, answer["content"]) for s in systems for answer in s.rounds if not s.name.startswith("keyset")
    }
    same = len(contents) == len({collection for collection, _ in contents})
    return "All delivered the same content." if same else f"CONTENT DIFFERS: {sorted(contents)}"


def prepare_orders(database: Database, report: Report, events: int, *, table: str = ORDERS, live: bool = False) -> None:
    """Single-row transactions of 16 connections; ticks as while nobody reads, or (`live`) as while somebody does."""
    database.make_orders(table)
    database.fetch("SELECT changefeed.watch(%s)", (table,))
    with database.ticks(LIVE_TICK_SECONDS if live else IDLE_TICK_SECONDS):
        run = database.update_orders(table, clients=16, transactions=events)
    stored, ticks = database.stored(table)
    report.say(f"{table}: {stored:,} changes in {ticks} ticks, at {run.per_second:,.0f} transactions a second")
