"""Lines for people and JSON lines for programs."""

import json
import re
import sys
from collections.abc import Mapping
from datetime import UTC
from typing import Any, Final, NoReturn

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text

from changefeed.v1.change_event_pb2 import ChangeEvent, ChangeType, ItemState

CHANGE_STYLES: Final = {"CREATE": "green", "UPDATE": "cyan", "DELETE": "red", "TRUNCATE": "bold red"}


_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but the ends of lines and tabs."""


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


out: Final = _Console(highlight=False, soft_wrap=not sys.stdout.isatty())
err: Final = _Console(highlight=False, stderr=True)


def complain(text: str) -> None:
    """Say something on standard error."""
    err.print(printable(text), markup=False, soft_wrap=True)


def printable(text: str) -> str:
    """A text that moves no cursor and colours nothing: what comes out of a database is no order to a terminal."""
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def print_json(kind: str, content: Mapping[str, Any]) -> None:
    """Write one JSON line; `type` says what it is."""
    sys.stdout.write(json.dumps({"type": kind, **content}, ensure_ascii=False) + "\n")


def as_dict(message: Message) -> dict[str, Any]:
    """A message in the contract's own names."""
    return MessageToDict(message, preserving_proto_field_name=True)


def print_change(event: ChangeEvent) -> None:
    """Write one change as a line, cut at the edge of a terminal."""
    change = short(ChangeType, event.change_type)
    time = event.commit_timestamp.ToDatetime(UTC).astimezone()
    key = printable(" ".join(f"{part.name}={part.value}" for part in event.key.components))
    line = Text.assemble(
        (time.strftime("%H:%M:%S.%f")[:-3] if event.HasField("commit_timestamp") else "", "dim"),
        "  ",
        (f"{change:8}", CHANGE_STYLES.get(change, "")),
        f"  {key}  ",
        (_item(event), "dim"),
    )
    line.no_wrap = True
    line.overflow = "ellipsis"
    out.print(line)


def print_token(token: str) -> None:
    """Write the token to go on with."""
    out.print(Text.assemble(("token  ", "bold"), token), soft_wrap=True)


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Write rows under headings."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)


def _item(event: ChangeEvent) -> str:
    if event.new_item_json:
        return printable(event.new_item_json)
    state = short(ItemState, event.item_state)
    return "" if state == "NOT_APPLICABLE" else f"({state.lower()})"


def short(enum: Any, value: int) -> str:
    """The name of an enum's value without the enum's own; the number for one of a later contract."""
    try:
        name: str = enum.Name(value)
    except ValueError:
        return str(value)
    prefix = "".join(f"_{c}" if c.isupper() else c.upper() for c in enum.DESCRIPTOR.name)[1:]
    return name.removeprefix(f"{prefix}_")
