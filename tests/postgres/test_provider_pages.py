"""What a page holds: batches of every size, and items of every size."""

import json
from collections.abc import AsyncIterator

import pytest

from changefeed_gateway.core.model import (
    After,
    Beginning,
    ChangeType,
    EntireCollection,
    ItemState,
    LogicalPartition,
    Now,
    PartitionId,
    PhysicalPartition,
    Scope,
)
from changefeed_gateway.providers.postgres.cursor import decode_position
from changefeed_gateway.providers.postgres.log.read_ahead import Place
from changefeed_gateway.providers.postgres.log.reading import Stretch
from changefeed_gateway.providers.postgres.operations.feeds import split_partition
from changefeed_gateway.providers.postgres.ticks.ticker import TickAnswer
from tests.postgres.reading import open_provider, page_read, read_all
from tests.postgres.shop import QUIET, Shop, keys, open_shop
from tests.postgres.storm import connect
from tests.postgres.test_plans import recorded


@pytest.fixture
async def shop(log_database: str) -> AsyncIterator[Shop]:
    async with open_shop(log_database) as shop:
        yield shop


@pytest.mark.parametrize("scope", [EntireCollection(), LogicalPartition("0")])
@pytest.mark.parametrize("size", [1, 7, 99, 100, 101, 1000])
async def test_a_batch_larger_than_a_page_is_paged_by_number(shop: Shop, scope: Scope, size: int) -> None:
    await shop.insert(1, 2)
    await shop.tick()
    await shop.insert_many(3, 102)
    await shop.tick()
    await shop.insert(103)
    changes, cursor = await read_all(shop.provider, shop.feed, page_read(Beginning(), scope=scope, size=size))
    assert keys(changes) == list(range(1, 104))
    assert decode_position(cursor)[0].seq == 0


async def test_a_page_ends_where_its_last_batch_ends(shop: Shop) -> None:
    await shop.insert_many(1, 10)
    whole = await shop.page(Beginning(), size=10)
    assert len(whole.changes) == 10
    assert not whole.more_available
    tick = decode_position(whole.cursor)[0].tick
    assert [decode_position(cursor)[0] for cursor in whole.cursors] == [(tick - 1, n) for n in range(1, 10)] + [
        (tick, 0)
    ]
    assert whole.cursors[-1] == whole.cursor
    part = await shop.page(Beginning(), size=9)
    assert part.more_available
    assert part.cursor == whole.cursors[8]
    assert keys(await shop.page(After(part.cursor))) == [10]


@pytest.mark.parametrize("scope", [EntireCollection(), LogicalPartition("0")])
@pytest.mark.req("P1", "P2", "DB-1")
async def test_a_long_transaction_amid_many_small_ones_stands_where_it_ended(shop: Shop, scope: Scope) -> None:
    """Far more rows than a page come from behind, with lower numbers than what was read before them."""
    async with await connect(shop.dsn) as long:
        await long.execute("INSERT INTO orders SELECT n, 0, 'long' FROM generate_series(1001, 1600) n")
        for number in range(1, 40):
            await shop.insert(number)
            await shop.tick()
        await long.execute("INSERT INTO orders SELECT n, 0, 'long' FROM generate_series(1601, 2000) n")
        await long.commit()
    await shop.tick()
    for number in range(40, 60):
        await shop.insert(number)
        await shop.tick()
    expected = [*range(1, 40), *range(1001, 2001), *range(40, 60)]
    for size in (5, 50, 300, 5000):
        read = page_read(Beginning(), scope=scope, size=size)
        changes, _ = await read_all(shop.provider, shop.feed, read)
        assert keys(changes) == expected


@pytest.mark.req("P1", "P2")
async def test_rows_of_those_that_were_under_way_are_asked_for_until_a_page_is_behind_them(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for each page of a large batch; and what one part has none of, another one may have."""
    async with await connect(shop.dsn) as early, await connect(shop.dsn) as late:
        await early.execute("INSERT INTO orders VALUES (1, 0, 'x')")
        await late.execute("INSERT INTO orders VALUES (2, 0, 'x')")
        await shop.insert(5)  # after the others began, so that the tick's snapshot names them
        await shop.tick()
        await shop.insert_many(10, 29)
        await late.execute("INSERT INTO orders VALUES (3, 0, 'x')")
        await shop.insert_many(30, 49, space=1)
        await early.commit()
        await late.commit()
        await shop.tick()
    of_one, _ = await read_all(shop.provider, shop.feed, page_read(Beginning(), scope=LogicalPartition("1"), size=10))
    assert keys(of_one) == list(range(30, 50))
    with recorded(monkeypatch) as asked:
        changes, _ = await read_all(shop.provider, shop.feed, page_read(Beginning(), size=10))
    assert keys(changes) == [5, 1, 2, *range(10, 30), 3, *range(30, 50)]
    assert [statement.name for statement in asked].count("page_finished") == 3, "of five pages"


async def test_a_number_beyond_its_ticks_reading_belongs_to_the_tick_all_the_same(shop: Shop) -> None:
    """Drawn after the sequence was read and committed before the snapshot was taken."""
    await shop.insert(1, 2, 3)
    async with shop.connection.transaction():
        await shop.connection.execute(
            "INSERT INTO changefeed_log.tick_1 (id, at, last_seq, xid, snapshot, topology, reached)"
            " VALUES (2, now(), 1, pg_current_xact_id(), pg_current_snapshot(), 1, now())"
        )
    await shop.insert(4)
    await shop.tick()
    for size in (1, 2, 3, 10):
        changes, _ = await read_all(shop.provider, shop.feed, page_read(Beginning(), size=size))
        assert keys(changes) == [1, 2, 3, 4]


@pytest.mark.req("US3.2", "DB-11")
async def test_a_sparse_partition_key_is_found_far_apart(shop: Shop) -> None:
    """Its batches are found by the database: more ticks lie between than the process would load."""
    await shop.insert(1, space=9)
    await shop.tick()
    for number in range(2, 1300):
        await shop.insert(number)
        await shop.tick()
    await shop.insert(2000, space=9)
    await shop.tick()
    async with open_provider(shop.dsn, QUIET) as provider:
        changes, _ = await read_all(provider, shop.feed, page_read(Beginning(), scope=LogicalPartition("9")))
        assert keys(changes) == [1, 2000]
        page = await provider.read_page(shop.feed, page_read(Beginning(), scope=LogicalPartition("9")))
        assert len(page.changes) == 2
        assert page.provider_calls <= 2
        whole, _ = await read_all(provider, shop.feed)
        by_id = {change.event_id: cursor for change, cursor in zip(page.changes, page.cursors, strict=True)}
        assert [change.event_id for change in whole if change.key.partition_key == "9"] == list(by_id)


async def test_types_and_images(shop: Shop) -> None:
    await shop.insert(1)
    await shop.connection.execute("UPDATE orders SET note = 'ü\"' WHERE id = 1")
    await shop.connection.execute("UPDATE orders SET id = 2 WHERE id = 1")
    await shop.connection.execute("DELETE FROM orders")
    await shop.connection.execute("TRUNCATE orders")
    changes, _ = await read_all(shop.provider, shop.feed)
    assert [(change.change_type, change.item_state) for change in changes] == [
        (ChangeType.CREATE, ItemState.INCLUDED),
        (ChangeType.UPDATE, ItemState.INCLUDED),
        (ChangeType.DELETE, ItemState.NOT_APPLICABLE),
        (ChangeType.CREATE, ItemState.INCLUDED),
        (ChangeType.DELETE, ItemState.NOT_APPLICABLE),
        (ChangeType.TRUNCATE, ItemState.NOT_APPLICABLE),
    ]
    assert json.loads(changes[1].item or "") == {"id": 1, "space": 0, "note": 'ü"'}
    assert changes[-1].key.components == ()
    assert all(change.commit_time and change.commit_time.utcoffset() is not None for change in changes)
    assert [int(change.sequence) for change in changes] == list(range(1, 7))


async def test_items_left_out(shop: Shop) -> None:
    await shop.insert(1)
    await shop.connection.execute("DELETE FROM orders")
    page = await shop.page(Beginning(), items=False)
    assert [change.item_state for change in page.changes] == [ItemState.OMITTED, ItemState.NOT_APPLICABLE]
    assert all(change.item is None for change in page.changes)


async def test_a_feed_without_images(log_database: str) -> None:
    async with open_shop(log_database, image="none") as shop:
        await shop.insert(1)
        (change,) = (await shop.page(Beginning())).changes
        assert change.item_state is ItemState.UNAVAILABLE
        (change,) = (await shop.page(Beginning(), items=False)).changes
        assert change.item_state is ItemState.OMITTED


async def test_large_items_come_whole_and_too_large_ones_do_not(shop: Shop) -> None:
    sizes = [10, 8_000, 8_192, 9_000, 60_000, 300_000]
    for number, size in enumerate(sizes):
        await shop.insert(number, size=size)
    page = await shop.page(Beginning(), max_item_bytes=100_000)
    assert [change.item_state for change in page.changes] == [ItemState.INCLUDED] * 5 + [ItemState.TOO_LARGE]
    assert [len(json.loads(change.item)["note"]) for change in page.changes if change.item] == sizes[:5]


async def test_a_page_stays_within_its_bytes_and_the_next_goes_on(shop: Shop) -> None:
    await shop.insert_many(1, 3)
    await shop.insert(4, 5, 6, 7, size=20_000)
    await shop.insert(8, size=90_000)
    await shop.insert(9)
    read = page_read(Beginning(), max_bytes=50_000)
    seen, page = [], None
    while page is None or page.more_available:
        page = await shop.read(read if page is None else page_read(After(page.cursor), max_bytes=50_000))
        assert sum(len(change.item or "") for change in page.changes) <= 50_000 or len(page.changes) == 1
        seen.append(keys(page))
    assert seen == [[1, 2, 3, 4, 5], [6, 7], [8], [9]]


async def test_an_item_beyond_the_pages_bytes_is_not_fetched(shop: Shop) -> None:
    """The first change is exempt from the page's bytes, not from the item's."""
    await shop.insert(1, size=200_000)
    page = await shop.page(Beginning(), max_bytes=100_000, max_item_bytes=150_000)
    assert [change.item_state for change in page.changes] == [ItemState.TOO_LARGE]
    page = await shop.page(Beginning(), max_bytes=100_000, max_item_bytes=250_000)
    assert [change.item_state for change in page.changes] == [ItemState.INCLUDED]


async def test_a_page_at_the_end_is_one_question(shop: Shop) -> None:
    page = await shop.page(Now())
    [feed] = shop.provider._feeds()
    asked = feed.ticker.questions
    page = await shop.page(After(page.cursor))
    assert (list(page.changes), page.more_available) == ([], False)
    assert feed.ticker.questions == asked + 1


@pytest.mark.req("P1")
async def test_who_comes_to_the_end_reads_on_to_what_was_committed_on_the_way(shop: Shop) -> None:
    """Not a page without anything that says that more is there."""
    low, _ = await split_partition(shop.dsn, "public.orders", "0-4095", None)
    spaces = {}
    for space in range(20):
        cursor = await shop.connection.execute("SELECT changefeed.bucket(%s) < 2048", (str(space),))
        spaces[(await cursor.fetchall())[0][0]] = space
    await shop.insert_many(1, 50, space=spaces[False])
    await shop.page(Now())
    [feed] = shop.provider._feeds()
    ask = feed.ticker._ask

    async def commit_and_ask() -> TickAnswer:
        feed.ticker._ask = ask
        await shop.insert(51, space=spaces[True])
        return await ask()

    feed.ticker._ask = commit_and_ask
    assert keys(await shop.page(Beginning(), scope=PhysicalPartition(PartitionId(low)), size=1)) == [51]


async def test_where_nothing_was_read_ahead_the_log_is_asked_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    start = await shop.page(Now())
    await shop.insert(1)
    log = shop.provider._log_of(shop.feed)
    position = decode_position(start.cursor)[0]

    async def come(_: Place) -> Stretch:
        return Stretch([], [], position)

    monkeypatch.setattr(log._ahead, "come", come)
    assert keys(await shop.page(After(start.cursor))) == [1]
