"""Arguments and options that several commands share."""

import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from changefeed.v1.position_pb2 import StartPosition
from changefeed.v1.read_changes_pb2 import NewItemStateMode
from changefeed.v1.resource_pb2 import FeedScope, ResourceAddress
from changefeed_client import (
    BEGINNING,
    NOW,
    SNAPSHOT,
    after,
    at_time,
    collection,
    logical_partition,
    physical_partition,
)
from changefeed_gateway.cli.exits import ExitCode, Failed
from changefeed_gateway.cli.place import Place
from changefeed_gateway.settings import PostgresConnection, Settings
from changefeed_gateway.settings.values import parse_duration

MOST: Final = 2**31 - 1
"""The largest number of changes that the contract can ask for at once."""
_SHORTEST_TOKEN: Final = 40
_NAMED: Final = {"beginning": BEGINNING, "now": NOW, "snapshot": SNAPSHOT}


class ItemsChoice(StrEnum):
    """Whether changes carry the item."""

    OMIT = "omit"
    INCLUDE = "include"
    REQUIRE = "require"

    @property
    def mode(self) -> NewItemStateMode:
        """The contract's value."""
        match self:
            case ItemsChoice.OMIT:
                return NewItemStateMode.NEW_ITEM_STATE_MODE_OMIT
            case ItemsChoice.INCLUDE:
                return NewItemStateMode.NEW_ITEM_STATE_MODE_INCLUDE_IF_AVAILABLE
            case ItemsChoice.REQUIRE:
                return NewItemStateMode.NEW_ITEM_STATE_MODE_REQUIRE


def address_of(text: str) -> ResourceAddress:
    """Read connection/collection."""
    try:
        return collection(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not connection/collection") from None


def _start(text: str) -> StartPosition:
    """Read beginning, now, snapshot, a time, a length of time before now, or a token."""
    if text in _NAMED:
        return _NAMED[text]
    try:
        # Tokens are long; anything short was meant to be something else.
        return after(text) if len(text) >= _SHORTEST_TOKEN else at_time(_time(text))
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is not beginning, now, snapshot, a time or a token") from None


def _time(text: str) -> datetime:
    try:
        return datetime.now(UTC) - parse_duration(text)
    except ValueError:
        time = datetime.fromisoformat(text)
        return time.astimezone() if time.tzinfo is None else time


def duration_like(example: str) -> Callable[[str | timedelta], timedelta]:
    """What reads an option's duration, and says an example of one to who gives something else."""

    def duration(value: str | timedelta) -> timedelta:
        try:
            return value if isinstance(value, timedelta) else parse_duration(value)
        except ValueError:
            raise typer.BadParameter(f"{value!r} is not a duration such as {example}") from None

    return duration


_duration = duration_like("20s")


def scope_of(partition: str | None, logical: str | None) -> FeedScope | None:
    """The scope that two options choose; None for the entire collection, or the scope of a token."""
    if partition is not None and logical is not None:
        raise typer.BadParameter("--partition and --logical-partition exclude each other")
    try:
        if partition is not None:
            return physical_partition(partition)
        return None if logical is None else logical_partition(logical)
    except ValueError:
        raise typer.BadParameter("--partition and --logical-partition are texts in UTF-8") from None


def start_of(chosen: StartPosition | None, place: Place | None, default: StartPosition) -> StartPosition:
    """Where to start: the kept place if there is one, then what was chosen, then a command's default."""
    kept = place.load() if place else None
    if kept is not None:
        return after(kept)
    return default if chosen is None else chosen


Collection = Annotated[
    ResourceAddress,
    typer.Argument(metavar="CONNECTION/COLLECTION", parser=address_of, help="Whose changes, such as main/documents."),
]
From = Annotated[
    StartPosition | None,
    typer.Option(
        "--from",
        metavar="START",
        parser=_start,
        help="beginning, now, snapshot, a time (2026-01-31T12:00:00Z), how long ago (10m), or a token.",
    ),
]
Partition = Annotated[str | None, typer.Option(metavar="ID", help="Only this physical partition (see partitions).")]
Logical = Annotated[str | None, typer.Option("--logical-partition", metavar="KEY", help="Only this partition key.")]
Items = Annotated[ItemsChoice, typer.Option(help="Whether changes carry the item.")]
MaxEvents = Annotated[int, typer.Option(min=0, max=MOST, help="End after so many changes; 0 is no end.")]
Resume = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Keep the place in this file, and start from it if it exists."),
]
MaxWait = Annotated[
    timedelta,
    typer.Option(
        metavar="DURATION", parser=_duration, help="How long to wait when there is no change.", show_default="0s"
    ),
]
Heartbeat = Annotated[
    timedelta | None,
    typer.Option(metavar="DURATION", parser=_duration, help="Longest silence; twice it is a broken connection."),
]
RetryFor = Annotated[
    timedelta | None,
    typer.Option(
        metavar="DURATION",
        parser=_duration,
        help="How long an outage may last, and how long to wait for a gateway that is not there yet."
        " [default: 1m, and not at all]",
    ),
]
Wire = Annotated[
    bool,
    typer.Option("--wire", help="JSON as the contract has it: the item as text, and every heartbeat with its token."),
]
Connection = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A PostgreSQL connection of the settings. [default: the only one]"),
]


def chosen_feed(settings: Settings, address: str, connection: str | None) -> tuple[str, str]:
    """The connection and the collection that an operator means: connection/collection, or a collection alone."""
    before, slash, after_ = address.partition("/")
    if slash and before in settings.connections and connection in (None, before):
        return chosen_connection(settings, before), after_
    return chosen_connection(settings, connection), address


def spelled(connection: str, collection: str) -> str:
    """An address as every command writes and reads it, quoted where a shell needs it."""
    return shlex.quote(f"{connection}/{collection}")


def chosen_connection(settings: Settings, name: str | None) -> str:
    """The PostgreSQL connection that is meant. Raises Failed: no command makes a database that nobody asked for."""
    if not settings.names_connections:
        raise Failed(
            ExitCode.SETTINGS,
            "no database is named: set CHANGEFEED_CONNECTIONS__MAIN__DSN, or connections in changefeed.yaml"
            " (docs/configuration.md); {main: {provider: postgres, embedded: {}}} is the one that serve and demo make",
        )
    names = [known for known, what in settings.connections.items() if isinstance(what, PostgresConnection)]
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        raise typer.BadParameter(f"--connection must name one of {', '.join(names) or 'none there is'}")
    return name
