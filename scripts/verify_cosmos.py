"""Shows on a real Azure Cosmos DB account what no local server can: run it by `make verify-cosmos`.

It needs COSMOS_ENDPOINT, COSMOS_KEY (of a key that may write) and COSMOS_DATABASE (of one that exists). It makes one
container with a hierarchical key, writes to it, reads its feed in both modes through the provider, and deletes it.
"""

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from azure.core.exceptions import AzureError
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient

from changefeed_gateway.core.errors import ChangeFeedError
from changefeed_gateway.core.model import (
    Address,
    After,
    AtTime,
    Beginning,
    LogicalPartition,
    Now,
    Page,
    PageRead,
    PhysicalPartition,
    Scan,
    Scope,
    Start,
)
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.providers.cosmos.cursor import Mode, decode
from changefeed_gateway.providers.cosmos.provider import CosmosOptions, CosmosProvider
from changefeed_gateway.providers.cosmos.sdk import Endpoint

CONTAINER = f"changefeed-verify-{uuid.uuid4().hex[:8]}"
NEEDED = ("COSMOS_ENDPOINT", "COSMOS_KEY", "COSMOS_DATABASE")


async def read(provider: Provider, start: Start, scope: Scope | None = None, *, wait: float = 0.0) -> Page:
    """A page of the container's last range, or of another scope."""
    feed = await provider.open_feed(Address(connection="verify", database="", collection=CONTAINER))
    partition = (await provider.list_partitions(feed))[-1]
    return await provider.read_page(
        feed,
        PageRead(
            scope=scope or PhysicalPartition(partition.partition_id),
            start=start,
            max_changes=100 if wait or not isinstance(start, Now) else 0,
            max_bytes=1_000_000,
            max_item_bytes=1_000_000,
            max_wait=timedelta(seconds=wait),
        ),
    )


def tell(name: str, page: Page) -> None:
    """Print what a page holds."""
    changes = [(change.change_type.value, change.origin.value, change.sequence, change.key) for change in page.changes]
    print(f"{name}: {page.provider_calls} calls, {page.request_charge} request units, {changes}")


@asynccontextmanager
async def container() -> AsyncIterator[ContainerProxy]:
    async with CosmosClient(os.environ["COSMOS_ENDPOINT"], os.environ["COSMOS_KEY"]) as client:
        database = client.get_database_client(os.environ["COSMOS_DATABASE"])
        made = await database.create_container(
            CONTAINER, PartitionKey(["/tenant", "/user"], kind="MultiHash"), default_ttl=-1
        )
        try:
            yield made
        finally:
            await database.delete_container(CONTAINER)


@asynccontextmanager
async def provider_of(mode: Mode) -> AsyncIterator[CosmosProvider]:
    endpoint = Endpoint(url=os.environ["COSMOS_ENDPOINT"], key=os.environ["COSMOS_KEY"])
    provider = CosmosProvider(CosmosOptions(endpoint=endpoint, database=os.environ["COSMOS_DATABASE"], mode=mode))
    try:
        yield provider
    finally:
        await provider.aclose()


async def write(things: ContainerProxy) -> None:
    """A create, two replaces in one transaction, a delete, and an item that expires."""
    item = {"id": "a", "tenant": "t", "user": "u", "number": 9007199254740991}
    await things.create_item(item)
    again = [("upsert", (item | {"number": number},)) for number in (1, 2)]
    await things.execute_item_batch(again, partition_key=["t", "u"])
    await things.delete_item("a", partition_key=["t", "u"])
    await things.create_item({"id": "b", "tenant": "t", "user": "v", "ttl": 2})


async def verify() -> None:
    """Print what was seen; raise what was refused."""
    began = datetime.now(UTC)
    async with container() as things, provider_of(Mode.LATEST_VERSION) as latest:
        async with provider_of(Mode.ALL_VERSIONS_AND_DELETES) as every:
            both = ((Mode.LATEST_VERSION, latest), (Mode.ALL_VERSIONS_AND_DELETES, every))
            try:
                start = After((await read(every, Now())).cursor)
                prefix = LogicalPartition('["t"]')
                prefixed = After((await read(every, Now(), prefix)).cursor)
            except ChangeFeedError as error:
                print(f"all versions and deletes: {type(error).__name__}: {error}")
                await write(things)
            else:
                await write(things)
                tell("all versions and deletes", await read(every, start, wait=15))
                tell("with a hierarchical key's prefix", await read(every, prefixed, prefix, wait=15))
                await asyncio.sleep(30)
                tell("after the time to live", await read(every, start, wait=60))
                tell("items of a snapshot (_ts is their time)", await read(every, Scan(None)))
                numbers = [decode((await read(one, Now())).cursor, mode).lsn for mode, one in both]
                print(f"numbers of now in both modes, which snapshots compare: {numbers}")
                tell("nothing new", await read(every, After((await read(every, start)).cursor)))
        tell("latest version, beginning (one item expected, _lsn is there)", await read(latest, Beginning()))
        tell("latest version, at a time", await read(latest, AtTime(began)))


def main() -> int:
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        print(f"no account: set {', '.join(missing)}; nothing was done")
        return 2
    try:
        asyncio.run(verify())
    except (AzureError, ChangeFeedError) as error:
        print(f"refused: {type(error).__name__}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
