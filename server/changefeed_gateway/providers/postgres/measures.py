"""What the provider tells of itself, from what it holds anyway: nothing here asks the database."""

from collections.abc import Iterable, Iterator, Sequence

from changefeed_gateway.core.errors import TransientFailure
from changefeed_gateway.core.model import Cursor
from changefeed_gateway.core.observation import Measure
from changefeed_gateway.core.supervision import Supervisor
from changefeed_gateway.providers.postgres.connections import Connections
from changefeed_gateway.providers.postgres.cursor import decode_position
from changefeed_gateway.providers.postgres.retention.run import RetentionRuns
from changefeed_gateway.providers.postgres.ticks.doorbell import Doorbell
from changefeed_gateway.providers.postgres.ticks.feed import FeedTicks
from changefeed_gateway.providers.postgres.ticks.sequences import SequenceWatch


def changes_after(ticks: FeedTicks, cursor: Cursor) -> int | None:
    """At most how many changes of a feed follow a cursor: numbers of its sequence, also those that were rolled back."""
    (position, _), newest = decode_position(cursor), ticks.ticker.newest
    if newest is None:
        return None
    if position.seq:
        return max(newest.last_seq - position.seq, 0)
    base = newest if position.tick == newest.id else ticks.window.known(position.tick)
    return None if base is None else max(newest.last_seq - base.last_seq, 0)


def check_ticks(feeds: Iterable[FeedTicks]) -> None:
    """Raise TransientFailure when a feed that somebody waits for does not move: its questions have no answer."""
    for feed in feeds:
        if feed.ticker.stalled:
            raise TransientFailure(
                f"the feed {feed.definition.name!r} does not move: PostgreSQL has not answered its questions for ticks"
                f" for {feed.ticker.silence:.1f} s"
            )


def measures(
    feeds: Sequence[FeedTicks],
    *,
    connections: Connections,
    supervisor: Supervisor,
    retention: RetentionRuns | None,
    doorbell: Doorbell | None,
    watch: SequenceWatch | None,
) -> Iterator[Measure]:
    """All of them; `retention` and `doorbell` only where this gateway has them."""
    for feed in feeds:
        labels = {"collection": feed.definition.name}
        ticker = feed.ticker
        yield Measure("postgres_tick_questions_total", "counter", "Questions for a tick.", ticker.questions, labels)
        yield Measure("postgres_ticks_total", "counter", "Ticks that were new to this gateway.", ticker.ticks, labels)
        yield Measure(
            "postgres_tick_silence_seconds",
            "gauge",
            "Time for which somebody waits and PostgreSQL has not answered a question for a tick.",
            ticker.silence,
            labels,
        )
    if watch is not None:
        yield Measure(
            "postgres_feeds_without_ticks",
            "gauge",
            "Feeds that nobody reads here and whose last tick failed.",
            watch.failing,
        )
    if doorbell is not None:
        yield Measure(
            "postgres_doorbell_listening", "gauge", "1 while the doorbell is heard.", doorbell.listening.is_set()
        )
        yield Measure("postgres_doorbell_rings_total", "counter", "Rings that were heard.", doorbell.rings)
        yield Measure(
            "postgres_doorbell_passed_over_total",
            "counter",
            "Notifications that were not the change log's.",
            doorbell.passed_over,
        )
    if retention is not None:
        yield from _retention(retention)
    yield Measure(
        "postgres_task_failures_total",
        "counter",
        "Failures of long-lived tasks, each started anew.",
        supervisor.failures,
    )
    pool = connections.pool_stats()
    yield Measure("postgres_connections", "gauge", "Connections of the pool.", pool.get("pool_size", 0))
    yield Measure(
        "postgres_connections_waited_for", "gauge", "Statements that wait for one.", pool.get("requests_waiting", 0)
    )


def _retention(runs: RetentionRuns) -> Iterator[Measure]:
    yield Measure("postgres_retention_runs_total", "counter", "Retention runs that ended well.", runs.succeeded)
    yield Measure(
        "postgres_retention_failures_total", "counter", "Retention runs that something was in the way of.", runs.failed
    )
    yield Measure(
        "postgres_retention_age_seconds",
        "gauge",
        "Since the last run that ended well, or since this gateway began.",
        runs.age,
    )
