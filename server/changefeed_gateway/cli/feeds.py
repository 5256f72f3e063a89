"""`changefeed feeds`: what is captured, how, and whether it is."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from changefeed_gateway.app import operations
from changefeed_gateway.cli.arguments import Connection, chosen_connection, spelled
from changefeed_gateway.cli.exits import ExitCode, exits
from changefeed_gateway.cli.options import Config, Json
from changefeed_gateway.cli.output import err, out, print_json, print_table, seconds_text
from changefeed_gateway.settings import load_settings
from changefeed_gateway.settings.values import format_duration

if TYPE_CHECKING:
    from changefeed_gateway.app.operations import FeedState


def feeds(connection: Connection = None, config: Config = None, json: Json = False) -> None:
    """List the feeds of a PostgreSQL database: table, key, image, state, retention."""
    with exits():
        settings = load_settings(config)
        name = chosen_connection(settings, connection)
        with err.status(f"feeds of {name}"):
            found = asyncio.run(operations.feed_states(settings, name))
        if json:
            for feed in found:
                address = {"address": f"{name}/{feed.name}"}
                print_json("feed", address | asdict(feed) | {"retention": seconds_text(feed.retention)})
        else:
            _show(name, found)
    raise typer.Exit(ExitCode.UNHEALTHY if any(feed.state == "stopped" for feed in found) else ExitCode.OK)


def _show(connection: str, found: "list[FeedState]") -> None:
    rows = [
        [
            spelled(connection, feed.name),
            feed.source or "",
            " ".join(feed.key),
            " ".join(feed.partition_key),
            " ".join(feed.image_columns or [feed.image]),
            feed.capture + (", always" if feed.always else ""),
            feed.doorbell,
            format_duration(feed.retention),
            feed.state,
        ]
        for feed in found
    ]
    print_table(["feed", "table", "key", "partition key", "image", "capture", "doorbell", "retention", "state"], rows)
    for feed in found:
        if feed.problem:
            said = f"{spelled(connection, feed.name)}: {feed.problem} - {feed.remedy}"
            out.print(Text(said, "yellow"), soft_wrap=True)
