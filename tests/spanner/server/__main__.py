"""The server as a process of its own, with a change stream that is full already.

The first line on standard output is its address as JSON. Each line on standard input is a command, such as
`{"command": "split", "arguments": ["AbC..."]}`, answered by one line of JSON. The end of the input ends it.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from tests.spanner.server.behaviour import Behaviour
from tests.spanner.server.clock import rfc3339
from tests.spanner.server.schema import StreamDefinition, table
from tests.spanner.server.wire import WireServer

DATABASE = "main"
STREAM = "changes"


def serve(
    *,
    port: Annotated[int, typer.Option(help="Port on loopback; 0 takes a free one.")] = 0,
    name: Annotated[str, typer.Option("--table", help="Name of the table; its key is the INT64 column id.")] = "things",
    postgres: Annotated[bool, typer.Option(help="The PostgreSQL dialect instead of GoogleSQL.")] = False,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions that its change stream begins with.")] = 1,
    records: Annotated[int, typer.Option(min=0, help="Changes that are in the stream already.")] = 0,
    keys: Annotated[int, typer.Option(min=1, help="Rows that these changes belong to.")] = 10_000,
    row_bytes: Annotated[int, typer.Option(min=1, help="Bytes of text in each row.")] = 200,
    capture: Annotated[str, typer.Option(help="The stream's value_capture_type.")] = "NEW_ROW",
) -> None:
    """Serve Cloud Spanner until standard input ends."""
    asyncio.run(_serve(port, name, postgres, partitions, records, keys, row_bytes, capture))


async def _serve(
    port: int, name: str, postgres: bool, partitions: int, records: int, keys: int, row_bytes: int, capture: str
) -> None:
    async with WireServer(Behaviour(partitions=partitions), port=port) as server:
        things = table(name, "id", id="INT64", number="INT64", text="STRING")
        stream = StreamDefinition(STREAM, None, {"value_capture_type": capture})
        server.create_database(DATABASE, [things], [stream], postgres=postgres)
        fill(server, name, records, keys, row_bytes)
        created = rfc3339(server.stream(DATABASE, STREAM).created)
        place = {"project": server.project, "instance": server.instance, "database": DATABASE}
        _say({"host": server.host, **place, "start": created})
        while line := await asyncio.to_thread(sys.stdin.readline):
            request = json.loads(line)
            _say(commands(server)[request["command"]](*request.get("arguments", [])))


def fill(server: WireServer, name: str, records: int, keys: int, row_bytes: int) -> None:
    """Make the changes."""
    columns = ["id", "number", "text"]
    for number in range(records):
        row = [str(number % keys), str(number), f"{number:012d}".ljust(row_bytes, "x")]
        server.write(DATABASE, {"insert_or_update": {"table": name, "columns": columns, "values": [row]}})


def commands(server: WireServer) -> dict[str, Callable[..., Any]]:
    """What may be asked for by a line."""
    return {
        "counts": server.calls.counts,
        "clear": server.calls.clear,
        "most_readers": server.calls.most_readers,
        "alive": lambda: server.alive(DATABASE, STREAM),
        "split": lambda token: server.split(DATABASE, STREAM, token),
        "merge": lambda *tokens: server.merge(DATABASE, STREAM, *tokens),
        "move": lambda token: server.move(DATABASE, STREAM, token),
        "trim": lambda: server.trim(DATABASE, STREAM).total_seconds(),
        "write": lambda *mutations: server.write(DATABASE, *mutations).timestamp,
    }


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    typer.run(serve)
