"""A reader that starts from now misses nothing that commits after it was told where now is."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil
from pathlib import Path

import pytest

from tests.conformance.client import NOW, Client, Scope, after, logical
from tests.databases import PostgresForTests
from tests.load.scene import Scene, keys, open_scene
from tests.load.writers import Connection
from tests.soak import hangs_after, soak_seconds

pytestmark = [pytest.mark.xdist_group("load"), pytest.mark.timeout(120)]

ROUNDS = ceil(soak_seconds(24))
"""Of each kind of reader; several take a second."""

_INSERT = "INSERT INTO items (shelf, note) VALUES (%s, 'anchor') RETURNING id::text"


class Anchor:
    """One reader that asks for now, over and over, while others write."""

    def __init__(self, client: Client, early: Connection, late: Connection, shelf: int) -> None:
        self._client, self._early, self._late, self._shelf = client, early, late, shelf

    async def round(self, kind: str, scope: Scope | None) -> None:
        """Two changes commit right after the anchor: one drew its number before it. Both must arrive."""
        async with self._early.transaction():
            number = await self._insert(self._early)
            if kind == "stream":
                stream = self._client.subscribe(NOW, scope=scope)
                await stream.until("opened")
            elif kind == "page":
                token = (await self._client.read(NOW, scope=scope)).continuation_token
            else:
                token = (await self._client.resolve(NOW, scope=scope)).continuation_token
        wanted = {number, await self._insert(self._late)}
        if kind == "stream":
            async with stream:
                while wanted - set(keys(stream.events)):
                    await stream.until("batch")
            return
        async with asyncio.timeout(10):
            while wanted:
                page = await self._client.read(after(token), wait=5)
                token = page.continuation_token
                wanted -= set(keys(page.events))

    async def _insert(self, connection: Connection) -> str:
        row = await (await connection.execute(_INSERT, (self._shelf,))).fetchone()
        assert row is not None
        return str(row[0])


@asynccontextmanager
async def others_writing(scene: Scene) -> AsyncIterator[None]:
    """Writers at work, some of whose transactions last; and one that stays open from before until the end."""

    async def write(connection: Connection, dice: random.Random) -> None:
        while True:
            async with connection.transaction(force_rollback=dice.random() < 0.2):
                await connection.execute(_INSERT, (0,))
                await asyncio.sleep(dice.uniform(0, 0.03))

    held = await scene.connect()
    writers = [asyncio.create_task(write(await scene.connect(), random.Random(n))) for n in range(3)]
    try:
        async with held.transaction():
            await held.execute(_INSERT, (0,))
            yield
    finally:
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)


@pytest.mark.soak
@pytest.mark.timeout(hangs_after(ROUNDS))
@pytest.mark.req("P1", "P4", "CF-04")
async def test_a_change_committed_after_now_was_answered_arrives(postgres: PostgresForTests, tmp_path: Path) -> None:
    async with open_scene(postgres, tmp_path) as scene:

        async def rounds(kind: str, shelf: int) -> None:
            anchor = Anchor(await scene.another_client(), await scene.connect(), await scene.connect(), shelf)
            for n in range(ROUNDS):
                await anchor.round(kind, logical(str(shelf)) if n % 3 == 2 else None)

        async with others_writing(scene), asyncio.TaskGroup() as group:
            for shelf, kind in enumerate(("stream", "page", "resolve"), 1):
                group.create_task(rounds(kind, shelf))


@pytest.mark.req("P1", "P4")
async def test_what_was_open_at_now_arrives_when_it_commits(postgres: PostgresForTests, tmp_path: Path) -> None:
    async with open_scene(postgres, tmp_path) as scene:
        held = await scene.connect()
        async with held.transaction():
            row = await (await held.execute(_INSERT, (1,))).fetchone()
            async with scene.client.subscribe(NOW) as stream, scene.client.subscribe(NOW, scope=logical("1")) as shelf:
                await stream.until_live()
                await shelf.until_live()
                token = (await scene.client.read(NOW)).continuation_token
                flowing = await scene.insert(5)
                await stream.until_events(5)
                await held.execute("COMMIT")
                assert row is not None
                await stream.until_events(6)
                await shelf.until_events(1)
        assert keys(stream.events) == [*flowing, row[0]]
        assert keys(shelf.events) == [row[0]]
        assert keys((await scene.client.read_until(after(token), 6)).events) == [*flowing, row[0]]
