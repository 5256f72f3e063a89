"""`changefeed watch` and `changefeed unwatch`: make a feed of a table, and end it."""

import asyncio
from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer

from changefeed_gateway.app import operations
from changefeed_gateway.cli.arguments import Connection, chosen_connection, chosen_feed, duration_like, spelled
from changefeed_gateway.cli.exits import exits
from changefeed_gateway.cli.options import Config, Json
from changefeed_gateway.cli.output import err, out, print_json
from changefeed_gateway.settings import load_settings


class Image(StrEnum):
    """Whether the log keeps the row."""

    CAPTURED = "captured"
    NONE = "none"


class Doorbell(StrEnum):
    """How readers are woken."""

    NOTIFY = "notify"
    POLL = "poll"


def watch(
    table: Annotated[str, typer.Argument(help="The table, such as public.orders.")],
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column of a unique key, repeatable. [default: the primary key]"),
    ] = None,
    partition_key: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column of the partition key, repeatable. [default: the key]"),
    ] = None,
    image: Annotated[Image, typer.Option(help="Whether the log keeps the row.")] = Image.CAPTURED,
    image_column: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column that the log keeps, repeatable. [default: all]"),
    ] = None,
    doorbell: Annotated[
        Doorbell, typer.Option(help="poll where NOTIFY is not possible: prepared transactions, poolers.")
    ] = Doorbell.NOTIFY,
    always: Annotated[
        bool, typer.Option("--always", help="Also what is written as a replica, by logical replication.")
    ] = False,
    retention: Annotated[
        timedelta | None,
        typer.Option(metavar="DURATION", parser=duration_like("14d"), help="How long history is kept. [default: 7d]"),
    ] = None,
    connection: Connection = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Make a feed of a table: of its changes from now on, not of the rows that are there. Again without harm."""
    with exits():
        settings = load_settings(config)
        name = chosen_connection(settings, connection)
        with err.status(f"watching {table}"):
            collection = asyncio.run(
                operations.watch(
                    settings,
                    name,
                    table,
                    key=key or (),
                    partition_key=partition_key or (),
                    image=image.value,
                    image_columns=image_column or (),
                    doorbell=doorbell.value,
                    always=always,
                    retention=retention,
                )
            )
        if json:
            print_json("watched", {"address": f"{name}/{collection}"})
            return
        out.print(f"watched: changefeed tail {spelled(name, collection)}", markup=False, soft_wrap=True)
        out.print("rows that are there already do not arrive: its history begins now", soft_wrap=True)


def unwatch(
    table: Annotated[str, typer.Argument(help="The table, or a feed whose table is gone, such as main/public.orders.")],
    connection: Connection = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """End the feed of a table, and its history with it. The table stays as it is."""
    with exits():
        settings = load_settings(config)
        name, table = chosen_feed(settings, table, connection)
        with err.status(f"ending the feed of {table}"):
            collection = asyncio.run(operations.unwatch(settings, name, table))
        if json:
            print_json("unwatched", {"address": f"{name}/{collection}"})
            return
        out.print(f"ended: {spelled(name, collection)}, its history and its tokens", markup=False, soft_wrap=True)
