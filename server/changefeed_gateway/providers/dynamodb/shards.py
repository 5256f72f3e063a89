"""The shards of a stream, as its listing shows them, which is not always one consistent picture."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from graphlib import TopologicalSorter
from typing import Any, Final, NamedTuple

from changefeed_gateway.core.errors import CheckpointExpired, ProviderFailure, TransientFailure
from changefeed_gateway.core.model import Partition, PartitionId, PartitionState
from changefeed_gateway.core.refusals import ForTheCaller
from changefeed_gateway.core.shared import SharedQuestion
from changefeed_gateway.providers.dynamodb.errors import ShardGone
from changefeed_gateway.providers.dynamodb.sdk import Sdk

_MOST_PAGES: Final = 1_000
"""Of 100 shards each."""
_PAUSES: Final = (0.05, 0.1, 0.2)
"""Seconds between looks at a listing that is not complete."""
_RECENT: Final = 60
"""Seconds, by the service's clock, for which a listing will do."""


class Shard(NamedTuple):
    """One shard of a listing."""

    shard_id: str
    parent_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All shards of a stream, parents before their children."""

    shards: Sequence[Shard]
    enabled: bool

    def children_of(self, shard_id: str) -> list[Shard]:
        """The shards that go on where one ended."""
        return [shard for shard in self.shards if shard.parent_id == shard_id]

    def orphans_of(self) -> set[str]:
        """Parents that are not listed: forgotten by the service, or not listed yet."""
        return {shard.parent_id for shard in self.shards if shard.parent_id} - {s.shard_id for s in self.shards}

    def partitions(self) -> list[Partition]:
        """The shards as the core knows them.

        Who has a listed child has ended, whatever is said of itself. Who has none may have ended too: its children come
        with its end, so that a reader from now on misses none that is listed late.
        """
        listed = {shard.shard_id for shard in self.shards}
        ended = {shard.parent_id for shard in self.shards}
        return [
            Partition(
                partition_id=PartitionId(shard_id),
                parents=(PartitionId(parent_id),) if parent_id is not None and parent_id in listed else (),
                state=PartitionState.RETIRED if shard_id in ended else PartitionState.ACTIVE,
            )
            for shard_id, parent_id in self.shards
        ]


async def list_shards(sdk: Sdk, stream_arn: str, *, children_of: str | None = None) -> Listing:
    """Read all pages of a stream's listing, or of the children of one shard. Raises StreamGone.

    An endpoint that does not know the filter, as DynamoDB Local, lists every shard all the same.
    """
    found: dict[str, dict[str, Any]] = {}
    enabled = True
    page: dict[str, Any] = {}
    if children_of is not None:
        page["ShardFilter"] = {"Type": "CHILD_SHARDS", "ShardId": children_of}
    for _ in range(_MOST_PAGES):
        described = (await sdk.call("DescribeStream", StreamArn=stream_arn, **page)).body
        enabled = described["StreamStatus"] in ("ENABLED", "ENABLING")
        found |= {shard["ShardId"]: shard for shard in described.get("Shards", ())}
        last = described.get("LastEvaluatedShardId")
        if not last:
            return Listing(shards=_in_order(found), enabled=enabled)
        page["ExclusiveStartShardId"] = last
    raise ProviderFailure("the listing of the stream's shards does not end")


def _in_order(found: dict[str, dict[str, Any]]) -> list[Shard]:
    parents = {shard_id: shard.get("ParentShardId") for shard_id, shard in found.items()}
    graph = {shard_id: [parent] if parent in found else [] for shard_id, parent in parents.items()}
    return [Shard(shard_id, parents[shard_id]) for shard_id in TopologicalSorter(graph).static_order()]


class Genealogy:
    """Listings of one stream in which no living parent is missing, and no child that is listed a little later.

    A shard whose parent is listed late must not be taken for the first of its line: its changes would arrive before
    its parent's. And of a split one child may be listed before the other, which a reader from now on would never hear
    of. So what no earlier listing has shown counts when two looks agree.
    """

    def __init__(self, sdk: Sdk, stream_arn: str) -> None:
        self._sdk = sdk
        self._stream_arn = stream_arn
        self._forgotten: set[str] = set()
        self._recent: Listing | None = None
        self._listed_at = 0
        self._questions = SharedQuestion[Listing](goes_on=True, foreseen=ForTheCaller)

    def close(self) -> None:
        """End what is under way; who waits is told so."""
        self._questions.close()

    async def recent(self) -> Listing:
        """A listing of the last minute, for who asks of one shard after the other. Raises as `listing` does."""
        if self._recent is None or self._sdk.time - self._listed_at > _RECENT:
            return await self.listing()
        return self._recent

    async def listing(self) -> Listing:
        """A listing, shared by all who ask before it begins: the service gives ten a second.

        Raises StreamGone, and TransientFailure while it is not complete.
        """
        return await self._questions.ask("listing", self._list)

    async def _list(self) -> Listing:
        before = self._recent
        for pause in (*_PAUSES, None):
            listing = await list_shards(self._sdk, self._stream_arn)
            agreed = before is not None and set(listing.shards) <= set(before.shards)
            before = listing
            orphans = listing.orphans_of()
            self._forgotten &= orphans
            self._forgotten |= {parent for parent in orphans - self._forgotten if not await self._lives(parent)}
            if listing.shards and orphans == self._forgotten and agreed:
                self._recent, self._listed_at = listing, self._sdk.time
                return listing
            if pause is not None:
                await asyncio.sleep(pause)
        raise TransientFailure(
            "the listing of the stream's shards is not complete yet: try again",
            retry_after=timedelta(seconds=1),
        )

    async def _lives(self, shard_id: str) -> bool:
        try:
            await self._sdk.call(
                "GetShardIterator", StreamArn=self._stream_arn, ShardId=shard_id, ShardIteratorType="TRIM_HORIZON"
            )
        except (ShardGone, CheckpointExpired):
            return False
        return True
