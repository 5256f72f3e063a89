"""Lines for people and JSON lines for programs."""

import json
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text

from changefeed.v1.change_event_pb2 import ChangeEvent, ChangeType, ItemState

CHANGE_STYLES: Final = {
    "CREATE": "green",
    "UPDATE": "cyan",
    "DELETE": "red",
    "TRUNCATE": "bold red",
    "SNAPSHOT": "blue",
}


_LINE_ENDS: Final = re.compile(r"[\r\n]")
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
    sys.stdout.write(json_line(kind, content) + "\n")


def json_line(kind: str, content: Mapping[str, Any], item: str = "") -> str:
    """One line of JSON; an item goes in as it is, so that no number of it changes."""
    line = json.dumps({"type": kind, **content}, ensure_ascii=False)
    # Within JSON an end of a line stands between values only.
    return f'{line[:-1]}, "item": {_LINE_ENDS.sub(" ", item)}}}' if item else line


def change_line(event: ChangeEvent, *, wire: bool) -> str:
    """One change as a line of JSON: with its item as JSON, or, `wire`, with the text that the contract has."""
    content = as_dict(event)
    return json_line("change", content) if wire else json_line("change", content, content.pop("new_item_json", ""))


def time_text(time: datetime) -> str:
    """A time as the contract's JSON has it: ISO 8601, UTC, Z."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def seconds_text(duration: timedelta) -> str:
    """A length of time as the contract's JSON has it."""
    message = Duration()
    message.FromTimedelta(duration)
    return message.ToJsonString()


def as_dict(message: Message) -> dict[str, Any]:
    """A message in the contract's own names."""
    return MessageToDict(message, preserving_proto_field_name=True)


def print_change(event: ChangeEvent, *, json: bool = False, wire: bool = False) -> None:
    """Write one change as a line: of JSON, or for people, cut at the edge of a terminal."""
    if json:
        sys.stdout.write(change_line(event, wire=wire) + "\n")
        return
    change = short(ChangeType, event.change_type)
    at = event.commit_timestamp.ToDatetime(UTC)
    time = f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z" if event.HasField("commit_timestamp") else ""
    key = printable(" ".join(f"{part.name}={part.value}" for part in event.key.components))
    line = Text.assemble(
        (time, "dim"),
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
    """Write rows under headings: wrapped at the edge of a terminal, as long as they are into anything else."""
    lines = [[printable(cell).replace("\n", "\\n") for cell in row] for row in rows]
    if not out.is_terminal:
        widths = [max(map(len, column)) for column in zip(columns, *lines, strict=True)]
        for line in (columns, *lines):
            sys.stdout.write("  ".join(map(str.ljust, line, widths)).rstrip() + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
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
