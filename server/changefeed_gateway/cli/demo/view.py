"""What the demo shows: a panel that is drawn anew on a terminal, a line a second elsewhere."""

import json
import math
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC
from statistics import median
from typing import Final

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from changefeed.v1.change_event_pb2 import CHANGE_TYPE_DELETE, ChangeEvent, ChangeType
from changefeed_gateway.cli.demo.mirror import Mirror, document_of
from changefeed_gateway.cli.demo.workload import Ledger
from changefeed_gateway.cli.output import CHANGE_STYLES, out, short

_LINES: Final = 12
_REFRESH_SECONDS: Final = 0.25
_LINE_SECONDS: Final = 1.0


class View:
    """Shows the changes that arrive, with rate and delay."""

    def __init__(self, target: str, ledger: Ledger, mirror: Mirror) -> None:
        self._target, self._ledger, self._mirror = target, ledger, mirror
        self._lines: deque[Text] = deque(maxlen=_LINES)
        self._before = (time.monotonic(), 0)
        self._rate = 0.0
        self._drawn = math.inf
        """When it was drawn last; never before there is something to look at."""
        self._live = Live(console=out, auto_refresh=False, transient=True) if out.is_terminal else None

    def __enter__(self) -> "View":
        self._drawn, self._before = 0.0, (time.monotonic(), 0)
        out.print(self._hints(), soft_wrap=True)
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def take(self, events: Iterable[ChangeEvent]) -> None:
        """Show changes, at the latest with the next drawing."""
        if self._live:
            self._lines.extend(_line(event) for event in list(events)[-_LINES:])
        self.draw()

    def draw(self) -> None:
        """Draw, if it is time again."""
        now = time.monotonic()
        if now - self._drawn < (_REFRESH_SECONDS if self._live else _LINE_SECONDS):
            return
        self._drawn = now
        self._measure(now)
        if self._live:
            self._live.update(Panel(Group(*self._lines, "", self._figures())), refresh=True)
        else:
            out.print(self._figures())
            out.file.flush()

    def _measure(self, now: float) -> None:
        began, count = self._before
        if now - began >= _LINE_SECONDS:
            received = self._mirror.received.total()
            self._rate = (received - count) / (now - began)
            self._before = (now, received)

    def _figures(self) -> Text:
        delays = self._ledger.delays
        delay = f"{median(delays) * 1000:.1f} ms" if delays else "-"
        return Text.assemble(
            ("committed ", "dim"),
            f"{self._ledger.changes.total():,}",
            (" received ", "dim"),
            f"{self._mirror.received.total():,}",
            (" rate ", "dim"),
            f"{self._rate:,.0f}/s",
            (" commit to arrival ", "dim"),
            delay,
            (" documents ", "dim"),
            f"{len(self._mirror):,}",
        )

    def _hints(self) -> Text:
        return Text(
            "look from another terminal:\n"
            f"  {_command()} tail main/documents --target {self._target}\n"
            f"  grpcurl -plaintext -d '{_REQUEST}' \\\n"
            f"    {self._target} changefeed.v1.ChangeFeedService/Subscribe",
            "dim",
        )


def _command() -> str:
    """How to call this program from where the reader is."""
    if shutil.which("changefeed"):
        return "changefeed"
    program = os.path.relpath(sys.argv[0])
    return "python -m changefeed_gateway.cli" if program.endswith("__main__.py") else program


def _line(event: ChangeEvent) -> Text:
    """A change as people see documents: title, tags, last run."""
    image = json.loads(event.new_item_json) if event.new_item_json else None
    change = short(ChangeType, event.change_type)
    line = Text.assemble(
        (f"{event.commit_timestamp.ToDatetime(UTC).astimezone():%H:%M:%S}  ", "dim"),
        (f"{change:8}", CHANGE_STYLES.get(change, "")),
        (f"{document_of(event)[:8]}  ", "dim"),
    )
    if image:
        run = image["last_run"]
        line.append(f"{image['title']:20}")
        line.append("".join(f" #{tag}" for tag in image["tags"]), "cyan")
        line.append(f"  run {run['status']}" if run else "", "dim")
    elif event.change_type != CHANGE_TYPE_DELETE:
        line.append("(deleted by now)", "dim")
    line.no_wrap = True
    line.overflow = "ellipsis"
    return line


_REQUEST: Final = (
    '{"address": {"connection": "main", "collection": "documents"}, "start_position": {"now": {}}, "max_events": 5}'
)
