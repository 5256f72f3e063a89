"""Signs of life of long work, on standard error and only on a terminal."""

import sys
import time
from typing import Final

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from changefeed.v1.read_changes_pb2 import SnapshotProgress
from changefeed_gateway.cli.output import err

_SECONDS: Final = 0.5


class SnapshotBar:
    """Shows how far a snapshot has come: items, how many a second, of about how many, and the time that is left."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("snapshot"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} items, {task.fields[rate]:,.0f}/s"),
            TextColumn("{task.fields[estimate]}"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            refresh_per_second=1 / _SECONDS,
        )
        self._task: TaskID | None = None
        self._started = 0.0
        self._before = 0

    def show(self, progress: SnapshotProgress) -> None:
        """Show a state, on a terminal."""
        if not sys.stderr.isatty():
            return
        if first := self._task is None:
            self._started, self._before = time.monotonic(), progress.items
            self._task = self._bar.add_task("", total=None, rate=0.0, estimate="")
        known = progress.HasField("estimated_items")
        passed = time.monotonic() - self._started
        self._bar.update(
            self._task,
            completed=progress.items,
            total=max(progress.items, progress.estimated_items) if known else None,
            rate=(progress.items - self._before) / passed if passed > 0 else 0.0,
            estimate=f"of about {progress.estimated_items:,}" if known else "",
        )
        if first:
            self._bar.start()

    def close(self) -> None:
        """Take it away; idempotent."""
        if self._task is not None:
            self._bar.stop()
            self._bar.remove_task(self._task)
            self._task = None


class ChangeCount:
    """Counts changes, and shows count and rate while the changes themselves go into a file or a pipe."""

    def __init__(self) -> None:
        self.total = 0
        self._started = self._shown = time.monotonic()
        self._status = err.status("reading")
        self._visible = sys.stderr.isatty() and not sys.stdout.isatty()
        if self._visible:
            self._status.start()

    def add(self, count: int) -> None:
        """Count changes."""
        self.total += count
        now = time.monotonic()
        if self._visible and now - self._shown > _SECONDS:
            self._shown = now
            rate = self.total / (now - self._started)
            self._status.update(f"{self.total:,} changes, {rate:,.0f}/s")

    def close(self) -> None:
        """Stop showing."""
        self._status.stop()
