"""Metrics of several processes as those of one gateway: added up, so that they are as many as those of one."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from changefeed_gateway.app.monitoring.metrics import PREFIX, process_alone

LARGEST: Final = frozenset(
    f"{PREFIX}_{name}"
    for name in (
        "feed_lag_seconds",
        "postgres_feeds_without_ticks",
        "postgres_tick_silence_seconds",
        "stream_changes_behind",
        "stream_lag_seconds",
        "write_blocked_seconds",
    )
)
"""Gauges of which the largest is the gateway's: its worst stream, its worst feed."""
SMALLEST: Final = frozenset(
    f"{PREFIX}_{name}"
    for name in (
        "connection_serving",
        "postgres_doorbell_listening",
        "postgres_retention_age_seconds",
        "token_expiry_seconds",
    )
)
"""Gauges of which the smallest is: each process must serve and hear, and one that runs retention is enough."""
SUMMED: Final = frozenset(
    f"{PREFIX}_{name}"
    for name in (
        "catch_up_reads_under_way",
        "catch_up_reads_waiting",
        "page_bytes",
        "page_limit_bytes",
        "postgres_connections",
        "postgres_connections_waited_for",
        "ring_bytes",
        "ring_limit_bytes",
        "streams",
        "tail_changes",
        "tail_followers",
        "tail_pages",
    )
)
"""All other gauges are summed too; these are named so that a new one is thought of."""
_Key = tuple[str, tuple[tuple[str, str], ...]]
"""The name of a sample, and its labels."""


class AddedUp(Collector):
    """The metrics of all workers, and of the parent's own process, which is number 0."""

    def __init__(self, ask: Callable[[], list[tuple[int, int, bytes | None]]]) -> None:
        """`ask` answers of each worker its number, which of its processes it is, and its `encoded` metrics or None."""
        self._ask = ask
        self._sums = Sums()
        self._own = process_alone()

    def collect(self) -> Iterable[Metric]:
        """Ask now."""
        told = [
            Report(number, start, None if content is None else decoded(content))
            for number, start, content in self._ask()
        ]
        return self._sums.add_up([Report(0, 1, list(self._own.collect())), *told])


class Report(NamedTuple):
    """What a worker says of itself."""

    worker: int
    start: int
    """Which of the processes in its place it is."""
    metrics: Iterable[Metric] | None
    """None when it does not answer."""


def encoded(registry: CollectorRegistry) -> bytes:
    """All metrics of this process, for the parent."""
    return json.dumps(
        [
            [metric.name, metric.documentation, metric.type, [[s.name, s.labels, s.value] for s in metric.samples]]
            for metric in registry.collect()
        ]
    ).encode()


def decoded(content: bytes) -> list[Metric]:
    """Undo `encoded`."""
    found = []
    for name, documentation, kind, samples in json.loads(content):
        metric = Metric(name, documentation, kind)
        metric.samples = [Sample(*sample) for sample in samples]
        found.append(metric)
    return found


class Sums:
    """Adds up what workers report, and remembers what those that have ended had counted: no count goes back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[int, tuple[int, dict[str, _Family]]] = {}
        self._ended: dict[str, _Family] = {}

    def add_up(self, reports: Iterable[Report]) -> list[Metric]:
        """One metric a name of the gateway's; those of processes each with the number of its worker."""
        families: dict[str, _Family] = {}
        with self._lock:
            for report in reports:
                found = _families(report)
                self._note(report, {name: family for name, family in found.items() if family.is_count})
                _add(families, (family for family in found.values() if not family.is_count))
            _add(families, self._ended.values())
            for _, counted in self._last.values():
                _add(families, counted.values())
        return [family.metric() for family in families.values()]

    def _note(self, report: Report, counted: "dict[str, _Family]") -> None:
        """Remember what a worker has counted; what one before it had counted by its end is kept for good.

        Of two who ask at once, who asked first may come last: what it brings takes nothing back.
        """
        start, last = self._last.get(report.worker, (report.start, {}))
        if report.start < start:
            return
        if report.start > start:
            _add(self._ended, last.values())
            last = {}
        for name, family in last.items():
            counted.setdefault(name, family).keep(family)
        self._last[report.worker] = report.start, counted


class _Family:
    """The samples of one metric."""

    def __init__(self, name: str, documentation: str, kind: str) -> None:
        self.name, self.documentation, self.kind = name, documentation, kind
        self.values: dict[_Key, float] = {}

    @property
    def is_count(self) -> bool:
        """Whether it is one of the gateway's that only grow."""
        return self.kind in ("counter", "histogram") and self.name.startswith(PREFIX)

    def add(self, other: "_Family") -> None:
        for key, value in other.values.items():
            mine = self.values.get(key)
            self.values[key] = value if mine is None else self._of_two(mine, value)

    def _of_two(self, one: float, other: float) -> float:
        if self.name in LARGEST:
            return max(one, other)
        return min(one, other) if self.name in SMALLEST else one + other

    def keep(self, earlier: "_Family") -> None:
        """Count no less than was counted before."""
        for key, value in earlier.values.items():
            self.values[key] = max(value, self.values.get(key, value))

    def metric(self) -> Metric:
        metric = Metric(self.name, self.documentation, self.kind)
        for (name, labels), value in self.values.items():
            metric.add_sample(name, dict(labels), value)
        return metric


def _add(families: dict[str, _Family], others: Iterable[_Family]) -> None:
    for other in others:
        found = families.get(other.name)
        if found is None:
            found = families[other.name] = _Family(other.name, other.documentation, other.kind)
        found.add(other)


def _families(report: Report) -> dict[str, _Family]:
    families: dict[str, _Family] = {}
    for metric in report.metrics or ():
        family = families.setdefault(metric.name, _Family(metric.name, metric.documentation, metric.type))
        for name, labels, value in _samples(metric, report.worker):
            family.values[name, tuple(labels.items())] = value
    return families


def _samples(metric: Metric, worker: int) -> Iterator[tuple[str, dict[str, str], float]]:
    own = {} if metric.name.startswith(PREFIX) else {"worker": str(worker)}
    for sample in metric.samples:
        yield sample.name, {**sample.labels, **own}, sample.value
