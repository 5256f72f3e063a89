"""People who edit documents in a database where a document is one item, and know how many changes each edit makes."""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from changefeed_client import NOW
from changefeed_gateway.cli.demo.ledger import Ledger
from changefeed_gateway.cli.demo.workload import TAGS, TOPICS, WORKSPACES

Item = dict[str, Any]
"""`workspace` and `id` are its key; `title`, `tags`, `last_run` and `revision` its content."""

_EDITORS: Final = 4
_PAUSE_SECONDS: Final = 0.05
"""Mean time that an editor thinks between two edits."""
_MOST_DOCUMENTS: Final = 60
"""Of an editor."""

_dice: Final = random.Random()


class InMemory:
    """What stages have in common whose database ends with the run; what is not theirs alone of a `Stage`."""

    first_position = NOW
    orders = None

    def __init__(self) -> None:
        self.ledger = Ledger()

    async def put(self, item: Item) -> None:
        """Create or replace: one change."""
        raise NotImplementedError

    async def delete(self, item: Item) -> None:
        """Delete: one change."""
        raise NotImplementedError

    async def edit(self, stop: asyncio.Event) -> None:
        """Let several people edit until told to stop."""
        async with asyncio.TaskGroup() as editors:
            for _ in range(_EDITORS):
                editors.create_task(Editor(self, self.ledger).work(stop))

    async def disturb(self, say: Callable[[str], None]) -> None:
        """Nothing: a restart would leave nothing."""

    async def touch_all(self) -> None:
        """Nothing is there before a run."""


class Editor:
    """Has documents of his own, so that nobody else is in the way."""

    def __init__(self, store: InMemory, ledger: Ledger) -> None:
        self._store, self._ledger = store, ledger
        self._documents: dict[str, Item] = {}

    async def work(self, stop: asyncio.Event) -> None:
        """Edit; what is under way is finished."""
        while not stop.is_set():
            if not self._documents or (_dice.random() < 0.2 and len(self._documents) < _MOST_DOCUMENTS):
                await self._upload()
            else:
                item = self._documents[_dice.choice(list(self._documents))]
                await _dice.choices(_ACTIONS, _WEIGHTS)[0](self, dict(item))
            await asyncio.sleep(_dice.expovariate(1 / _PAUSE_SECONDS))

    async def _upload(self) -> None:
        await self._put(
            {
                "id": str(uuid.uuid4()),
                "workspace": _dice.choice(WORKSPACES),
                "title": f"{_dice.choice(TOPICS)} {_dice.randint(1, 99)}",
                "tags": [],
                "last_run": None,
                "revision": 0,
            }
        )

    async def _rename(self, item: Item) -> None:
        await self._put(item | {"title": f"{_dice.choice(TOPICS)} {_dice.randint(1, 99)}"})

    async def _tag(self, item: Item) -> None:
        await self._put(item | {"tags": sorted({*item["tags"], _dice.choice(TAGS)})})

    async def _untag(self, item: Item) -> None:
        await self._put(item | {"tags": []})

    async def _run(self, item: Item) -> None:
        started = item | {"last_run": {"status": "running"}}
        await self._put(started)
        await self._put(started | {"last_run": {"status": _dice.choice(("succeeded", "failed"))}})

    async def _move(self, item: Item) -> None:
        """Gone from one workspace, new in another: two changes, one after the other, as these are two keys."""
        await self._delete(item)
        await self._put(item | {"workspace": _dice.choice(WORKSPACES)})

    async def _delete(self, item: Item) -> None:
        del self._documents[item["id"]]
        await self._entered(item["id"], self._store.delete(item))

    async def _put(self, item: Item) -> None:
        # A replacement by the same content is no change to some databases.
        revised = item | {"revision": self._documents.get(item["id"], item)["revision"] + 1}
        self._documents[item["id"]] = revised
        await self._entered(item["id"], self._store.put(revised))

    async def _entered(self, document: str, write: Awaitable[None]) -> None:
        changes = Counter({document: 1})
        self._ledger.committing(changes)
        await write
        self._ledger.committed(changes)


_CHANCES: Final[dict[Callable[[Editor, Item], Awaitable[None]], int]] = {
    Editor._rename: 30,
    Editor._tag: 30,
    Editor._untag: 5,
    Editor._run: 15,
    Editor._move: 5,
    Editor._delete: 8,
}
_ACTIONS: Final = list(_CHANCES)
_WEIGHTS: Final = list(_CHANCES.values())
