"""Bounds on everything a caller can ask for or a stream can hold."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The gateway's limits; the settings may narrow or widen them."""

    default_page_size: int = 1_000
    max_page_size: int = 5_000
    max_message_bytes: int = 3_500_000
    """Records of one page or batch together; clients accept 4 MiB by default."""
    max_item_bytes: int = 3_000_000
    max_wait: timedelta = timedelta(seconds=30)
    default_heartbeat: timedelta = timedelta(seconds=10)
    min_heartbeat: timedelta = timedelta(milliseconds=500)
    max_heartbeat: timedelta = timedelta(seconds=60)
    max_stream_age: timedelta = timedelta(hours=1)
    max_streams: int = 2_000
    peer_stream_share: float = 0.25
    """The part of `max_streams` that one host may hold."""
    max_calls: int = 1_000
    """Unary calls under way at once."""
    peer_call_share: float = 0.5
    """The part of `max_calls` that one host may hold."""
    max_connections: int = 10_000
    """Connections at once; fewer where the process may not open as many files."""
    peer_connections: int = 1_000
    """Connections of one host; at most half of those that there may be."""
    peer_bad_tokens: float = 50.0
    """Tokens a second of one host that are no good, before its connections that bring them are turned away unheard."""
    max_connection_age: timedelta = timedelta(hours=1)
    """After which a connection takes no new calls, give or take a tenth, so that load spreads over replicas."""
    write_timeout: timedelta = timedelta(seconds=60)
    """How long one message may wait for a slow consumer."""
    outage_patience: timedelta = timedelta(seconds=30)
    """How long a stream sits out a failing provider before it ends with a retryable error."""
    ring_bytes: int = 32_000_000
    """Memory of the rings of recent pages, those of all tails of the process together."""
    max_catch_up_reads: int = 6
    """Reads under way at once, for each connection, of streams that are not at a tail."""
    page_budget_bytes: int = 256_000_000
    """Memory of the pages that streams have in hand, all of them together."""
