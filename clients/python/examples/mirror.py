"""Keep a local copy of a collection: the items that are there, then every change.

    python mirror.py main/documents mirror.db

Stop it with Ctrl-C or a kill and start it again: rows and token are written in one transaction, so the copy ends equal
to the source whatever happened in between. CHANGEFEED_TARGET names another gateway than 127.0.0.1:50051.
"""

import asyncio
import json
import os
import sqlite3
import sys

from changefeed.v1.change_event_pb2 import (
    CHANGE_TYPE_DELETE,
    CHANGE_TYPE_TRUNCATE,
    ITEM_STATE_NOT_APPLICABLE,
    KEY_TYPE_NULL,
    ChangeEvent,
    ItemState,
)
from changefeed.v1.position_pb2 import StartPosition
from changefeed_client import BEGINNING, SNAPSHOT, ChangeFeedClient, ChangeFeedRpcError, after, collection, connect

TABLES = """
    create table if not exists items (key text primary key, item text not null);
    create table if not exists place (token text not null);
"""


def apply(database: sqlite3.Connection, event: ChangeEvent) -> None:
    """One change, idempotent, as delivery is at least once."""
    # Null is no empty text.
    values = [None if component.type == KEY_TYPE_NULL else component.value for component in event.key.components]
    key = json.dumps(values)
    if event.change_type == CHANGE_TYPE_TRUNCATE:
        database.execute("delete from items")
    elif event.change_type == CHANGE_TYPE_DELETE or event.item_state == ITEM_STATE_NOT_APPLICABLE:
        database.execute("delete from items where key = ?", (key,))
    elif event.new_item_json:
        # The text itself: every digit stays.
        database.execute("insert or replace into items values (?, ?)", (key, event.new_item_json))
    else:
        raise SystemExit(f"{key} came without its item: {ItemState.Name(event.item_state)}")


async def first_position(client: ChangeFeedClient, path: str) -> StartPosition:
    """A snapshot, where the collection has them; otherwise all changes that are retained."""
    answer = await client.capabilities(collection(path))
    can = any(c.name == "CHANGE_FEED_SNAPSHOT" and c.supported for c in answer.capabilities)
    return SNAPSHOT if can else BEGINNING


async def mirror(target: str, path: str, database: sqlite3.Connection) -> None:
    """Follow until interrupted."""
    [(token,)] = database.execute("select max(token) from place")
    async with connect(target) as client:
        start = after(token) if token else await first_position(client, path)
        async with client.tail(collection(path), start) as tail:
            async for delivery in tail:
                with database:  # One transaction: the work and the token that says it is done.
                    for event in delivery.events:
                        apply(database, event)
                    database.execute("delete from place")
                    database.execute("insert into place values (?)", (delivery.continuation_token,))
                if delivery.events:
                    print(f"{len(delivery.events)} changes", "of the snapshot" if delivery.snapshot else "", flush=True)


def main() -> None:
    """Run until Ctrl-C or a final error."""
    target = os.environ.get("CHANGEFEED_TARGET", "127.0.0.1:50051")
    database = sqlite3.connect(sys.argv[2])
    database.executescript(TABLES)
    try:
        asyncio.run(mirror(target, sys.argv[1], database))
    except KeyboardInterrupt:
        sys.exit(130)
    except ChangeFeedRpcError as error:
        lost = error.category == "CHECKPOINT_EXPIRED"
        sys.exit(f"{error}\nchanges are lost to this mirror: remove its file to copy anew" if lost else str(error))


if __name__ == "__main__":
    main()
