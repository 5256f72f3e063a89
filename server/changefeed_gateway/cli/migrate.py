"""`changefeed migrate`: install the change log."""

import asyncio
from typing import Annotated

import typer

from changefeed_gateway.app import operations
from changefeed_gateway.cli.arguments import Connection, chosen_connection
from changefeed_gateway.cli.exits import exits
from changefeed_gateway.cli.options import Config, Json
from changefeed_gateway.cli.output import err, out, print_json
from changefeed_gateway.settings import load_settings


def migrate(
    connection: Connection = None,
    documents: Annotated[bool, typer.Option("--documents", help="Also the documents schema and its feed.")] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Install the change log in a PostgreSQL database, or bring it up to date. Again without harm."""
    with exits():
        settings = load_settings(config)
        name = chosen_connection(settings, connection)
        with err.status(f"migrating {name}"):
            applied = asyncio.run(operations.migrate(settings, name, documents=documents))
        if json:
            print_json("migrated", {"connection": name, "applied": applied})
            return
        for file in applied:
            out.print(f"applied {file}")
        if not applied:
            out.print("nothing to do: every migration has been applied")
