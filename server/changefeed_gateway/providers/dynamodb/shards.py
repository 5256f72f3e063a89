"""The shards of a stream, as its listing shows them, which is not always one consistent picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any, Final

from changefeed_gateway.core.errors import ProviderFailure
from changefeed_gateway.core.model import Partition, PartitionId, PartitionState
from changefeed_gateway.providers.dynamodb.service import Service

_MOST_PAGES: Final = 1_000
"""Of 100 shards each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One shard of a listing."""

    shard_id: str
    parent_id: str | None
    closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All shards of a stream, parents before their children."""

    shards: Sequence[Shard]
    enabled: bool

    def children_of(self, shard_id: str) -> list[Shard]:
        """The shards that go on where one ended."""
        return [shard for shard in self.shards if shard.parent_id == shard_id]

    def partitions(self) -> list[Partition]:
        """The shards as the core knows them; a parent that is not listed any more is forgotten."""
        listed = {shard.shard_id for shard in self.shards}
        return [
            Partition(
                partition_id=PartitionId(shard.shard_id),
                parents=(PartitionId(shard.parent_id),) if shard.parent_id in listed and shard.parent_id else (),
                state=PartitionState.RETIRED if shard.closed else PartitionState.ACTIVE,
            )
            for shard in self.shards
        ]


async def list_shards(service: Service, stream_arn: str) -> Listing:
    """Read all pages of a stream's listing. Raises StreamGone."""
    found: dict[str, dict[str, Any]] = {}
    enabled = True
    page: dict[str, str] = {}
    for _ in range(_MOST_PAGES):
        described = (await service.call("DescribeStream", StreamArn=stream_arn, **page)).body
        enabled = described["StreamStatus"] in ("ENABLED", "ENABLING")
        found |= {shard["ShardId"]: shard for shard in described.get("Shards", ())}
        last = described.get("LastEvaluatedShardId")
        if not last:
            return Listing(shards=_in_order(found), enabled=enabled)
        page = {"ExclusiveStartShardId": last}
    raise ProviderFailure("the listing of the stream's shards does not end")


def _in_order(found: dict[str, dict[str, Any]]) -> list[Shard]:
    # Pages are made at different times: who has a child has ended, whatever its own page says.
    parents = {shard.get("ParentShardId") for shard in found.values()}
    graph = {
        shard_id: [parent] if (parent := shard.get("ParentShardId")) in found else []
        for shard_id, shard in found.items()
    }
    return [
        Shard(
            shard_id=shard_id,
            parent_id=found[shard_id].get("ParentShardId"),
            closed=shard_id in parents or bool(found[shard_id]["SequenceNumberRange"].get("EndingSequenceNumber")),
        )
        for shard_id in TopologicalSorter(graph).static_order()
    ]
