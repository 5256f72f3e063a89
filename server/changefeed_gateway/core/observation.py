"""What a gateway counts of itself, as plain numbers: whoever shows them reads them when he is asked.

What is counted is counted once a message, a page or a call, never once an event. Nothing here names a key, a token, a
principal or a document, and whatever names are counted under are bounded in number.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Final, Literal, NamedTuple, Protocol, runtime_checkable

from changefeed_gateway.core.errors import Reason
from changefeed_gateway.core.model import Address, Cursor, Feed, Page

MOST_FEEDS: Final = 500
"""Feeds that are counted apart; those that come later are counted together."""
MOST_REASONS: Final = 100
OTHERS: Final = "(others)"
"""Under which name the later ones are counted."""

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class FeedName(NamedTuple):
    """A feed as it is counted: by the names of the settings and of the database, never of what is in it."""

    connection: str
    collection: str


class Distribution:
    """How many observations were how large, in seconds."""

    __slots__ = ("counts", "total")

    bounds: Final = _SECONDS

    def __init__(self) -> None:
        self.counts = [0] * (len(_SECONDS) + 1)
        """Up to each bound, each counted once; the last beyond all of them."""
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(_SECONDS, seconds)] += 1
        self.total += seconds


class Delivered:
    """What was sent of one feed by one method, since the gateway began."""

    __slots__ = ("bytes", "events", "messages")

    def __init__(self) -> None:
        self.events = self.bytes = self.messages = 0

    def count(self, events: int, size: int) -> None:
        """Count a message that was taken, with its size on the wire."""
        self.messages += 1
        self.events += events
        self.bytes += size


class Operations:
    """What one kind of question to one database came to."""

    __slots__ = ("errors", "seconds")

    def __init__(self) -> None:
        self.seconds = Distribution()
        """Of those that were answered and did not wait for changes."""
        self.errors: Counter[str] = Counter()
        """By reason."""


class ConnectionCounts:
    """What a gateway counts of one connection."""

    __slots__ = ("answered", "calls", "charge", "operations")

    def __init__(self) -> None:
        self.operations: dict[str, Operations] = {}
        self.answered: Counter[str] = Counter()
        """Questions by operation, also those that waited."""
        self.calls = 0
        """Calls to the database that its pages say they took."""
        self.charge = 0.0
        """What the database says that they cost, in its own unit."""

    def of(self, operation: str) -> Operations:
        """One kind of question."""
        found = self.operations.get(operation)
        if found is None:
            found = self.operations[operation] = Operations()
        return found

    def page(self, page: Page) -> None:
        """Count what a page took."""
        self.calls += page.provider_calls
        self.charge += page.request_charge


class Measure(NamedTuple):
    """One number that a provider tells of itself."""

    name: str
    """Such as "postgres_ticks_total", of a counter with that ending."""
    kind: Literal["counter", "gauge"]
    meaning: str
    value: float
    labels: Mapping[str, str] = {}


@runtime_checkable
class Measured(Protocol):
    """A provider that can tell more of itself than what is asked of it; nothing here asks the database."""

    def measures(self) -> Iterable[Measure]:
        """Its numbers now; labels name feeds at most."""
        ...

    def changes_after(self, feed: Feed, cursor: Cursor) -> int | None:
        """At most how many changes of the entire collection follow a cursor; None where that is not known."""
        ...


class Observation:
    """All that one gateway counts; belongs to its event loop."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        """Calls that have ended, by method and code."""
        self.call_seconds: dict[str, Distribution] = {}
        """How long those took that answer once, by method."""
        self.errors: Counter[str] = Counter({reason.value: 0 for reason in Reason})
        """Errors that callers were told, by reason; each is there from the start, so that the first one is seen to come
        (Prometheus, "Avoid missing metrics")."""
        self.delivered: dict[tuple[FeedName, str], Delivered] = {}
        """By feed and method."""
        self.ended: Counter[tuple[FeedName, str]] = Counter()
        """Streams that have ended, by feed and closing reason."""
        self.write_seconds = Distribution()
        """Of messages that waited for their consumer for `LONG_WRITE` and longer."""
        self.stalls = Distribution()
        """How late the event loop came to what was due."""
        self.connections: dict[str, ConnectionCounts] = {}
        self._feeds: set[FeedName] = set()

    def feed(self, address: Address) -> FeedName:
        """The name under which a feed that was found is counted."""
        name = FeedName(address.connection, address.collection)
        if name not in self._feeds:
            if len(self._feeds) >= MOST_FEEDS:
                return FeedName(address.connection, OTHERS)
            self._feeds.add(name)
        return name

    def delivered_of(self, feed: FeedName, method: str) -> Delivered:
        """The count of a feed and method."""
        found = self.delivered.get((feed, method))
        if found is None:
            found = self.delivered[feed, method] = Delivered()
        return found

    def connection(self, name: str) -> ConnectionCounts:
        """The counts of a connection of the settings."""
        found = self.connections.get(name)
        if found is None:
            found = self.connections[name] = ConnectionCounts()
        return found

    def call_ended(self, method: str, code: str, seconds: float | None, reason: str = "") -> None:
        """Count a call; `seconds` of one that answers once."""
        self.calls[method, code] += 1
        if reason:
            self.errors[reason if reason in self.errors or len(self.errors) < MOST_REASONS else OTHERS] += 1
        if seconds is not None:
            found = self.call_seconds.get(method)
            if found is None:
                found = self.call_seconds[method] = Distribution()
            found.observe(seconds)


LONG_WRITE: Final = 0.01
"""Seconds after which a message counts as one that waited for its consumer."""


class CallSpan(Protocol):
    """The span of a call that is under way."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        ...

    def name(self, connection: str, collection: str) -> None:
        """Say what the call is about."""
        ...

    def ended(self, code: str, reason: str) -> None:
        """Say how it ended; `reason` of an error."""
        ...


class CallTracing(Protocol):
    """Makes spans of calls."""

    def call(self, method: str, request_id: str, traceparent: str) -> AbstractContextManager[CallSpan]:
        """A span as long as the context lasts, below the caller's, which `traceparent` names (W3C Trace Context)."""
        ...


ReadTrace = Callable[[str, str, float, Page | None, BaseException | None], None]
"""Told of each question to a database after it: connection, operation, seconds, the page or the error it came to."""
