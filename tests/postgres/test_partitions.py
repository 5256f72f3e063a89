"""Physical partitions of PostgreSQL: what splits and merges refuse, and what readers of parts see."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import errors

from changefeed_gateway.core.errors import NotFound
from changefeed_gateway.core.model import (
    After,
    Beginning,
    EntireCollection,
    Now,
    PartitionId,
    PartitionState,
    PhysicalPartition,
)
from changefeed_gateway.providers.postgres.errors import OperationError
from changefeed_gateway.providers.postgres.operations import feeds as operations
from tests.postgres.conftest import Connection
from tests.postgres.reading import open_provider, page_read, read_all
from tests.postgres.shop import QUIET, Shop, keys, open_shop

FEED = "public.orders"


@pytest.fixture
async def shop(log_database: str) -> AsyncIterator[Shop]:
    async with open_shop(log_database) as shop:
        yield shop


async def split(shop: Shop, partition_id: str, first_bucket: int | None = None) -> list[str]:
    return await operations.split_partition(shop.dsn, FEED, partition_id, first_bucket)


async def state(connection: Connection) -> list[tuple[object, ...]]:
    rows = await (
        await connection.execute("SELECT p.*, t.id FROM changefeed.partitions p, changefeed_log.tick_1 t ORDER BY 2, 7")
    ).fetchall()
    return list(rows)


@pytest.mark.parametrize(
    ("partition_id", "first_bucket", "says"),
    [
        ("0-4095", 0, "first_bucket is 0, outside of the partition '0-4095'. It is the first bucket of the upper part"),
        ("0-4095", 4096, "choose 1 to 4095"),
        ("0-4095", -(2**31), "choose 1 to 4095"),
        ("0-254", None, "there is no partition '0-254'. `changefeed partitions list` names them"),
        ("", None, "there is no partition ''"),
    ],
)
async def test_a_split_that_is_refused_changes_nothing(
    shop: Shop, partition_id: str, first_bucket: int | None, says: str
) -> None:
    before = await state(shop.connection)
    with pytest.raises(OperationError) as refusal:
        await split(shop, partition_id, first_bucket)
    assert says in str(refusal.value)
    assert await state(shop.connection) == before


async def test_a_retired_partition_and_a_single_bucket_are_not_split(shop: Shop) -> None:
    single, rest = await split(shop, "0-4095", 1)
    before = await state(shop.connection)
    for partition_id, says in (("0-4095", "is retired"), (single, "has one bucket only")):
        with pytest.raises(OperationError, match=says):
            await split(shop, partition_id)
    with pytest.raises(OperationError, match="there is no feed 'nothing'"):
        await operations.split_partition(shop.dsn, "nothing", rest)
    assert await state(shop.connection) == before


async def test_only_neighbours_are_merged(shop: Shop) -> None:
    low, high = await split(shop, "0-4095")
    low, middle = await split(shop, low)
    before = await state(shop.connection)
    for pair in ((low, high), (low, low), (low, "0-4095"), (low, "nothing")):
        with pytest.raises(OperationError):
            await operations.merge_partitions(shop.dsn, FEED, *pair)
    assert await state(shop.connection) == before
    (merged,) = await operations.merge_partitions(shop.dsn, FEED, high, middle)
    assert merged.startswith("1024-4095@")


async def test_a_split_needs_a_transaction_of_its_own(shop: Shop) -> None:
    async with await psycopg.AsyncConnection.connect(shop.dsn) as connection:
        await connection.execute("INSERT INTO orders VALUES (1, 1, 'x')")
        with pytest.raises(errors.ActiveSqlTransaction):
            await connection.execute("SELECT changefeed.split_partition(%s, '0-4095')", (FEED,))


@pytest.mark.req("US3.4", "P1")
async def test_what_is_under_way_at_a_split_goes_to_the_child(shop: Shop) -> None:
    """A change belongs to the partition of its batch, whatever its number is."""
    async with await psycopg.AsyncConnection.connect(shop.dsn) as writer:
        await writer.execute("INSERT INTO orders SELECT n, n, 'late' FROM generate_series(1, 50) n")
        for number in range(51, 101):
            await shop.insert(number, space=number)
        children = await split(shop, "0-4095")
        await writer.commit()
    whole, _ = await read_all(shop.provider, shop.feed)
    assert [change.partition_id for change in whole[:50]] == ["0-4095"] * 50
    assert keys(whole) == [*range(51, 101), *range(1, 51)]
    parts = {}
    for partition_id in ("0-4095", *children):
        scope = PhysicalPartition(PartitionId(partition_id))
        changes, cursor = await read_all(shop.provider, shop.feed, page_read(Beginning(), scope=scope, size=7))
        parts[partition_id] = [change.event_id for change in changes]
        last = await shop.page(After(cursor), scope=scope)
        assert last.retired == (partition_id == "0-4095")
    for partition_id, found in parts.items():
        assert found == [c.event_id for c in whole if c.partition_id == partition_id]


async def test_a_truncation_reaches_every_partition_that_is_active(shop: Shop) -> None:
    await shop.insert(1, 2, 3)
    parts = [(await split(shop, "0-4095", 3))[1]]
    parts = await split(shop, parts[0], 200)
    await shop.connection.execute("TRUNCATE orders")
    for partition_id in parts:
        scope = PhysicalPartition(PartitionId(partition_id))
        changes, _ = await read_all(shop.provider, shop.feed, page_read(Beginning(), scope=scope))
        assert [(c.change_type.name, c.partition_id) for c in changes] == [("TRUNCATE", partition_id)]


async def test_a_truncation_that_nobody_has_read_reaches_every_partition_of_a_new_epoch_too(shop: Shop) -> None:
    await split(shop, "0-4095", 3)
    await shop.connection.execute("TRUNCATE orders")
    await shop.connection.execute("SELECT changefeed.begin_epoch(1)")
    async with open_provider(shop.dsn, QUIET) as provider:
        feed = await provider.open_feed(shop.feed.address)
        for partition in await provider.list_partitions(feed):
            scope = PhysicalPartition(partition.partition_id)
            changes, _ = await read_all(provider, feed, page_read(Beginning(), scope=scope))
            assert [c.change_type.name for c in changes] == ["TRUNCATE"]


async def test_a_partition_is_read_where_it_is_known_only_to_the_database(shop: Shop) -> None:
    """Another gateway's child: the newest tick that this process knows is older than it."""
    await shop.page(Now())
    child, _ = await split(shop, "0-4095")
    page = await shop.page(Now(), scope=PhysicalPartition(PartitionId(child)))
    assert not page.changes
    with pytest.raises(NotFound):
        await shop.page(Now(), scope=PhysicalPartition(PartitionId("7-8@9")))


async def test_a_partition_whose_history_is_gone_is_not_listed(shop: Shop) -> None:
    low, high = await split(shop, "0-4095")
    listed = await shop.provider.list_partitions(shop.feed)
    assert [(p.partition_id, p.state, p.parents) for p in listed] == [
        ("0-4095", PartitionState.RETIRED, ()),
        (low, PartitionState.ACTIVE, ("0-4095",)),
        (high, PartitionState.ACTIVE, ("0-4095",)),
    ]
    await shop.tick(force=True)
    await shop.forget_ticks("id < 3")
    listed = await shop.provider.list_partitions(shop.feed)
    assert [(p.partition_id, p.parents) for p in listed] == [(low, ()), (high, ())]


async def test_a_reader_that_waits_is_told_of_a_split_at_once(shop: Shop) -> None:
    page = await shop.page(Now(), scope=PhysicalPartition(PartitionId("0-4095")))
    waiting = asyncio.create_task(
        shop.page(After(page.cursor), scope=PhysicalPartition(PartitionId("0-4095")), wait=60)
    )
    children = await split(shop, "0-4095")
    page = await waiting
    assert page.retired
    assert [child.partition_id for child in page.children] == children
    assert not (await shop.page(Now(), scope=EntireCollection())).retired


@pytest.mark.req("P2")
async def test_what_is_written_after_a_split_in_its_transaction_belongs_to_the_children(shop: Shop) -> None:
    """A snapshot counts its own transaction as ended once a later one has: a busy neighbour ends many meanwhile."""
    busy = await psycopg.AsyncConnection.connect(shop.dsn, autocommit=True)
    burning = asyncio.create_task(
        busy.execute("DO $$ BEGIN FOR n IN 1..100000000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
    )
    try:
        await shop.insert(1)
        last = "0-4095"
        for number in range(1, 41):
            async with await psycopg.AsyncConnection.connect(shop.dsn) as splitter:
                cursor = await splitter.execute(
                    "SELECT partition_id FROM changefeed.split_partition(%s, %s, %s)", (FEED, last, number)
                )
                last = [name for (name,) in await cursor.fetchall()][1]
                await shop.connection.execute("UPDATE orders SET note = 'before' WHERE id = 1")
                await splitter.execute("UPDATE orders SET note = 'after' WHERE id = 1")
                await splitter.commit()
    finally:
        busy.cancel()
        with pytest.raises(errors.QueryCanceled):
            await burning
        await busy.close()
    changes, _ = await read_all(shop.provider, shop.feed)
    notes = [json.loads(change.item or "{}")["note"] for change in changes]
    assert notes == ["x", *["before", "after"] * 40]


@pytest.mark.req("P2")
async def test_a_partition_that_has_ended_is_not_given_what_was_read_ahead_beyond_its_end(shop: Shop) -> None:
    """Of all buckets, it is the same part of the log as the entire collection, up to the split."""
    for number in range(1, 6):
        await shop.insert(number)
        await shop.tick()
    await split(shop, "0-4095")
    for number in range(6, 13):
        await shop.insert(number)
        await shop.tick()
    whole = page_read(Beginning(), size=2)
    for _ in range(2):
        page = await shop.read(whole)
        whole = replace(whole, start=After(page.cursor))
    # The next page of the entire collection is being read now.
    mine, retired = page_read(After(page.cursor), scope=PhysicalPartition(PartitionId("0-4095")), size=2), False
    changes: list[int] = []
    while not retired:
        page = await shop.read(mine)
        changes += keys(page)
        retired, mine = page.retired, replace(mine, start=After(page.cursor))
    assert changes == [5]
