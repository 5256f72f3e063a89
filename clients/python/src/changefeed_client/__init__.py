"""A consumer of the change-feed gateway that resumes where it stopped.

async with connect("127.0.0.1:50051") as client:
    async for delivery in client.tail(collection("main/documents"), BEGINNING):
        for event in delivery.events:
            print(event.change_type, event.key.partition_key, event.new_item_json)
        save(delivery.continuation_token)
"""

from changefeed_client.channel import TokenFile, dialer
from changefeed_client.checkpoint import WHOLE, Checkpoint, FileCheckpoint, MemoryCheckpoint, Positions
from changefeed_client.client import OPTIONS, ChangeFeedClient, connect
from changefeed_client.errors import (
    ChangeFeedRpcError,
    ClientClosed,
    FieldViolation,
    HeartbeatMissed,
    StreamClosed,
    StreamInterrupted,
)
from changefeed_client.positions import (
    BEGINNING,
    NOW,
    SNAPSHOT,
    after,
    at_time,
    collection,
    logical_partition,
    physical_partition,
)
from changefeed_client.tail import Delivery, Tail

__all__ = [
    "BEGINNING",
    "NOW",
    "OPTIONS",
    "SNAPSHOT",
    "WHOLE",
    "ChangeFeedClient",
    "ChangeFeedRpcError",
    "Checkpoint",
    "ClientClosed",
    "Delivery",
    "FieldViolation",
    "FileCheckpoint",
    "HeartbeatMissed",
    "MemoryCheckpoint",
    "Positions",
    "StreamClosed",
    "StreamInterrupted",
    "Tail",
    "TokenFile",
    "after",
    "at_time",
    "collection",
    "connect",
    "dialer",
    "logical_partition",
    "physical_partition",
]
