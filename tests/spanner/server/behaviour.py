"""What differs between the emulator, the service and days, or is not documented: a test chooses."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(kw_only=True)
class Behaviour:
    """May be changed while the server runs."""

    partitions: int = 1
    """How many partitions a new change stream begins with."""
    resume_tokens: bool = True
    """Whether messages have a resume token; without one the SDK holds what it has read back."""
    records_per_message: int = 100
    """How many records a message has at most."""
    chunk_every: int | None = None
    """Cut a message's last value into two messages when it is longer than so many characters."""
    nanoseconds: bool = False
    """Whether commit timestamps have digits below a microsecond."""
    emulated_values: bool = False
    """As the emulator: TIMESTAMP values in whole seconds, NaN and infinities null, NULL in an array as a text."""
    null_parents: bool = False
    """Whether the partitions of an initial query have the parents [NULL] instead of []."""
    idle_heartbeat: bool = True
    """Whether a bounded query that found nothing ends in a heartbeat."""
    bounds_told: bool = True
    """Whether the refusal of a start names the bounds within which it may lie."""
    aged_out_text: bool = False
    """Whether a partition that ended before retention is told by a text of its own."""
    heartbeat_slowdown: float = 1.0
    """By how much heartbeats come later than they were asked for."""
    opaque_transactions: bool = True
    """Whether transaction ids are base64 as in the service, or small integers as in the emulator."""
    readers: int = 20
    """How many queries of one partition may be under way at one time."""
    shortest_heartbeat: timedelta = timedelta(milliseconds=100)
    """100 ms in the emulator, a second in the service."""
    version_retention: timedelta = timedelta(hours=1)
    """How long rows can be read as they were."""
