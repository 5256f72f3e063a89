"""The gateway's numbers as Prometheus takes them: read when they are asked for."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Final, TypeVar
from wsgiref.types import WSGIApplication

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from changefeed_gateway.app.monitoring.http import OnLoop, Serving
from changefeed_gateway.core.meter import FeedGauges, Gauges, Meter
from changefeed_gateway.core.observation import Distribution, Observation

PREFIX: Final = "changefeed"
_FEED: Final = ("connection", "collection")

_Key = TypeVar("_Key", bound=tuple[str, ...])


def process_registry(observation: Observation, meter: Meter, serving: Serving, on_loop: OnLoop) -> CollectorRegistry:
    """All metrics of a gateway in this process, and of the process; collected in another thread than the loop's."""
    registry = process_alone()
    registry.register(_Gateway(observation, meter, serving, on_loop))
    return registry


def process_alone() -> CollectorRegistry:
    """The metrics of this process."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def metrics_application(*collectors: Collector) -> WSGIApplication:
    """The WSGI application that writes metrics as they are asked for."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    return make_wsgi_app(registry)


class Workers(Collector):
    """How many processes serve."""

    def __init__(self, count: Callable[[], tuple[int, int]]) -> None:
        """`count` answers how many serve now, and how often one was started anew."""
        self._count = count

    def collect(self) -> Iterable[Metric]:
        """Count now."""
        serving, starts = self._count()
        yield _gauge("workers", "Processes of the gateway that serve now.", (), {(): float(serving)})
        yield _counter(
            "worker_restarts", "Processes that ended unasked and were started anew.", (), {(): float(starts)}
        )


class _Gateway(Collector):
    """Reads a gateway on its loop, and gives what it read to the thread that writes it."""

    def __init__(self, observation: Observation, meter: Meter, serving: Serving, on_loop: OnLoop) -> None:
        self._observation, self._meter, self._serving, self._on_loop = observation, meter, serving, on_loop

    def collect(self) -> Iterable[Metric]:
        return self._on_loop.ask(self._read())

    async def _read(self) -> list[Metric]:
        gauges, serving = await self._meter.read(), await self._serving()
        return [
            *_calls(self._observation),
            *_streams(self._observation, gauges),
            *_tails(gauges),
            *_providers(self._observation, gauges),
            _gauge(
                "connection_serving",
                "1 while a connection serves: its database answers and its feeds move.",
                ("connection",),
                {(name,): float(serves) for name, serves in serving.items()},
            ),
            _histogram(
                "event_loop_stall_seconds",
                "How late the event loop came to what was due, looked at ten times a second.",
                (),
                {(): self._observation.stalls},
            ),
        ]


def _calls(seen: Observation) -> Iterator[Metric]:
    yield _counter("calls", "Calls that have ended, streams too.", ("method", "code"), seen.calls)
    yield _counter(
        "call_errors",
        "Errors that callers were told, by the reason in their details.",
        ("reason",),
        {(reason,): count for reason, count in seen.errors.items()},
    )
    yield _histogram(
        "call_seconds",
        "How long calls took that answer once, long polls included.",
        ("method",),
        {(method,): found for method, found in seen.call_seconds.items()},
    )


def _streams(seen: Observation, gauges: Gauges) -> Iterator[Metric]:
    delivered = {(*feed, method): found for (feed, method), found in seen.delivered.items()}
    labels = (*_FEED, "method")
    for what, meaning in (
        ("events", "Events that consumers took."),
        ("bytes", "Bytes of the messages that consumers took, as they are on the wire."),
        ("messages", "Messages that consumers took, heartbeats too."),
    ):
        values = {key: float(getattr(found, what)) for key, found in delivered.items()}
        yield _counter(f"delivered_{what}", meaning, labels, values)
    yield _counter(
        "streams_ended",
        "Streams that have ended, by closing reason; failed or cancelled without one.",
        (*_FEED, "reason"),
        {(*feed, reason): count for (feed, reason), count in seen.ended.items()},
    )
    yield _gauge(
        "streams",
        "Open streams by state.",
        (*_FEED, "state"),
        {(*name, state): count for name, feed in gauges.feeds.items() for state, count in feed.streams.items()},
    )
    yield _of_feeds(
        gauges,
        "stream_lag_seconds",
        "Of the stream that is furthest behind: everything committed longer ago was delivered to it.",
        lambda feed: _seconds(feed.lag),
    )
    yield _of_feeds(
        gauges,
        "stream_changes_behind",
        "At most how many changes are still to come to the stream that is furthest behind.",
        lambda feed: feed.changes_behind,
    )
    yield _of_feeds(
        gauges,
        "token_expiry_seconds",
        "Until the first token that the consumer of an open stream has is expected to expire.",
        lambda feed: _seconds(feed.expiry),
    )
    yield _of_feeds(
        gauges,
        "write_blocked_seconds",
        "How long the consumer that has kept a message waiting longest has done so.",
        lambda feed: feed.blocked.total_seconds() if feed.streams else None,
    )
    yield _histogram(
        "write_wait_seconds",
        "Of messages that waited for their consumer for 10 ms and longer.",
        (),
        {(): seen.write_seconds},
    )


def _tails(gauges: Gauges) -> Iterator[Metric]:
    yield _of_feeds(
        gauges,
        "feed_lag_seconds",
        "Of a feed that is followed: everything committed longer ago is in the ring of its tail.",
        lambda feed: _seconds(feed.tail_lag),
    )
    for what, meaning in (
        ("pages", "Pages in the ring of a feed's tail."),
        ("changes", "Changes in the ring of a feed's tail."),
        ("followers", "Streams that follow a feed's tail, or are on their way there."),
    ):
        yield _of_feeds(gauges, f"tail_{what}", meaning, _tail_gauge(what))
    yield _gauge("ring_bytes", "Memory of the rings of all tails.", (), {(): gauges.ring_bytes})
    yield _gauge("ring_limit_bytes", "Its limit, limits.ring_bytes.", (), {(): gauges.ring_limit})
    yield _gauge("page_bytes", "Memory of the pages that streams have in hand.", (), {(): gauges.page_bytes})
    yield _gauge("page_limit_bytes", "Its limit, limits.page_budget_bytes.", (), {(): gauges.page_limit})


def _tail_gauge(what: str) -> Callable[[FeedGauges], float | None]:
    return lambda feed: float(getattr(feed, f"tail_{what}")) if feed.tail_followers else None


def _providers(seen: Observation, gauges: Gauges) -> Iterator[Metric]:
    connections = seen.connections.items()
    one = ("connection",)
    yield _counter(
        "provider_questions",
        "Questions to a provider that were answered, those that waited for changes too.",
        (*one, "operation"),
        {(name, operation): count for name, found in connections for operation, count in found.answered.items()},
    )
    yield _counter(
        "provider_errors",
        "Questions to a provider that failed, by reason.",
        (*one, "operation", "reason"),
        {
            (name, operation, reason): count
            for name, found in connections
            for operation, asked in found.operations.items()
            for reason, count in asked.errors.items()
        },
    )
    yield _histogram(
        "provider_seconds",
        "How long a provider took to answer what did not wait for changes.",
        (*one, "operation"),
        {
            (name, operation): asked.seconds
            for name, found in connections
            for operation, asked in found.operations.items()
        },
    )
    yield _counter(
        "provider_calls", "Calls to the database that pages took.", one, {(name,): c.calls for name, c in connections}
    )
    yield _counter(
        "provider_charge",
        "What the database says that they cost, in its own unit.",
        one,
        {(name,): c.charge for name, c in connections},
    )
    parts = gauges.connections.items()
    yield _counter(
        "catch_up_reads", "Reads for streams that are not at a tail.", one, {(n,): g.catch_up_reads for n, g in parts}
    )
    yield _gauge("catch_up_reads_under_way", "Of these now.", one, {(n,): g.catch_up_under_way for n, g in parts})
    yield _gauge("catch_up_reads_waiting", "Of these in turn.", one, {(n,): g.catch_up_waiting for n, g in parts})
    yield from _measures(gauges)


def _measures(gauges: Gauges) -> Iterator[Metric]:
    """What providers tell of themselves."""
    families: dict[str, Metric] = {}
    for name, connection in gauges.connections.items():
        for measure in connection.measures:
            labels = {"connection": name, **measure.labels}
            family = families.get(measure.name)
            if family is None:
                make = CounterMetricFamily if measure.kind == "counter" else GaugeMetricFamily
                family = families[measure.name] = make(
                    f"{PREFIX}_{measure.name}", measure.meaning, labels=tuple(labels)
                )
            family.add_metric(tuple(labels.values()), measure.value)  # type: ignore[attr-defined]
    yield from families.values()


def _of_feeds(gauges: Gauges, name: str, meaning: str, value: Callable[[FeedGauges], float | None]) -> Metric:
    found = {feed: value(of_feed) for feed, of_feed in gauges.feeds.items()}
    return _gauge(name, meaning, _FEED, {feed: number for feed, number in found.items() if number is not None})


def _counter(name: str, meaning: str, labels: tuple[str, ...], values: Mapping[_Key, float]) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}_{name}", meaning, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _gauge(name: str, meaning: str, labels: tuple[str, ...], values: Mapping[_Key, float]) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", meaning, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(name: str, meaning: str, labels: tuple[str, ...], values: Mapping[_Key, Distribution]) -> Metric:
    family = HistogramMetricFamily(f"{PREFIX}_{name}", meaning, labels=labels)
    for key, found in values.items():
        total = 0
        buckets = []
        for bound, count in zip((*map(str, found.bounds), "+Inf"), found.counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family.add_metric(key, buckets, found.total)
    return family


def _seconds(time: timedelta | None) -> float | None:
    return None if time is None else time.total_seconds()
