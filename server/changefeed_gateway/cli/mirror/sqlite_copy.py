"""A copy in a SQLite file."""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from changefeed_gateway.cli.exits import ExitCode, Failed
from changefeed_gateway.cli.mirror.copy import CopyPlace, Step

_T = TypeVar("_T")

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS items (key TEXT PRIMARY KEY, item TEXT NOT NULL, round INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS place (source TEXT PRIMARY KEY, token TEXT NOT NULL, round INTEGER NOT NULL) WITHOUT ROWID;
"""
_PUT: Final = (
    "INSERT INTO items VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET item = excluded.item, round = excluded.round"
)


class SqliteCopy:
    """Implements `Copy`; the file is worked on by one thread of its own."""

    def __init__(self, file: str, source: str) -> None:
        self._file, self._source = file, source
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._database: sqlite3.Connection | None = None
        self._known: CopyPlace | None = None
        """The place as it was asked for, or moved to, last."""

    async def place(self) -> CopyPlace | None:
        """See `Copy.place`. Raises Failed for the copy of another collection."""
        return await self._run(self._place)

    def _place(self, database: sqlite3.Connection) -> CopyPlace | None:
        rows = database.execute("SELECT source, token, round FROM place").fetchall()
        if not rows:
            self._known = None
            ((number,),) = database.execute("SELECT max(round) FROM items").fetchall()
            return None if number is None else ("", number)
        ((source, token, number),) = rows
        if source != self._source:
            raise Failed(ExitCode.PLACE, f"{self._file} is a copy of {source}: name another file")
        self._known = token, number
        return self._known

    async def take(self, steps: Sequence[Step], place: CopyPlace, *, whole: bool) -> None:
        """See `Copy.take`."""
        await self._run(lambda database: self._take(database, steps, place, whole))

    def _take(self, database: sqlite3.Connection, steps: Sequence[Step], place: CopyPlace, whole: bool) -> None:
        _, number = place
        with database:
            self._move(database, place)
            for step in steps:
                match step:
                    case "put", key, item:
                        database.execute(_PUT, (key, item, number))
                    case "remove", key, _:
                        database.execute("DELETE FROM items WHERE key = ?", (key,))
                    case _:
                        database.execute("DELETE FROM items")
            if whole:
                database.execute("DELETE FROM items WHERE round < ?", (number,))
        self._known = place

    def _move(self, database: sqlite3.Connection, place: CopyPlace) -> None:
        if self._known is None:
            # Nor beside the place of another source.
            moved = database.execute(
                "INSERT INTO place SELECT ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM place)", (self._source, *place)
            )
        else:
            moved = database.execute(
                "UPDATE place SET token = ?, round = ? WHERE source = ? AND token = ? AND round = ?",
                (*place, self._source, *self._known),
            )
        if not moved.rowcount:
            raise Failed(ExitCode.PLACE, f"another mirror writes to {self._file}: let only one run")

    async def items(self) -> Mapping[str, str]:
        """See `Copy.items`."""
        return await self._run(lambda database: dict(database.execute("SELECT key, item FROM items").fetchall()))

    async def aclose(self) -> None:
        """Close the file; idempotent."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()

    async def _run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        # What was begun ends: a cancellation in the middle would leave the thread with a transaction of nobody.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, self._work, work))

    def _work(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            if self._database is None:
                self._database = sqlite3.connect(self._file)
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.executescript(_TABLES)
            return work(self._database)
        except sqlite3.Error as error:
            raise Failed(ExitCode.PLACE, f"{self._file} cannot keep a copy: {error}") from None
