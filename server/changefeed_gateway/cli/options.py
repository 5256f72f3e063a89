"""Options of every command that has settings or writes JSON; loads nothing that only some commands need."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Write JSON lines.")]
Config = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Settings. [default: CHANGEFEED_CONFIG, or changefeed.yaml]"),
]
