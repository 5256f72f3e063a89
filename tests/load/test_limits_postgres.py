"""Large rows, large documents, large transactions: every message stays below 4 MiB and nobody is stuck."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

from changefeed.v1.change_event_pb2 import (
    CHANGE_TYPE_CREATE,
    CHANGE_TYPE_DELETE,
    ITEM_STATE_INCLUDED,
    ITEM_STATE_INCLUDED_CURRENT,
    ITEM_STATE_NOT_APPLICABLE,
    ITEM_STATE_TOO_LARGE,
)
from tests.conformance.client import BEGINNING, INCLUDE, OMIT, REQUIRE, Event, after, logical, refused
from tests.databases import PostgresForTests
from tests.load.scene import Scene, keys, open_scene
from tests.load.test_slow_consumers import memory_watched

pytestmark = [pytest.mark.xdist_group("load"), pytest.mark.timeout(120)]

MEBIBYTE = 1_048_576
ROWS = 200_000


@pytest.fixture
async def items(postgres: PostgresForTests, tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(postgres, tmp_path) as scene:
        yield scene


@pytest.fixture
async def documents(postgres: PostgresForTests, tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(postgres, tmp_path, documents=True) as scene:
        yield scene


async def workspace(scene: Scene) -> str:
    """A new workspace's id."""
    return await one(scene, "INSERT INTO documents.workspaces (name) VALUES ('w') RETURNING id::text")


async def document(scene: Scene, place: str, *, metadata_bytes: int = 0) -> str:
    """Commit a new document; answers its id."""
    return await one(
        scene,
        "INSERT INTO documents.files (workspace_id, title, metadata)"
        " VALUES (%s, 'a title', jsonb_build_object('text', repeat('x', %s))) RETURNING id::text",
        place,
        metadata_bytes,
    )


async def one(scene: Scene, query: str, *values: object) -> str:
    row = await (await scene.database.execute(query.encode(), values)).fetchone()
    assert row is not None
    return str(row[0])


async def by_stream(scene: Scene, count: int, *, size: int = 0) -> list[Event]:
    """So many events from the beginning; the stream checks the size of every message."""
    async with scene.client.subscribe(BEGINNING, size=size) as stream:
        return list(await stream.until_events(count))


@pytest.mark.req("CF-01", "CF-11")
async def test_rows_of_one_megabyte_come_whole_in_small_messages(items: Scene) -> None:
    written = await items.insert(30, note_bytes=MEBIBYTE)
    reading = await items.client.read_all(BEGINNING, size=1000)
    streamed = await by_stream(items, 30, size=1000)
    for events in (reading.events, streamed):
        assert keys(events) == written
        assert all(len(json.loads(event.new_item_json)["note"]) == MEBIBYTE for event in events)
    assert len(reading.pages) >= 10
    without = await items.client.read(BEGINNING, mode=OMIT)
    assert keys(without.events) == written, "ids alone fit into one page"


@pytest.mark.req("CF-01", "CF-11")
async def test_documents_of_one_megabyte_come_whole_in_small_messages(documents: Scene) -> None:
    place = await workspace(documents)
    written = [await document(documents, place, metadata_bytes=MEBIBYTE) for _ in range(12)]
    for scope in (None, logical(place)):
        reading = await documents.client.read_all(BEGINNING, scope=scope)
        assert keys(reading.events) == written
        assert all(event.item_state == ITEM_STATE_INCLUDED_CURRENT for event in reading.events)
        assert all(len(event.new_item_json) > MEBIBYTE for event in reading.events)
    assert keys(await by_stream(documents, 12)) == written


@pytest.mark.req("CF-11")
async def test_a_row_larger_than_the_limit_is_named_and_the_feed_goes_on(items: Scene) -> None:
    written = await items.insert() + await items.insert(note_bytes=3_500_000) + await items.insert(2)
    reading = await items.client.read_all(BEGINNING)
    for events in (reading.events, await by_stream(items, 4)):
        assert keys(events) == written
        assert [event.item_state for event in events] == [
            *(ITEM_STATE_INCLUDED, ITEM_STATE_TOO_LARGE, ITEM_STATE_INCLUDED, ITEM_STATE_INCLUDED)
        ]
        assert events[1].event_id
        assert not events[1].new_item_json


@pytest.mark.req("CF-11")
async def test_a_document_larger_than_the_limit_is_named_and_the_feed_goes_on(documents: Scene) -> None:
    place = await workspace(documents)
    written = [await document(documents, place, metadata_bytes=size) for size in (10, 3_500_000, 10)]
    events = (await documents.client.read_all(BEGINNING)).events
    assert keys(events) == written
    assert events[1].item_state == ITEM_STATE_TOO_LARGE
    assert keys(await by_stream(documents, 3)) == written
    refusal = await refused(
        documents.client.read(after((await documents.client.read(BEGINNING, size=1)).continuation_token), mode=REQUIRE),
        "UNSUPPORTED_CAPABILITY",
        "NEW_ITEM_STATE_UNAVAILABLE",
        grpc.StatusCode.UNIMPLEMENTED,
    )
    assert refusal.metadata["event_id"] == events[1].event_id


@pytest.mark.req("CF-11")
async def test_who_requires_images_steps_over_a_row_without_one(items: Scene) -> None:
    written = await items.insert() + await items.insert(note_bytes=3_500_000) + await items.insert(2)
    too_large = (await items.client.read_all(BEGINNING)).events[1]
    page = await items.client.read(BEGINNING, mode=REQUIRE)
    assert keys(page.events) == written[:1]
    found = await refused(
        items.client.read(after(page.continuation_token), mode=REQUIRE),
        "UNSUPPORTED_CAPABILITY",
        "NEW_ITEM_STATE_UNAVAILABLE",
        grpc.StatusCode.UNIMPLEMENTED,
    )
    assert found.metadata["event_id"] == too_large.event_id
    rest = await items.client.read(after(found.metadata["continuation_token"]), mode=REQUIRE)
    assert keys(rest.events) == written[2:]
    async with items.client.subscribe(BEGINNING, mode=REQUIRE) as stream:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.to_the_end()
        assert keys(stream.events) == written[:1]
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.req("CF-01", "P2")
async def test_one_transaction_of_many_rows_is_paged_in_order(items: Scene) -> None:
    await items.insert()
    async with memory_watched(items.gateway.pid) as memory:
        written = await items.insert(ROWS, note_bytes=100)
        numbers = set(written)
        assert len(numbers) == ROWS

        async def pages() -> list[str]:
            client = await items.another_client()
            return keys((await client.read_all(BEGINNING, size=5_000)).events)

        async def stream() -> list[str]:
            client = await items.another_client()
            async with client.subscribe(BEGINNING) as stream:
                return keys(await stream.until_events(ROWS + 1))

        paged, streamed = await asyncio.gather(pages(), stream())
        assert paged[1:] == written
        assert streamed == paged
    print(f"{ROWS} rows; memory {memory[1] / 1e6:.0f} MB before, {memory[0] / 1e6:.0f} MB at most")
    assert memory[0] - memory[1] < 150_000_000


@pytest.mark.req("DB-4", "P1")
async def test_a_document_deleted_before_it_was_read_is_never_revived(documents: Scene) -> None:
    place = await workspace(documents)
    kept, soft, hard = [await document(documents, place) for _ in range(3)]
    await one(documents, "UPDATE documents.files SET title = 'b' WHERE id = %s RETURNING 1", soft)
    await one(documents, "UPDATE documents.files SET deleted_at = now() WHERE id = %s RETURNING 1", soft)
    await one(documents, "DELETE FROM documents.files WHERE id = %s RETURNING 1", hard)
    for scope in (None, logical(place)):
        for size in (1, 2, 100):
            reading = await documents.client.read_all(BEGINNING, scope=scope, size=size, mode=REQUIRE)
            assert keys(reading.events) == [kept, soft, hard, soft, soft, hard]
            assert [event.item_state for event in reading.events] == [
                ITEM_STATE_INCLUDED_CURRENT,
                *[ITEM_STATE_NOT_APPLICABLE] * 5,
            ]
            mirrors = list(mirrored(reading.events))
            assert all(set(mirror) <= {kept} for mirror in mirrors)
            assert set(mirrors[-1]) == {kept}
    assert [event.change_type for event in reading.events[-2:]] == [CHANGE_TYPE_DELETE] * 2
    await one(documents, "UPDATE documents.files SET deleted_at = NULL WHERE id = %s RETURNING 1", soft)
    back = (await documents.client.read_all(after(reading.token), mode=INCLUDE)).events
    assert [(event.change_type, event.item_state) for event in back] == [
        (CHANGE_TYPE_CREATE, ITEM_STATE_INCLUDED_CURRENT)
    ]


def mirrored(events: list[Event]) -> Iterator[dict[str, str]]:
    """What a consumer that mirrors the feed holds after each event."""
    mirror: dict[str, str] = {}
    for event in events:
        key = event.key.components[0].value
        if event.change_type == CHANGE_TYPE_DELETE or event.item_state == ITEM_STATE_NOT_APPLICABLE:
            mirror.pop(key, None)
        else:
            mirror[key] = event.new_item_json
        yield dict(mirror)
