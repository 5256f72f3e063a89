"""The server as a process of its own, with a container that is full already.

The first line on standard output is its address as JSON. Each line on standard input is a command, such as
`{"command": "split", "arguments": ["things", "0"]}`, answered by one line of JSON. The end of the input ends it.
"""

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from tests.cosmos.server.behaviour import Behaviour
from tests.cosmos.server.wire import DATABASE, WireServer


def serve(
    *,
    port: Annotated[int, typer.Option(help="Port on loopback; 0 takes a free one.")] = 0,
    container: Annotated[str, typer.Option(help="Name of the container; its partition key is /pk.")] = "things",
    ranges: Annotated[int, typer.Option(min=1, help="Its partition key ranges.")] = 1,
    changes: Annotated[int, typer.Option(min=0, help="Changes that are in its feed already.")] = 0,
    keys: Annotated[int, typer.Option(min=1, help="Items that these changes belong to.")] = 10_000,
    item_bytes: Annotated[int, typer.Option(min=1, help="Bytes of text in each item.")] = 200,
    all_versions_and_deletes: Annotated[bool, typer.Option(help="Have the account opted into the mode.")] = True,
) -> None:
    """Serve Cosmos DB until standard input ends."""
    behaviour = Behaviour(ranges=ranges, all_versions_and_deletes=all_versions_and_deletes)
    with WireServer(behaviour, port=port) as server:
        server.create_container(container, "/pk")
        upsert_many(server, container, changes, keys, item_bytes)
        _say({"url": server.url, "key": server.key, "database": DATABASE, "container": container})
        for line in sys.stdin:
            request = json.loads(line)
            _say(commands(server)[request["command"]](*request.get("arguments", [])))


def upsert_many(server: WireServer, container: str, changes: int, keys: int, item_bytes: int) -> None:
    """Make so many changes; each key is a logical partition of one item."""
    for number in range(changes):
        text = f"{number:012d}".ljust(item_bytes, "x")
        key = f"key {number % keys}"
        server.upsert(container, {"id": key, "pk": key, "number": number, "text": text})


def commands(server: WireServer) -> dict[str, Callable[..., Any]]:
    """What may be asked for by a line."""
    return {
        "counts": server.calls.counts,
        "request_units": lambda: server.calls.request_units,
        "clear": server.calls.clear,
        "most_under_way": server.calls.most_under_way,
        "ranges": server.ranges,
        "range_of": server.range_of,
        "split": server.split,
        "merge": server.merge,
        "trim": server.trim,
        "recreate_container": lambda name: server.recreate_container(name).rid,
        "upsert": server.upsert,
        "upsert_many": lambda *arguments: upsert_many(server, *arguments),
        "delete": server.delete,
        "expire_item": server.expire_item,
    }


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    typer.run(serve)
