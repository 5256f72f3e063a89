"""`changefeed partitions`: the parts that can be read in parallel."""

import asyncio

from changefeed.v1.partition_pb2 import PartitionState, PhysicalPartition
from changefeed_gateway.cli.arguments import Collection, Json, Target, client_of
from changefeed_gateway.cli.exits import exits
from changefeed_gateway.cli.output import as_dict, print_json, print_table, short


def partitions(collection: Collection, json: Json = False, target: Target = None) -> None:
    """List the physical partitions of a collection, parents before their children."""

    async def collect() -> list[PhysicalPartition]:
        async with client_of(target) as client:
            return [partition async for partition in client.partitions(collection)]

    with exits():
        found = asyncio.run(collect())
        if json:
            for partition in found:
                print_json("partition", as_dict(partition))
            return
        rows = [
            [
                partition.partition_id,
                short(PartitionState, partition.state).lower(),
                ", ".join(partition.parent_partition_ids),
            ]
            for partition in found
        ]
        print_table(["PARTITION", "STATE", "PARENTS"], rows)
