"""`changefeed watch`: make a feed of a table."""

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from changefeed_gateway import app as gateway
from changefeed_gateway.cli.arguments import Config, Connection, chosen_connection
from changefeed_gateway.cli.exits import exits
from changefeed_gateway.cli.output import err, out
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
    partition_key: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column of the partition key, repeatable. [default: the primary key]"),
    ] = None,
    image: Annotated[Image, typer.Option(help="Whether the log keeps the row.")] = Image.CAPTURED,
    doorbell: Annotated[
        Doorbell, typer.Option(help="poll where NOTIFY is not possible: prepared transactions, poolers.")
    ] = Doorbell.NOTIFY,
    connection: Connection = None,
    config: Config = None,
) -> None:
    """Make a feed of a plain table with a primary key. Again without harm."""
    with exits():
        settings = load_settings(config)
        name = chosen_connection(settings, connection)
        with err.status(f"watching {table}"):
            collection = asyncio.run(
                gateway.watch(
                    settings,
                    name,
                    table,
                    partition_key=partition_key or (),
                    image=image.value,
                    doorbell=doorbell.value,
                )
            )
        out.print(f"watched: changefeed tail {name}/{collection}", markup=False)
