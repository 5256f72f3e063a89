"""Items of the documents feed: as they are when the page is read."""

import json
from collections.abc import AsyncIterator

import pytest

from changefeed_gateway.core.model import (
    After,
    Beginning,
    Change,
    ChangeType,
    Feed,
    ItemState,
    LogicalPartition,
    PartitionId,
    PhysicalPartition,
)
from changefeed_gateway.providers.postgres.provider import PostgresProvider
from tests.postgres.conftest import Connection
from tests.postgres.reading import address, open_provider, page_read, read_all


@pytest.fixture
async def provider(database: str) -> AsyncIterator[PostgresProvider]:
    async with open_provider(database) as provider:
        yield provider


@pytest.fixture
async def feed(provider: PostgresProvider) -> Feed:
    return await provider.open_feed(address("documents"))


async def workspace(connection: Connection) -> str:
    return await one(connection, "INSERT INTO documents.workspaces (name) VALUES ('w') RETURNING id")


async def document(connection: Connection, place: str, title: str = "d") -> str:
    return await one(
        connection, "INSERT INTO documents.files (workspace_id, title) VALUES (%s, %s) RETURNING id", place, title
    )


async def one(connection: Connection, query: str, *values: object) -> str:
    row = await (await connection.execute(query.encode(), values)).fetchone()
    assert row is not None
    return str(row[0])


def seen(changes: list[Change]) -> list[tuple[str, str | None]]:
    return [(c.item_state.value, json.loads(c.item)["title"] if c.item else None) for c in changes]


async def test_every_change_carries_the_document_as_it_is_now(
    connection: Connection, provider: PostgresProvider, feed: Feed
) -> None:
    place = await workspace(connection)
    first = await document(connection, place, "draft")
    await document(connection, place, "other")
    await connection.execute("UPDATE documents.files SET title = 'final' WHERE id = %s", (first,))
    changes, _ = await read_all(provider, feed)
    assert seen(changes) == [
        ("included_current", "final"),
        ("included_current", "other"),
        ("included_current", "final"),
    ]
    assert [change.change_type for change in changes] == [ChangeType.CREATE, ChangeType.CREATE, ChangeType.UPDATE]
    assert changes[0].key.components[0].value == first
    assert changes[0].key.partition_key == place


async def test_a_document_that_is_gone_is_not_revived(
    connection: Connection, provider: PostgresProvider, feed: Feed
) -> None:
    gone = await document(connection, await workspace(connection))
    await connection.execute("UPDATE documents.files SET deleted_at = now() WHERE id = %s", (gone,))
    changes, _ = await read_all(provider, feed)
    assert seen(changes) == [("not_applicable", None), ("not_applicable", None)]
    assert [change.change_type for change in changes] == [ChangeType.CREATE, ChangeType.DELETE]


async def test_a_document_that_moved_is_shown_where_it_lives(
    connection: Connection, provider: PostgresProvider, feed: Feed
) -> None:
    old, new = await workspace(connection), await workspace(connection)
    moved = await document(connection, old)
    await connection.execute("UPDATE documents.files SET workspace_id = %s WHERE id = %s", (new, moved))
    changes, _ = await read_all(provider, feed)
    assert [(c.change_type, c.item_state, c.key.partition_key) for c in changes] == [
        (ChangeType.CREATE, ItemState.INCLUDED_CURRENT, new),
        (ChangeType.DELETE, ItemState.NOT_APPLICABLE, old),
        (ChangeType.CREATE, ItemState.INCLUDED_CURRENT, new),
    ]
    left, _ = await read_all(provider, feed, page_read(Beginning(), scope=LogicalPartition(old)))
    assert [(c.change_type, c.item_state, c.key.partition_key) for c in left] == [
        (ChangeType.CREATE, ItemState.NOT_APPLICABLE, old),
        (ChangeType.DELETE, ItemState.NOT_APPLICABLE, old),
    ]
    arrived, _ = await read_all(provider, feed, page_read(Beginning(), scope=LogicalPartition(new)))
    assert [(c.change_type, c.item_state) for c in arrived] == [(ChangeType.CREATE, ItemState.INCLUDED_CURRENT)]
    assert [c.event_id for c in (*left, *arrived)] == [c.event_id for c in changes]


async def test_items_are_not_read_when_nobody_wants_them(
    connection: Connection, provider: PostgresProvider, feed: Feed
) -> None:
    await document(connection, await workspace(connection))
    await connection.execute("DROP FUNCTION documents.documents_image(text[])")
    changes, _ = await read_all(provider, feed, page_read(Beginning(), items=False))
    assert seen(changes) == [("omitted", None)]


async def test_large_documents(connection: Connection, provider: PostgresProvider, feed: Feed) -> None:
    place = await workspace(connection)
    for size in (10, 400_000, 400_000, 400_000, 900_000, 10):
        await document(connection, place, "x" * size)
    await connection.execute("UPDATE documents.files SET metadata = '{}' WHERE length(title) = 400000")
    read = page_read(Beginning(), max_bytes=1_000_000, max_item_bytes=500_000)
    pages, lengths, states = 0, [], []
    while True:
        page = await provider.read_page(feed, read)
        pages += 1
        sizes = [len(change.item) for change in page.changes if change.item]
        assert sum(sizes) <= 1_000_000
        lengths += sizes
        states += [change.item_state for change in page.changes]
        if not page.more_available:
            break
        read = page_read(After(page.cursor), max_bytes=1_000_000, max_item_bytes=500_000)
    assert pages >= 3
    assert states == [*[ItemState.INCLUDED_CURRENT] * 4, ItemState.TOO_LARGE, *[ItemState.INCLUDED_CURRENT] * 4]
    assert sum(size > 400_000 for size in lengths) == 6


@pytest.mark.req("P2")
async def test_a_worker_of_a_physical_partition_is_not_shown_what_another_one_is_told_of(
    connection: Connection, provider: PostgresProvider, feed: Feed
) -> None:
    places = [await workspace(connection) for _ in range(2)]
    buckets = [int(await one(connection, "SELECT changefeed.bucket(%s)", place)) for place in places]
    while buckets[0] == buckets[1]:
        places[1] = await workspace(connection)
        buckets[1] = int(await one(connection, "SELECT changefeed.bucket(%s)", places[1]))
    query = "SELECT partition_id FROM changefeed.split_partition('documents', '0-4095', %s) ORDER BY low"
    found = await (await connection.execute(query, (max(buckets),))).fetchall()
    parts = dict(zip(sorted(buckets), (PhysicalPartition(PartitionId(part)) for (part,) in found), strict=True))
    old, new = places
    moved = await document(connection, old)
    await connection.execute("UPDATE documents.files SET workspace_id = %s WHERE id = %s", (new, moved))
    left, _ = await read_all(provider, feed, page_read(Beginning(), scope=parts[buckets[0]]))
    assert [(c.change_type, c.item_state, c.key.partition_key) for c in left] == [
        (ChangeType.CREATE, ItemState.NOT_APPLICABLE, old),
        (ChangeType.DELETE, ItemState.NOT_APPLICABLE, old),
    ]
    arrived, _ = await read_all(provider, feed, page_read(Beginning(), scope=parts[buckets[1]]))
    assert [(c.change_type, c.item_state, c.key.partition_key) for c in arrived] == [
        (ChangeType.CREATE, ItemState.INCLUDED_CURRENT, new)
    ]
