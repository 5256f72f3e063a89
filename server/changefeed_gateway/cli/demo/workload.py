"""People who edit documents: each edit is a transaction, and each knows how many changes it makes."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

import psycopg
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from changefeed_gateway.cli.demo.ledger import Ledger

WORKSPACES: Final = ("Research", "Legal", "Finance")
TOPICS: Final = ("budget", "contract", "field notes", "forecast", "interview", "invoice", "minutes", "survey")
TAGS: Final = ("draft", "final", "important", "review", "shared", "todo")
_EDITORS: Final = 6
_PAUSE_SECONDS: Final = 0.05
"""Mean time that an editor thinks between two edits."""
_LONG_SECONDS: Final = 2.0
"""How long the slow editor keeps a transaction open."""
_MOST_DOCUMENTS: Final = 400
_ROLLBACKS: Final = 0.03

_dice: Final = random.Random()  # noqa: S311 - no secret is made of it

Connection = psycopg.AsyncConnection[TupleRow]
_Action = Callable[["_Edit", str], Awaitable[None]]


class Workload:
    """Several editors at once, one of them slow, on a small set of documents."""

    def __init__(self, dsn: str, ledger: Ledger) -> None:
        self.ledger = ledger
        self._dsn = dsn
        self._workspaces: list[str] = []
        self._documents: set[str] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._connected = 0
        self._idle = asyncio.Event()

    async def prepare(self) -> None:
        """Find the workspaces and documents of earlier runs, or make the workspaces."""
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
            for name in WORKSPACES:
                await connection.execute(
                    "INSERT INTO documents.workspaces (name)"
                    " SELECT %(name)s WHERE NOT EXISTS (SELECT FROM documents.workspaces WHERE name = %(name)s)",
                    {"name": name},
                )
            self._workspaces = await _texts(connection, "SELECT id::text FROM documents.workspaces")
            self._documents = set(await _texts(connection, "SELECT id::text FROM documents.files"))

    async def touch_all(self) -> None:
        """Write every document as it is, so that each is sent anew."""
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
            await connection.execute("UPDATE documents.files SET updated_at = updated_at")

    async def run(self, stop: asyncio.Event, others: Callable[[Connection], Awaitable[None]]) -> None:
        """Edit until told to stop; transactions under way are finished. `others` is one round of other work."""

        async def round_(connection: Connection, stop: asyncio.Event, _: float) -> None:
            await others(connection)

        async with asyncio.TaskGroup() as editors:
            editors.create_task(self._work_until(stop, round_, 0.0))
            for _ in range(_EDITORS):
                editors.create_task(self._work_until(stop, self._transaction, 0.0))
            editors.create_task(self._work_until(stop, self._transaction, _LONG_SECONDS))

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Keep the editors away from the database: what they had under way has ended, so that it can be counted."""
        self._open.clear()
        try:
            while self._connected:
                self._idle.clear()
                await self._idle.wait()
            yield
        finally:
            self._open.set()

    async def _work_until(
        self,
        stop: asyncio.Event,
        work: Callable[[Connection, asyncio.Event, float], Awaitable[None]],
        hold_seconds: float,
    ) -> None:
        while not stop.is_set():
            await self._open.wait()
            self._connected += 1
            try:
                async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
                    while self._open.is_set() and not stop.is_set():
                        await work(connection, stop, hold_seconds)
                        await _pause(stop, _dice.expovariate(1 / _PAUSE_SECONDS))
            finally:
                self._connected -= 1
                self._idle.set()

    async def _transaction(self, connection: Connection, stop: asyncio.Event, hold_seconds: float) -> None:
        edit = _Edit(connection, self._workspaces)
        try:
            async with connection.transaction():
                for document in self._choose():
                    await _dice.choices(_ACTIONS, _WEIGHTS)[0](edit, document)
                if not self._documents or (_dice.random() < 0.2 and len(self._documents) < _MOST_DOCUMENTS):
                    await edit.upload()
                await _pause(stop, hold_seconds)
                if _dice.random() < _ROLLBACKS:
                    raise psycopg.Rollback
                self.ledger.committing(edit.changes)
                edit.kept = True
        except (psycopg.errors.DeadlockDetected, psycopg.errors.ForeignKeyViolation):
            # Another editor was there first, or removed the document for good.
            edit.kept = False
        if not edit.kept:
            self.ledger.rolled_back += 1
            return
        self.ledger.committed(edit.changes)
        self._documents |= edit.uploaded
        self._documents -= edit.removed

    def _choose(self) -> list[str]:
        """One document or two, in one order for everybody, as careful applications lock."""
        count = min(len(self._documents), _dice.choice((1, 1, 1, 2)))
        return sorted(_dice.sample(sorted(self._documents), count))


class _Edit:
    """One transaction: what it did, and how many changes of which document that makes."""

    def __init__(self, connection: Connection, workspaces: list[str]) -> None:
        self.changes: Counter[str] = Counter()
        self.uploaded: set[str] = set()
        self.removed: set[str] = set()
        self.kept = False
        self._connection = connection
        self._workspaces = workspaces

    async def upload(self) -> None:
        """Files come one by one or in a heap; each makes one change, its version none."""
        count = _dice.choice((1, 1, 1, 5))
        cursor = await self._connection.execute(
            "INSERT INTO documents.files (workspace_id, title, metadata)"
            " SELECT %s::uuid, format('%%s %%s', %s::text, n), %s FROM generate_series(1, %s) n RETURNING id::text",
            (_dice.choice(self._workspaces), _dice.choice(TOPICS), Jsonb({"pages": _dice.randint(1, 90)}), count),
        )
        self.uploaded = {row[0] async for row in cursor}
        await self._connection.execute(
            "INSERT INTO documents.file_versions (file_id, version, byte_size, content_type)"
            " SELECT unnest(%s::uuid[]), 1, %s, 'application/pdf'",
            (list(self.uploaded), _dice.randint(1_000, 5_000_000)),
        )
        self.changes.update(self.uploaded)

    async def rename(self, document: str) -> None:
        """One change."""
        title = f"{_dice.choice(TOPICS)} {_dice.randint(1, 99)}"
        await self._count(
            document, "UPDATE documents.files SET title = %s, updated_at = now() WHERE id = %s", (title, document)
        )

    async def tag(self, document: str) -> None:
        """One change, or none where the tag is there already."""
        await self._count(
            document,
            "INSERT INTO documents.file_tags (file_id, tag) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            (document, _dice.choice(TAGS)),
        )

    async def untag(self, document: str) -> None:
        """One change for all tags that go at once."""
        await self._count(document, "DELETE FROM documents.file_tags WHERE file_id = %s", (document,), at_most=1)

    async def run(self, document: str) -> None:
        """A change at the start and one at the end; progress and wide rows make none."""
        cursor = await self._connection.execute(
            "INSERT INTO documents.runs (input_file_version_id, status, started_at)"
            " SELECT id, 'running', now() FROM documents.file_versions WHERE file_id = %s"
            " ORDER BY version DESC LIMIT 1 RETURNING id",
            (document,),
        )
        row = await cursor.fetchone()
        if row is None:
            return
        await self._complete(row[0])
        self.changes[document] += 2

    async def _complete(self, run: UUID) -> None:
        await self._connection.execute("UPDATE documents.runs SET progress = 0.5 WHERE id = %s", (run,))
        await self._connection.execute(
            "INSERT INTO documents.run_fields (run_id, name, value)"
            " SELECT %s, format('field %%s', n), to_jsonb(n) FROM generate_series(1, 20) n",
            (run,),
        )
        await self._connection.execute(
            "UPDATE documents.runs SET status = %s, completed_at = now(), output = %s WHERE id = %s",
            (_dice.choice(("succeeded", "failed")), Jsonb({"score": _dice.randint(0, 100)}), run),
        )

    async def delete(self, document: str) -> None:
        """Into the bin: one change."""
        await self._count(
            document,
            "UPDATE documents.files SET deleted_at = now() WHERE id = %s AND deleted_at IS NULL",
            (document,),
        )

    async def undelete(self, document: str) -> None:
        """Out of the bin: one change."""
        await self._count(
            document,
            "UPDATE documents.files SET deleted_at = NULL WHERE id = %s AND deleted_at IS NOT NULL",
            (document,),
        )

    async def move(self, document: str) -> None:
        """Gone from one workspace, new in another: two changes."""
        workspace = _dice.choice(self._workspaces)
        await self._count(
            document,
            "UPDATE documents.files SET workspace_id = %s WHERE id = %s AND workspace_id <> %s",
            (workspace, document, workspace),
            each=2,
        )

    async def remove(self, document: str) -> None:
        """For good, with all that belongs to it: one change."""
        await self._count(document, "DELETE FROM documents.files WHERE id = %s", (document,))
        self.removed.add(document)

    async def _count(
        self, document: str, statement: str, arguments: tuple[str, ...], *, each: int = 1, at_most: int | None = None
    ) -> None:
        cursor = await self._connection.execute(statement.encode(), arguments)
        rows = cursor.rowcount if at_most is None else min(cursor.rowcount, at_most)
        if rows:
            self.changes[document] += each * rows


_CHANCES: Final[dict[_Action, int]] = {
    _Edit.rename: 25,
    _Edit.tag: 25,
    _Edit.untag: 5,
    _Edit.run: 15,
    _Edit.delete: 6,
    _Edit.undelete: 12,
    _Edit.move: 4,
    _Edit.remove: 4,
}
_ACTIONS: Final = list(_CHANCES)
_WEIGHTS: Final = list(_CHANCES.values())


async def _texts(connection: Connection, query: str) -> list[str]:
    return [row[0] async for row in await connection.execute(query.encode())]


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait, but not longer than there is work."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
