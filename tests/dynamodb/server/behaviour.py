"""What differs between endpoints, regions and days, or is not documented: a test chooses."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(kw_only=True)
class Behaviour:
    """May be changed while the server runs."""

    shards: int = 1
    """How many shards a new stream begins with."""
    at_timestamp: bool = True
    """Whether the endpoint knows the iterator type AT_TIMESTAMP."""
    exact_times: bool = False
    """Whether AT_TIMESTAMP compares the exact time of a record or the one that is told, rounded down to the second."""
    shard_filter: bool = True
    """Whether the endpoint looks at ShardFilter."""
    trimmed_tip_is_error: bool = True
    """Whether AFTER_SEQUENCE_NUMBER with a trimmed number fails although nothing newer was lost."""
    end_with_last_record: bool = True
    """Whether the last records of a closed shard come without a next iterator, or an empty page follows without one."""
    leaves_shown_open: bool = False
    """Whether the shards of a stream that is switched off are still listed without an end."""
    thinking: timedelta = timedelta(0)
    """How long a GetRecords takes, so that calls made at one time are seen to be under way at one time."""
    readers: int = 2
    """How many GetRecords of one shard may be under way at one time."""
