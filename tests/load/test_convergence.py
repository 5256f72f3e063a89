"""Mirrors made of the images of the documents feed end equal to the source, whatever overlapped."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel, errors

from changefeed.v1.change_event_pb2 import ChangeEvent, ChangeType, ItemState
from changefeed.v1.resource_pb2 import EntireCollection, FeedScope, ResourceAddress
from tests.databases import PostgresForTests
from tests.load.gateway_process import GatewayProcess
from tests.load.readers import Reader
from tests.load.writers import Connection
from tests.soak import hangs_after, soak_dice, soak_seconds

SECONDS = soak_seconds(8) / 2
WRITERS = 12
DOCUMENTS = 6


class Mirror(Reader):
    """A consumer that keeps the newest image of each document, and only that."""

    documents: dict[str, Any]
    last_event: str = ""

    def _keep(self, token: str, events: list[ChangeEvent]) -> None:
        for event in events:
            key = event.key.components[0].value
            gone = event.change_type == ChangeType.CHANGE_TYPE_DELETE
            if gone or event.item_state == ItemState.ITEM_STATE_NOT_APPLICABLE:
                self.documents.pop(key, None)
            else:
                assert event.item_state == ItemState.ITEM_STATE_INCLUDED_CURRENT
                self.documents[key] = json.loads(event.new_item_json)
            self.last_event = event.event_id
        self.token = token
        self.grown.set()


class Editor:
    """Edits the same few documents through files, tags and runs, in transactions that overlap."""

    def __init__(self, connection: Connection, dice: random.Random, *, moves: bool) -> None:
        self._connection = connection
        self._moves = moves
        self._dice = dice
        self.deadlocks = 0

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            level = self._dice.choice([IsolationLevel.READ_COMMITTED, IsolationLevel.REPEATABLE_READ])
            await self._connection.set_isolation_level(level)
            try:
                async with self._connection.transaction(force_rollback=self._dice.random() < 0.1):
                    for _ in range(self._dice.randint(1, 3)):
                        await self._step()
                        await asyncio.sleep(self._dice.uniform(0, 0.02))
            except errors.SerializationFailure:
                pass  # two edits of one row: the application's own conflict
            except errors.DeadlockDetected:
                self.deadlocks += 1

    async def _step(self) -> None:
        document = self._dice.randrange(DOCUMENTS)
        values = {"title": f"Document {document}", "tag": f"t{self._dice.randrange(4)}", "n": self._dice.random()}
        steps = [
            *[_TAG, _UNTAG, _RUN, _FINISH] * 2,
            _RETITLE,
            _DELETE,
            _UNDELETE,
            *[_MOVE] * (4 * self._moves),
        ]
        await self._connection.execute(self._dice.choice(steps).encode(), values)


_FILE = "(SELECT id FROM documents.files WHERE metadata ->> 'name' = %(title)s)"
_TAG = f"INSERT INTO documents.file_tags SELECT {_FILE}, %(tag)s ON CONFLICT DO NOTHING"
_UNTAG = f"DELETE FROM documents.file_tags WHERE file_id = {_FILE} AND tag = %(tag)s"
_MOVE = f"""UPDATE documents.files SET workspace_id = (
    SELECT id FROM documents.workspaces ORDER BY hashtext(id::text || %(n)s) LIMIT 1) WHERE id = {_FILE}"""
_RUN = f"""INSERT INTO documents.runs (input_file_version_id, created_at)
    SELECT id, clock_timestamp() FROM documents.file_versions WHERE file_id = {_FILE}"""
_FINISH = f"""UPDATE documents.runs SET status = 'done', output = to_jsonb(%(n)s::numeric) WHERE id = (
    SELECT r.id FROM documents.runs r JOIN documents.file_versions v ON v.id = r.input_file_version_id
    WHERE v.file_id = {_FILE} ORDER BY r.created_at DESC LIMIT 1)"""
_RETITLE = f"UPDATE documents.files SET title = 'at ' || %(n)s WHERE id = {_FILE}"
_DELETE = f"UPDATE documents.files SET deleted_at = now() WHERE id = {_FILE}"
_UNDELETE = f"UPDATE documents.files SET deleted_at = NULL WHERE id = {_FILE}"

_SETUP = """
WITH w AS (INSERT INTO documents.workspaces (name) SELECT 'shared' FROM generate_series(1, %s) RETURNING id),
     f AS (INSERT INTO documents.files (workspace_id, title, metadata)
           SELECT (SELECT id FROM w LIMIT 1), 'Document ' || n, jsonb_build_object('name', 'Document ' || n)
           FROM generate_series(0, %s - 1) n RETURNING id)
INSERT INTO documents.file_versions (file_id, version, byte_size, content_type) SELECT id, 1, 10, 'text/plain' FROM f
"""

# A new document: an update might find every document deleted, and then the highest number is not the last change read.
_LAST_CHANGE = """
INSERT INTO documents.files (workspace_id, title) SELECT id, 'the last change' FROM documents.workspaces
"""


@asynccontextmanager
async def editing(dsn: str, dice: random.Random, *, moves: bool) -> AsyncIterator[list[Editor]]:
    """Editors at work, all stopped at the end."""
    async with AsyncExitStack() as stack:
        editors = []
        for _ in range(WRITERS):
            connection = await stack.enter_async_context(await psycopg.AsyncConnection.connect(dsn, autocommit=True))
            editors.append(Editor(connection, random.Random(dice.random()), moves=moves))
        stop = asyncio.Event()
        running = [asyncio.create_task(editor.run(stop)) for editor in editors]
        try:
            yield editors
        finally:
            stop.set()
            await asyncio.gather(*running)


async def current(connection: Connection) -> dict[str, Any]:
    rows = await (
        await connection.execute(
            "SELECT i.key, i.image FROM documents.documents_image((SELECT array_agg(id::text) FROM documents.files)) i"
        )
    ).fetchall()
    return {key: json.loads(image) for key, image in rows}


@pytest.mark.soak
@pytest.mark.xdist_group("load")
@pytest.mark.timeout(hangs_after(SECONDS))
@pytest.mark.req("DB-2", "US2.1", "SC-2", "BX-4")
@pytest.mark.parametrize("moves", [False, True], ids=["one workspace", "moving between workspaces"])
async def test_every_mirror_ends_equal_to_the_source(postgres: PostgresForTests, tmp_path: Path, moves: bool) -> None:
    dice = soak_dice()
    dsn = await postgres.fresh()
    gateway = GatewayProcess(tmp_path, dsn)
    address = ResourceAddress(connection="main", collection="documents")
    entire = FeedScope(entire_collection=EntireCollection())
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(_SETUP, [3 if moves else 1, DOCUMENTS])
        workspaces = [
            id_ for (id_,) in await (await connection.execute("SELECT id::text FROM documents.workspaces")).fetchall()
        ]
        mirrors = [
            Mirror("stream", gateway, address, entire),
            Mirror("pages of 3", gateway, address, entire, page_size=3),
        ]
        mirrors += [Mirror(id_, gateway, address, FeedScope(logical_partition=id_)) for id_ in workspaces]
        for mirror in mirrors:
            mirror.documents = {}
        await gateway.start()
        reading = [asyncio.create_task(mirror.run()) for mirror in mirrors]
        try:
            async with editing(dsn, dice, moves=moves) as editors:
                for _ in range(3):
                    await asyncio.sleep(SECONDS / 3)
                    await gateway.kill()
                    await gateway.start()
            await connection.execute(_LAST_CHANGE)
            for mirror, task in zip(mirrors, reading, strict=True):
                newest = await _newest_event(connection, mirror.name if mirror.name in workspaces else None)
                while mirror.last_event.rpartition("-")[2] != newest:
                    if task.done():
                        task.result()
                    mirror.grown.clear()
                    # For what stands still: how long pages of 3 take after a long storm is the machine's matter.
                    async with asyncio.timeout(60):
                        await mirror.grown.wait()
            source = await current(connection)
        finally:
            for task in reading:
                task.cancel()
            await gateway.stop()
    for mirror in mirrors:
        here = {
            key: image
            for key, image in source.items()
            if mirror.name in ("stream", "pages of 3", image["workspace_id"])
        }
        assert mirror.documents == here, mirror.name
    print(
        f"{mirrors[0].last_event} is the last event; {sum(e.deadlocks for e in editors)} deadlocks of the editors' own"
    )


async def _newest_event(connection: Connection, workspace: str | None) -> str:
    query = "SELECT max(seq) FROM changefeed_log.log_1 WHERE partition_key = coalesce(%s, partition_key)"
    row = await (await connection.execute(query, [workspace])).fetchone()
    assert row is not None
    return str(row[0])
