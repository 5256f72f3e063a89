"""What was measured: a table for people, JSON lines for machines, and what the figures depend on."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil
from rich.console import Console
from rich.table import Table

from bench.database import PARAMETERS, Database
from bench.figures import median
from bench.processes import ROOT, Answer

RESULTS: Final = ROOT / "bench" / "results"
_PACKAGES: Final = ("changefeed-gateway", "grpcio", "protobuf", "psycopg", "psycopg-binary")


class Report:
    """Prints as it goes and keeps every figure as a JSON line."""

    def __init__(self, name: str, *, quick: bool) -> None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        self.file: Final = RESULTS / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl"
        # Wide enough for a table in a file too.
        self._console = Console(width=None if os.isatty(1) else 150)
        self._quick = quick

    def environment(self, database: Database) -> None:
        """Say what the figures depend on."""
        facts = _environment(database) | {"quick": self._quick}
        self.record("environment", facts)
        self._console.print(
            f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, load {facts['load']}; "
            f"fdatasync {facts['fdatasync_us']:.0f} us\n"
            f"{facts['postgres']}; {', '.join(f'{name} {is_}' for name, is_ in facts['versions'].items())}\n"
            f"{', '.join(f'{name}={value}' for name, value in facts['settings'].items())}",
            highlight=False,
        )

    def record(self, kind: str, values: Answer) -> None:
        """Keep one measurement."""
        with self.file.open("a") as lines:
            lines.write(json.dumps({"kind": kind, **values}) + "\n")

    def say(self, text: str) -> None:
        """Tell how far it has come."""
        self._console.print(f"[dim]{datetime.now(UTC):%H:%M:%S}[/dim] {text}", highlight=False)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *notes: str) -> None:
        """Print one table; the first column is text, the others are figures."""
        table = Table(title=title, title_justify="left", title_style="bold", caption_justify="left")
        table.caption = "\n".join(notes) or None
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=number > 0)
        for row in rows:
            table.add_row(*row)
        self._console.print(table)


def _environment(database: Database) -> Answer:
    ((postgres,),) = database.fetch("SELECT version()")
    return {
        "at": datetime.now(UTC).isoformat(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "load": os.getloadavg()[0],
        "kernel": platform.release(),
        "fdatasync_us": _fdatasync_us(database.directory),
        "postgres": postgres.split(" on ")[0],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "commit": _commit(),
        "settings": dict(PARAMETERS),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _fdatasync_us(directory: Path, times: int = 200) -> float:
    """The median time that one durable write of a page takes."""
    taken = []
    file = os.open(directory / "fdatasync", os.O_WRONLY | os.O_CREAT)
    try:
        for _ in range(times):
            os.pwrite(file, b"\1" * 8192, 0)
            began = time.perf_counter()
            os.fdatasync(file)
            taken.append((time.perf_counter() - began) * 1e6)
    finally:
        os.close(file)
    return median(taken)
