"""A consumer's copy of the documents, made of nothing but the images that arrive, and kept with its place."""

import json
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from changefeed.v1.change_event_pb2 import CHANGE_TYPE_TRUNCATE, ChangeEvent
from changefeed_client import Delivery
from changefeed_client.checkpoint import replace_file

_REMEMBERED: Final = 20_000
"""Event ids in which a duplicate is looked for."""


class Document(NamedTuple):
    """What is compared."""

    workspace: str
    title: str
    tags: tuple[str, ...]
    last_run: str | None
    """Status of the last run."""


class Mirror:
    """Documents by id and by workspace, as a document that moved is gone in one and new in another."""

    def __init__(self, file: Path) -> None:
        self.token = ""
        """Where to go on; it belongs to the documents and is saved with them."""
        self.received: Counter[str] = Counter()
        """Events a document, by its id."""
        self.duplicates = 0
        self._file = file
        self._items: dict[tuple[str, str], str] = {}
        self._recent: deque[str] = deque(maxlen=_REMEMBERED)
        self._seen: set[str] = set()
        self._counted: tuple[Counter[str], int] = (Counter(), 0)
        """What had been received when it was saved last."""

    def __len__(self) -> int:
        return len(self._items)

    def take(self, delivery: Delivery) -> None:
        """Apply what arrived and move on; nothing is lost if the process dies before `save`, it only comes again."""
        for event in delivery.events:
            self._apply(event)
        self.token = delivery.continuation_token

    def _apply(self, event: ChangeEvent) -> None:
        if self._is_duplicate(event.event_id):
            self.duplicates += 1
            return
        document = document_of(event)
        self.received[document] += 1
        if event.change_type == CHANGE_TYPE_TRUNCATE:
            self._items.clear()
        elif event.new_item_json:
            self._items[event.key.partition_key, document] = event.new_item_json
        else:
            # A delete, or a change of a document that is gone by now: either way it is not there.
            self._items.pop((event.key.partition_key, document), None)

    def take_count(self) -> int:
        """How many events came so far; counting begins anew."""
        count = self.received.total()
        self.received.clear()
        self._counted = (Counter(), self.duplicates)
        return count

    def _is_duplicate(self, event_id: str) -> bool:
        if event_id in self._seen:
            return True
        if len(self._recent) == _REMEMBERED:
            self._seen.discard(self._recent[0])
        self._recent.append(event_id)
        self._seen.add(event_id)
        return False

    def documents(self) -> dict[str, Document]:
        """The documents as the mirror has them."""
        return {document: parsed(json.loads(text), key) for (key, document), text in self._items.items()}

    def load(self) -> bool:
        """Take up what was saved; answers whether there was anything. Raises ValueError when it is damaged."""
        try:
            saved = json.loads(self._file.read_text(encoding="utf-8"))
            self.token = str(saved["token"])
            self._items = {(workspace, document): text for workspace, document, text in saved["items"]}
        except FileNotFoundError:
            return False
        except (ValueError, LookupError, TypeError):
            raise ValueError(f"{self._file} is damaged") from None
        return True

    def save(self) -> None:
        """Keep place and documents together, whole or not at all."""
        items = [[*key, text] for key, text in self._items.items()]
        replace_file(self._file, json.dumps({"token": self.token, "items": items}))
        self._counted = (Counter(self.received), self.duplicates)

    def die(self) -> None:
        """Know no more than a new process does: what was saved."""
        self.load()
        self.received, self.duplicates = Counter(self._counted[0]), self._counted[1]
        self._recent.clear()
        self._seen.clear()

    def title(self, event: ChangeEvent) -> str:
        """What a document is called, as far as it is known."""
        text = event.new_item_json or self._items.get((event.key.partition_key, document_of(event)), "")
        return json.loads(text)["title"] if text else f"document {document_of(event)[:8]}"

    def forget(self) -> None:
        """Start anew."""
        self.token = ""
        self._items.clear()


def document_of(event: ChangeEvent) -> str:
    """The id of the document that changed, the last part of its key; empty for a truncate."""
    return event.key.components[-1].value if event.key.components else ""


def parsed(image: Mapping[str, Any], partition_key: str = "") -> Document:
    """What is compared of an image. Where it does not name its workspace, that is its partition key."""
    return Document(
        workspace=image.get("workspace", partition_key),
        title=image["title"],
        tags=tuple(image["tags"]),
        last_run=last_run(image),
    )


def last_run(image: Mapping[str, Any]) -> str | None:
    """Status of the last run, if there is one. A column of Spanner that holds JSON comes as its text."""
    run = image["last_run"]
    found: dict[str, str] | None = json.loads(run) if isinstance(run, str) else run
    return found["status"] if found else None
