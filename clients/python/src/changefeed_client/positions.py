"""Short ways to say which collection, which part of it, and where to start."""

from datetime import datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from changefeed.v1.position_pb2 import Beginning, Now, Snapshot, StartPosition
from changefeed.v1.resource_pb2 import FeedScope, ResourceAddress

BEGINNING: Final = StartPosition(beginning=Beginning())
"""The oldest retained change."""

NOW: Final = StartPosition(now=Now())
"""Changes committed after the gateway's first answer."""

SNAPSHOT: Final = StartPosition(snapshot=Snapshot())
"""The items that exist, as events of CHANGE_TYPE_SNAPSHOT, then the changes. Gated by CHANGE_FEED_SNAPSHOT."""


def at_time(time: datetime) -> StartPosition:
    """Every change committed at or after an aware time, and possibly some from shortly before."""
    if time.tzinfo is None:
        raise ValueError("at_time needs a time with a time zone")
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return StartPosition(at_time=timestamp)


def after(continuation_token: str) -> StartPosition:
    """After the position of a token from any earlier answer."""
    return StartPosition(continuation_token=continuation_token)


def collection(path: str, *, database: str = "") -> ResourceAddress:
    """The address of `connection/collection`. Raises ValueError for a text of another shape."""
    connection, _, name = path.partition("/")
    if not connection or not name:
        raise ValueError(f"not connection/collection: {path!r}")
    return ResourceAddress(connection=connection, database=database, collection=name)


def physical_partition(partition_id: str) -> FeedScope:
    """One physical partition."""
    return FeedScope(physical_partition_id=partition_id)


def logical_partition(partition_key: str) -> FeedScope:
    """One logical partition, named by the text of `ChangeEvent.key.partition_key`."""
    return FeedScope(logical_partition=partition_key)
