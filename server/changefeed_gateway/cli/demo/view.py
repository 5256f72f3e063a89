"""What the demo shows: a panel that is drawn anew on a terminal, a line a second elsewhere."""

import json
import math
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC
from statistics import median
from typing import Final

from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from changefeed.v1.change_event_pb2 import (
    CHANGE_TYPE_CREATE,
    CHANGE_TYPE_DELETE,
    CHANGE_TYPE_UPDATE,
    ChangeEvent,
)
from changefeed_gateway.cli.demo.ledger import Ledger
from changefeed_gateway.cli.demo.mirror import Mirror, last_run
from changefeed_gateway.cli.demo.orders import TABLE
from changefeed_gateway.cli.output import complain, out, print_change, print_json

_LINES: Final = 12
_REFRESH_SECONDS: Final = 0.25
_LINE_SECONDS: Final = 1.0
_PLOTTED: Final = 50
_BARS: Final = "▁▂▃▄▅▆▇█"


class View:
    """Shows the changes that arrive, with rate and delay."""

    def __init__(self, target: str, ledger: Ledger, mirror: Mirror, *, json: bool = False) -> None:
        self._target, self._ledger, self._mirror, self._json = target, ledger, mirror, json
        self._history: deque[tuple[float, float]] = deque(maxlen=_PLOTTED)
        """Rate and delay (seconds) of the last seconds."""
        self._left_out = 0
        self._lines: deque[Text] = deque(maxlen=_LINES)
        self._seen: set[str] = set()
        """Collections of which there is a line since the last drawing: a busy one does not hide the others."""
        self._before = (time.monotonic(), 0)
        self._rate = 0.0
        self._drawn = math.inf
        """When it was drawn last; never before there is something to look at."""
        self._live = Live(console=out, auto_refresh=False, transient=True) if out.is_terminal and not json else None

    def __enter__(self) -> "View":
        self._drawn, self._before = 0.0, (time.monotonic(), 0)
        if not self._json:
            out.print(self._hints(), soft_wrap=True)
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Say what happens, in a line that stays."""
        if self._json:
            print_json("said", {"text": text})
        else:
            complain(text)

    def take(self, events: Iterable[ChangeEvent]) -> None:
        """Show changes, at the latest with the next drawing; before the mirror has them, which knows what was."""
        if self._drawn != math.inf:
            for event in events:
                if self._json:
                    print_change(event, json=True)
                elif self._live or len(self._lines) < _LINES or event.address.collection not in self._seen:
                    self._left_out += not self._live and len(self._lines) == _LINES
                    self._lines.append(_sentence(event, self._mirror))
                    self._seen.add(event.address.collection)
                else:
                    self._left_out += 1
        self.draw()

    def draw(self) -> None:
        """Draw, if it is time again."""
        now = time.monotonic()
        if now - self._drawn < (_REFRESH_SECONDS if self._live else _LINE_SECONDS):
            return
        self._drawn = now
        self._measure(now)
        if self._json:
            print_json("counters", self._counters())
        elif self._live:
            self._live.update(Panel(Group(*self._lines, "", *self._plot(), self._figures())), refresh=True)
        else:
            for line in self._lines:
                out.print(line)
            if self._left_out:
                out.print(f"... and {self._left_out:,} more")
            self._lines.clear()
            self._seen.clear()
            self._left_out = 0
            out.print(self._figures())
        out.file.flush()

    def _measure(self, now: float) -> None:
        began, count = self._before
        if now - began >= _LINE_SECONDS:
            received = self._mirror.received.total()
            self._rate = max(0.0, (received - count) / (now - began))
            self._before = (now, received)
            self._history.append((self._rate, self._commit_to_arrival))

    @property
    def _commit_to_arrival(self) -> float:
        return median(self._ledger.commit_to_arrival) if self._ledger.commit_to_arrival else 0.0

    def _counters(self) -> dict[str, float]:
        return {
            "committed": self._ledger.changes.total(),
            "received": self._mirror.received.total(),
            "rate": round(self._rate, 1),
            "commit_to_arrival_seconds": round(self._commit_to_arrival, 6),
            "documents": len(self._mirror),
        }

    def _plot(self) -> list[Text]:
        """Rate and time from commit to arrival of the last seconds, a column each."""
        rates, times = [rate for rate, _ in self._history], [seconds * 1000 for _, seconds in self._history]
        return [
            _row("changes a second", rates, "green", f"{max(rates, default=0):,.0f} at most"),
            _row("commit to arrival", times, "cyan", f"{max(times, default=0):,.1f} ms at most"),
        ]

    def _figures(self) -> Text:
        taken = f"{self._commit_to_arrival * 1000:.1f} ms" if self._ledger.commit_to_arrival else "-"
        return Text.assemble(
            ("committed ", "dim"),
            f"{self._ledger.changes.total():,}",
            (" received ", "dim"),
            f"{self._mirror.received.total():,}",
            (" rate ", "dim"),
            f"{self._rate:,.0f}/s",
            (" commit to arrival ", "dim"),
            taken,
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


def _row(name: str, values: Sequence[float], style: str, summary: str) -> Text:
    return Text.assemble((f"{name:19}", "dim"), (_bars(values), style), f"  {summary}")


def _bars(values: Sequence[float]) -> str:
    top = max(values, default=0.0) or 1.0
    return "".join(_BARS[min(len(_BARS) - 1, int(value / top * len(_BARS)))] for value in values)


_WORDS: Final = {
    CHANGE_TYPE_CREATE: ("created", "green"),
    CHANGE_TYPE_UPDATE: ("changed", "cyan"),
    CHANGE_TYPE_DELETE: ("removed", "red"),
}


def _sentence(event: ChangeEvent, mirror: Mirror) -> Text:
    """A change as people speak of it."""
    said, style = _WORDS.get(event.change_type, ("changed", "cyan"))
    line = Text.assemble((f"{event.commit_timestamp.ToDatetime(UTC):%H:%M:%S}  ", "dim"))
    if event.address.collection == TABLE:
        order = json.loads(event.new_item_json) if event.new_item_json else None
        line.append(f"order {event.key.components[0].value}")
        line.append(f": {order['amount']} x {order['item']}, {'paid' if order['paid'] else 'open'}" if order else "")
        line.append(f", {said}", style)
    else:
        image = json.loads(event.new_item_json) if event.new_item_json else None
        line.append(f'"{mirror.title(event)}"')
        # A change whose document is removed by now says what counts: that it is gone.
        line.append(f" {said if image else 'removed'}", style if image else "red")
        line.append("".join(f" #{tag}" for tag in image["tags"]) if image else "", "cyan")
        run = last_run(image) if image else None
        line.append(f", its last run {run}" if run else "", "dim")
    line.no_wrap = True
    line.overflow = "ellipsis"
    return line


_REQUEST: Final = (
    '{"address": {"connection": "main", "collection": "documents"}, "start_position": {"now": {}}, "max_events": 5}'
)
