"""What a table says of its stream."""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from changefeed_gateway.core.errors import ChangeFeedError, FeedNotProvisioned, NotFound
from changefeed_gateway.core.model import Capability, CapabilityName, ItemState
from changefeed_gateway.core.snapshot import SNAPSHOT_CONVERGES
from changefeed_gateway.providers.dynamodb.errors import recreated
from changefeed_gateway.providers.dynamodb.mapping import KeySchema, key_schema
from changefeed_gateway.providers.dynamodb.sdk import Sdk

_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]{3,255}")
_NEW_IMAGES: Final = ("NEW_IMAGE", "NEW_AND_OLD_IMAGES")


class Stream(NamedTuple):
    """The stream of one table, from the moment it was switched on."""

    arn: str
    table: str
    schema: KeySchema
    view_type: str

    @property
    def item_state(self) -> ItemState:
        """What its records carry of an item."""
        return ItemState.INCLUDED if self.view_type in _NEW_IMAGES else ItemState.UNAVAILABLE


async def find_stream(sdk: Sdk, table: str) -> Stream:
    """Ask a table for its stream. Raises NotFound, FeedNotProvisioned and the errors of the service."""
    if not _NAME.fullmatch(table):
        raise NotFound(f"{table!r} is no name that a table can have")
    described: Mapping[str, Any] = (await sdk.call("DescribeTable", TableName=table)).body
    # After a stream was switched off its ARN is still shown.
    specification = described.get("StreamSpecification") or {}
    if not specification.get("StreamEnabled"):
        raise FeedNotProvisioned(
            f"the table {table} has no stream: switch it on with StreamSpecification StreamEnabled=true,"
            " StreamViewType=NEW_AND_OLD_IMAGES (or NEW_IMAGE, or KEYS_ONLY for changes without items)"
        )
    return Stream(
        described["LatestStreamArn"], table, key_schema(described["KeySchema"]), specification["StreamViewType"]
    )


async def what_instead(sdk: Sdk, gone: Stream) -> ChangeFeedError:
    """Why a stream is not there any more."""
    try:
        found = await find_stream(sdk, gone.table)
    except (FeedNotProvisioned, NotFound) as error:
        return error
    if found.arn == gone.arn:
        return FeedNotProvisioned(f"the stream of the table {gone.table} is not there: switch it off and on")
    return recreated()


def capabilities(stream: Stream, *, at_timestamp: bool) -> tuple[Capability, ...]:
    """What a table's stream can do."""
    missing = dict.fromkeys(
        (CapabilityName.LOGICAL_PARTITION_SCOPE, CapabilityName.SNAPSHOT_LOGICAL_PARTITION_SCOPE),
        "a shard holds many partition keys, and no index leads to one of them",
    )
    missing[CapabilityName.SNAPSHOT_PHYSICAL_PARTITION_SCOPE] = "a shard does not say which keys it holds"
    if not at_timestamp:
        missing[CapabilityName.POINT_IN_TIME] = (
            "not every endpoint can start at a time: where yours can, set at_timestamp on the connection"
        )
    if stream.item_state is ItemState.UNAVAILABLE:
        missing[CapabilityName.NEW_ITEM_STATE] = (
            f"the stream's view type is {stream.view_type}: only NEW_IMAGE and NEW_AND_OLD_IMAGES carry the new item"
        )
    details = {
        CapabilityName.BEGINNING: "the last 24 hours",
        CapabilityName.POINT_IN_TIME: "within the last 24 hours",
        CapabilityName.NEW_ITEM_STATE: "the item as the change left it",
        CapabilityName.SNAPSHOT: f"converges: {SNAPSHOT_CONVERGES.message}",
    }
    return tuple(
        Capability(name=name, supported=name not in missing, detail=missing.get(name, details.get(name, "")))
        for name in CapabilityName
    )
