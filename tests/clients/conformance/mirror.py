"""What a copy of a collection holds: one that an example has made, or that follows from what a program was told."""

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from changefeed.v1.change_event_pb2 import CHANGE_TYPE_DELETE, CHANGE_TYPE_TRUNCATE

_SQLITE = b"SQLite format 3"


def copied(file: Path) -> dict[str, str]:
    """The text of each item by its key, a JSON array of the components' texts; of a JSON file or a SQLite database."""
    if not file.exists():
        return {}
    content = file.read_bytes()
    if not content:
        return {}  # a database before its first transaction
    if not content.startswith(_SQLITE):
        return {key: json.dumps(item) for key, item in json.loads(content)["items"].items()}
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        exists = database.execute("select 1 from sqlite_master where name = 'items'").fetchall()
        return dict(database.execute("select key, item from items")) if exists else {}


def applied(events: Iterable[dict[str, Any]]) -> dict[str, str]:
    """The same, of a consumer that applies events in the order in which they were told."""
    items: dict[str, str] = {}
    for event in events:
        key = json.dumps(event["key"])
        if event["type"] == CHANGE_TYPE_TRUNCATE:
            items.clear()
        elif event["type"] == CHANGE_TYPE_DELETE or event["item"] is None:
            items.pop(key, None)
        else:
            items[key] = event["item"]
    return items
