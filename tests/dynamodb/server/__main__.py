"""The server as a process of its own, with a table that is full already.

The first line on standard output is its address as JSON. Each line on standard input is a command, such as
`{"command": "split", "arguments": ["shardId-..."]}`, answered by one line of JSON. The end of the input ends it.
"""

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from tests.dynamodb.server.behaviour import Behaviour
from tests.dynamodb.server.wire import WireServer


class ViewType(StrEnum):
    """What a record holds beside the key."""

    NEW_IMAGE = "NEW_IMAGE"
    OLD_IMAGE = "OLD_IMAGE"
    NEW_AND_OLD_IMAGES = "NEW_AND_OLD_IMAGES"
    KEYS_ONLY = "KEYS_ONLY"


def serve(
    *,
    port: Annotated[int, typer.Option(help="Port on loopback; 0 takes a free one.")] = 0,
    table: Annotated[str, typer.Option(help="Name of the table; its key is the text attribute pk.")] = "things",
    shards: Annotated[int, typer.Option(min=1, help="Shards of its stream.")] = 1,
    records: Annotated[int, typer.Option(min=0, help="Changes that are in the stream already.")] = 0,
    keys: Annotated[int, typer.Option(min=1, help="Items that these changes belong to.")] = 10_000,
    item_bytes: Annotated[int, typer.Option(min=1, help="Bytes of text in each item.")] = 200,
    view_type: Annotated[ViewType, typer.Option(help="What a record holds beside the key.")] = ViewType.NEW_IMAGE,
    at_timestamp: Annotated[bool, typer.Option(help="Know the iterator type AT_TIMESTAMP.")] = True,
) -> None:
    """Serve DynamoDB and its streams until standard input ends."""
    with WireServer(Behaviour(shards=shards, at_timestamp=at_timestamp), port=port) as server:
        fill(server, table, view_type, records, keys, item_bytes)
        _say({"url": server.url, "table": table, "stream": server.stream(table).arn})
        for line in sys.stdin:
            request = json.loads(line)
            _say(commands(server)[request["command"]](*request.get("arguments", [])))


def fill(server: WireServer, name: str, view_type: str, records: int, keys: int, item_bytes: int) -> None:
    """Make the table and its changes."""
    schema = [{"AttributeName": "pk", "KeyType": "HASH"}]
    table = server.account.create_table(name, schema, [{"AttributeName": "pk", "AttributeType": "S"}])
    server.account.enable_stream(table, view_type)
    for number in range(records):
        text = f"{number:012d}".ljust(item_bytes, "x")
        table.put({"pk": {"S": f"key {number % keys}"}, "number": {"N": str(number)}, "text": {"S": text}})


def commands(server: WireServer) -> dict[str, Callable[..., Any]]:
    """What may be asked for by a line."""
    return {
        "counts": server.calls.counts,
        "clear": server.calls.clear,
        "most_readers": server.calls.most_readers,
        "open_shards": server.open_shards,
        "split": server.split,
        "rotate": server.rotate,
        "trim": server.trim,
        "expire_iterators": server.expire_iterators,
    }


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    typer.run(serve)
