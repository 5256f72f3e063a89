"""Reads what an example has copied: a file of JSON, or a database of SQLite."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

_SQLITE = b"SQLite format 3"


def copied(file: Path) -> dict[str, str]:
    """The text of each item by its key, a JSON array of the components' texts."""
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
