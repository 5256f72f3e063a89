"""Follow a collection, go on where the last run stopped, and handle every change once; a kill repeats those under way.

    python follow.py main/documents place.json

Run it against `changefeed demo` or `changefeed serve`, stop it with Ctrl-C or a kill, and start it again.
CHANGEFEED_TARGET names another gateway than 127.0.0.1:50051.
"""

import asyncio
import json
import os
import sys
from collections import deque
from pathlib import Path

from changefeed.v1.change_event_pb2 import ChangeEvent, ChangeType
from changefeed_client import BEGINNING, ChangeFeedRpcError, after, collection, connect

REMEMBERED = 2_000
"""Redelivered changes follow a reconnect or a restart, so the last few ids are enough to know them by."""


class Place:
    """What survives this process: the last token and the ids of the last changes, in one file, whole or not at all."""

    def __init__(self, file: Path) -> None:
        self.file = file
        # An empty or damaged file is no missing one: to begin anew in silence would be to miss changes, or repeat all.
        saved = json.loads(file.read_text()) if file.exists() else {"token": None, "handled": ()}
        self.token: str | None = saved["token"]
        self.handled: deque[str] = deque(saved["handled"], maxlen=REMEMBERED)

    def save(self, token: str) -> None:
        """Move on. A consumer with a database of its own saves the token there, in the transaction of its work."""
        self.token = token
        draft = self.file.with_name(f"{self.file.name}.new")
        with draft.open("w") as out:
            json.dump({"token": token, "handled": list(self.handled)}, out)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(self.file)


def handle(event: ChangeEvent) -> None:
    """The work. Here: one line a change."""
    key = "/".join(part.value for part in event.key.components)
    print(ChangeType.Name(event.change_type), key, event.new_item_json or "(no item)", flush=True)


async def follow(target: str, path: str, place: Place) -> None:
    """Handle changes until interrupted. Reconnecting, resuming, heartbeats and pauses are the tail's work."""
    start = after(place.token) if place.token else BEGINNING
    async with connect(target) as client, client.tail(collection(path), start) as tail:
        async for delivery in tail:
            for event in delivery.events:
                if event.event_id not in place.handled:
                    handle(event)
                    place.handled.append(event.event_id)
            # After the work, and for every delivery: the token of an idle reader grows old too.
            place.save(delivery.continuation_token)


def main() -> int:
    """Run until Ctrl-C or a final error."""
    target = os.environ.get("CHANGEFEED_TARGET", "127.0.0.1:50051")
    try:
        place = Place(Path(sys.argv[2]))
    except (ValueError, LookupError, TypeError):
        print(f"{sys.argv[2]} holds no place: bring it back, or remove it to start over", file=sys.stderr)
        return 1
    try:
        asyncio.run(follow(target, sys.argv[1], place))
    except KeyboardInterrupt:
        return 130
    except ChangeFeedRpcError as error:
        print(error, file=sys.stderr)
        if error.category == "CHECKPOINT_EXPIRED":
            # Changes between the place and the oldest retained one are lost: only a new copy of the source heals that.
            print("remove the place file to start over from the beginning", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
