"""A feed or a database that goes and comes again under its old name is another one, and everybody hears of it."""

from pathlib import Path

import grpc
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from changefeed.v1.subscribe_pb2 import CLOSING_REASON_FEED_DROPPED
from tests.conformance.client import BEGINNING, NOW, after, invalid, logical, refused
from tests.databases import DOCUMENTS, PostgresForTests
from tests.load.scene import Scene, keys, open_scene

pytestmark = [pytest.mark.xdist_group("load"), pytest.mark.timeout(120)]

WATCH = "SELECT changefeed.watch('items', partition_key => array['shelf'])"
UNWATCH = "SELECT changefeed.unwatch('items')"


async def new_documents(scene: Scene, count: int) -> None:
    """Commit documents, each in a transaction of its own."""
    async with await scene.connect() as connection:
        await connection.execute("INSERT INTO documents.workspaces (name) VALUES ('w')")
        for _ in range(count):
            await connection.execute(
                "INSERT INTO documents.files (workspace_id, title) SELECT id, 'a' FROM documents.workspaces LIMIT 1"
            )
            await connection.execute("CALL changefeed.tick_all()")


async def recreate(postgres: PostgresForTests, scene: Scene) -> None:
    """Drop the database and copy it from its template again, under the same name."""
    await scene.database.close()
    name = sql.Identifier(str(conninfo_to_dict(scene.dsn)["dbname"]))
    await postgres.drop(scene.dsn)
    await postgres.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(name, sql.Identifier(DOCUMENTS)))


@pytest.mark.req("CF-06", "E5", "P6")
async def test_tokens_of_a_feed_that_was_made_anew_are_refused(postgres: PostgresForTests, tmp_path: Path) -> None:
    async with open_scene(postgres, tmp_path) as scene:
        await scene.insert(3)
        old = (await scene.client.read(BEGINNING, size=1)).continuation_token
        await scene.database.execute(UNWATCH)
        await scene.database.execute(WATCH)
        written = await scene.insert(4)
        await invalid(scene.client.read(after(old)), "TOKEN_RESOURCE_RECREATED")
        assert (await scene.client.inspect(old)).problem.message
        async with scene.client.subscribe(after(old)) as stream:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.next()
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert keys((await scene.client.read_all(BEGINNING)).events) == written


@pytest.mark.req("P6", "US4.1")
async def test_a_feed_dropped_under_open_streams_closes_them(postgres: PostgresForTests, tmp_path: Path) -> None:
    async with (
        open_scene(postgres, tmp_path) as scene,
        scene.client.subscribe(NOW) as stream,
        scene.client.subscribe(NOW, scope=logical("0")) as shelf,
    ):
        await stream.until_live()
        await shelf.until_live()
        written = await scene.insert()
        await stream.until_events(1)
        await scene.database.execute(UNWATCH)
        for open_stream in (stream, shelf):
            assert (await open_stream.to_the_end()).reason == CLOSING_REASON_FEED_DROPPED
        assert keys(stream.events) == written
        for call in (scene.client.read(after(stream.token)), scene.client.subscribe(NOW).next()):
            await refused(call, "INVALID_REQUEST", "FEED_NOT_PROVISIONED", grpc.StatusCode.FAILED_PRECONDITION)
        await scene.database.execute("DROP TABLE items")
        await refused(scene.client.read(NOW), "NOT_FOUND", "COLLECTION_NOT_FOUND", grpc.StatusCode.NOT_FOUND)


@pytest.mark.req("P6")
async def test_a_feed_made_anew_under_an_open_stream_is_not_taken_for_the_old_one(
    postgres: PostgresForTests, tmp_path: Path
) -> None:
    async with open_scene(postgres, tmp_path) as scene, scene.client.subscribe(NOW) as stream:
        await stream.until_live()
        written = await scene.insert()
        await stream.until_events(1)
        async with scene.database.transaction():
            await scene.database.execute(UNWATCH)
            await scene.database.execute(WATCH)
        await scene.insert(5)
        assert (await stream.to_the_end()).reason == CLOSING_REASON_FEED_DROPPED
        assert keys(stream.events) == written
        await invalid(scene.client.read(after(stream.token)), "TOKEN_RESOURCE_RECREATED")


@pytest.mark.req("CF-06", "P6")
async def test_tokens_of_a_database_that_was_made_anew_are_refused(postgres: PostgresForTests, tmp_path: Path) -> None:
    async with open_scene(postgres, tmp_path, documents=True) as scene:
        await new_documents(scene, 3)
        old = (await scene.client.read(BEGINNING, size=1)).continuation_token
        await recreate(postgres, scene)
        await new_documents(scene, 10)
        await invalid(scene.client.read(after(old)), "TOKEN_RESOURCE_RECREATED")
        assert len((await scene.client.read_all(BEGINNING)).events) == 10


@pytest.mark.req("P6")
async def test_a_database_made_anew_under_an_open_stream_is_not_taken_for_the_old_one(
    postgres: PostgresForTests, tmp_path: Path
) -> None:
    async with open_scene(postgres, tmp_path, documents=True) as scene, scene.client.subscribe(NOW) as stream:
        await stream.until_live()
        await new_documents(scene, 3)
        await stream.until_events(3)
        await recreate(postgres, scene)
        # Its ticks pass those of the old one before the stream finds it.
        await new_documents(scene, 30)
        assert (await stream.to_the_end()).reason == CLOSING_REASON_FEED_DROPPED
        assert len(stream.events) == 3
        await invalid(scene.client.read(after(stream.token)), "TOKEN_RESOURCE_RECREATED")
