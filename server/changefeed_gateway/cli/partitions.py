"""`changefeed partitions ...`: the parts that can be read in parallel."""

import asyncio
from typing import Annotated

import typer

from changefeed.v1.partition_pb2 import PartitionState, PhysicalPartition
from changefeed_gateway.app import operations
from changefeed_gateway.cli.arguments import Collection, Connection, chosen_feed
from changefeed_gateway.cli.calling import GatewayOptions, calls_gateway, client_of
from changefeed_gateway.cli.exits import exits
from changefeed_gateway.cli.options import Config, Json
from changefeed_gateway.cli.output import as_dict, err, out, print_json, print_table, short
from changefeed_gateway.settings import load_settings

app = typer.Typer(help="Physical partitions: the parts that can be read in parallel.", no_args_is_help=True)

Feed = Annotated[str, typer.Argument(help="The feed, such as main/public.orders.")]


@app.command(name="list")
@calls_gateway
def list_(collection: Collection, json: Json = False, *, gateway: GatewayOptions) -> None:
    """List the physical partitions of a collection, parents before their children."""

    async def collect() -> list[PhysicalPartition]:
        async with client_of(gateway) as client:
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


@app.command()
def split(
    feed: Feed,
    partition: Annotated[str, typer.Argument(help="The partition to split, as `partitions list` names it.")],
    first_bucket: Annotated[
        int | None, typer.Option(help="First bucket of the upper part, 1 to 4095. [default: the middle]")
    ] = None,
    connection: Connection = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Split a physical partition of PostgreSQL in two. Readers of the old one are led to its children."""
    with exits():
        settings = load_settings(config)
        name, feed = chosen_feed(settings, feed, connection)
        with err.status(f"splitting {partition}"):
            new = asyncio.run(operations.split_partition(settings, name, feed, partition, first_bucket))
        if json:
            print_json("split", {"address": f"{name}/{feed}", "retired": [partition], "children": new})
            return
        out.print(f"{partition} is retired, its children are {' and '.join(new)}", markup=False, soft_wrap=True)


@app.command()
def merge(
    feed: Feed,
    first: Annotated[str, typer.Argument(help="A partition.")],
    second: Annotated[str, typer.Argument(help="Its neighbour.")],
    connection: Connection = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Merge two neighbouring physical partitions of PostgreSQL."""
    with exits():
        settings = load_settings(config)
        name, feed = chosen_feed(settings, feed, connection)
        with err.status(f"merging {first} and {second}"):
            new = asyncio.run(operations.merge_partitions(settings, name, feed, first, second))
        if json:
            print_json("merged", {"address": f"{name}/{feed}", "retired": [first, second], "children": new})
            return
        out.print(f"{first} and {second} are retired, their child is {' and '.join(new)}", markup=False, soft_wrap=True)
