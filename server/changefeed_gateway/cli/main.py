"""`changefeed`: puts the commands together."""

from importlib.metadata import version
from typing import Annotated

import typer

from changefeed_gateway.app.logs import configure_logging
from changefeed_gateway.cli import config, partitions, policy, retention, token
from changefeed_gateway.cli.capabilities import capabilities
from changefeed_gateway.cli.demo.command import demo
from changefeed_gateway.cli.doctor import doctor
from changefeed_gateway.cli.feeds import feeds
from changefeed_gateway.cli.migrate import migrate
from changefeed_gateway.cli.mirror.command import mirror
from changefeed_gateway.cli.read import read
from changefeed_gateway.cli.serve import serve
from changefeed_gateway.cli.streams import streams
from changefeed_gateway.cli.tail import tail
from changefeed_gateway.cli.watch import unwatch, watch
from changefeed_gateway.settings import LoggingSettings

app = typer.Typer(
    name="changefeed",
    help="Change feeds of databases over one gRPC API.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they show lines of code to whoever only wanted to read changes
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"changefeed {version('changefeed-gateway')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Change feeds of databases over one gRPC API."""
    configure_logging(LoggingSettings(level="warning", format="console"))


for command in (demo, serve, migrate, watch, unwatch, feeds, read, tail, mirror, streams, capabilities, doctor):
    app.command()(command)
app.add_typer(partitions.app, name="partitions")
app.add_typer(retention.app, name="retention")
app.add_typer(token.app, name="token")
app.add_typer(config.app, name="config")
app.add_typer(policy.app, name="policy")


def main() -> None:
    """Run the command line."""
    app()
