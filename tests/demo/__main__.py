"""`make demo PROVIDER=...`: the demo on what stands for a database on this machine."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from changefeed_gateway.app.logs import configure_logging
from changefeed_gateway.cli.demo.command import present
from changefeed_gateway.cli.demo.stage import Stage
from changefeed_gateway.cli.exits import exits
from changefeed_gateway.cli.output import complain
from changefeed_gateway.settings import LoggingSettings, Settings
from tests.demo.cosmos import CosmosServer
from tests.demo.dynamodb import DynamoDBLocal
from tests.demo.spanner import SpannerEmulator

STAGES: Final[dict[str, Callable[[], Stage]]] = {
    "cosmos": CosmosServer,
    "dynamodb": DynamoDBLocal,
    "spanner": SpannerEmulator,
}


def main(
    provider: Annotated[str, typer.Argument(help=" | ".join(STAGES))],
    seconds: Annotated[float | None, typer.Option("--for", min=0.1, metavar="SECONDS")] = None,
    json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Show changes of real items arriving. Nothing is kept: the database is in memory."""
    if provider not in STAGES:
        raise typer.BadParameter(f"{provider!r} is not one of {', '.join(STAGES)}")
    configure_logging(LoggingSettings(level="warning", format="console"))
    with exits(), tempfile.TemporaryDirectory(prefix="changefeed-demo-") as directory:
        stage = STAGES[provider]()
        complain(f"on {stage.database}")
        present(stage, Settings(state_directory=Path(directory)), seconds, json=json)


if __name__ == "__main__":
    typer.run(main)
