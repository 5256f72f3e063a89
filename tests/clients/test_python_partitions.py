"""The Python client's reader of partitions, while parents of a child are asked for in vain."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from changefeed.v1.partition_pb2 import ChildPartition, ListPhysicalPartitionsResponse, PhysicalPartition
from changefeed.v1.subscribe_pb2 import CLOSING_REASON_PARTITION_RETIRED, PartitionRetired, SubscribeResponse
from changefeed_client import (
    BEGINNING,
    ChangeFeedClient,
    ClientClosed,
    Delivery,
    MemoryCheckpoint,
    collection,
    connect,
)
from tests.clients.scripted_gateway import Script, ScriptedGateway, Silence, batch, closing, opened

ADDRESS = collection("main/documents")
CHILD = ChildPartition(partition_id="q", continuation_token="t0", parent_partition_ids=["p", "unknown"])
RETIRES: Script = [
    opened("t0"),
    SubscribeResponse(partition_retired=PartitionRetired(continuation_token="t1", child_partitions=[CHILD])),
    closing(CLOSING_REASON_PARTITION_RETIRED, "t1"),
]


@asynccontextmanager
async def asking(*others: Script) -> AsyncIterator[tuple[ScriptedGateway, ChangeFeedClient, MemoryCheckpoint]]:
    """Partition p retires for a child with a parent that nobody knows; beside it others are read, named by numbers."""
    gateway, checkpoint = ScriptedGateway(RETIRES, *others), MemoryCheckpoint()
    names = ["p", *(f"{number}" for number, _ in enumerate(others))]
    gateway.listings = [
        ListPhysicalPartitionsResponse(partitions=[PhysicalPartition(partition_id=name) for name in names])
    ]
    for name in names:
        await checkpoint.save({name: "t"})
    async with asyncio.timeout(20), connect(await gateway.start()) as client:
        yield gateway, client, checkpoint
    await gateway.stop()


async def test_who_fails_meanwhile_ends_all_at_once() -> None:
    async with asking([opened("t0"), batch("t1", "a"), Silence()]) as (gateway, client, checkpoint):

        async def handle(_: str, delivery: Delivery) -> None:
            if delivery.events:
                await gateway.until(lambda: gateway.listed == 2)
                raise LookupError("its handler failed")

        with pytest.raises(LookupError):
            await client.read_partitions(ADDRESS, BEGINNING, handle, checkpoint=checkpoint)
        assert set(await checkpoint.load()) == {"p", "0"}


async def test_a_client_that_is_closed_meanwhile_waits_for_nobody() -> None:
    async with asking() as (gateway, client, checkpoint):

        async def handle(_: str, __: Delivery) -> None:
            pass

        reading = asyncio.create_task(client.read_partitions(ADDRESS, BEGINNING, handle, checkpoint=checkpoint))
        await gateway.until(lambda: gateway.listed == 2)
        await client.aclose()
        with pytest.raises(ClientClosed):
            await reading
