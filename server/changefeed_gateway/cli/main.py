"""`changefeed`: puts the commands together."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Final

import typer

from changefeed_gateway.app.logs import configure_logging
from changefeed_gateway.settings import LoggingSettings

_COMMANDS: Final = {
    "demo": "demo.command",
    "serve": "serve",
    "migrate": "migrate",
    "watch": "watch",
    "unwatch": "watch",
    "feeds": "feeds",
    "read": "read",
    "tail": "tail",
    "mirror": "mirror.command",
    "streams": "streams",
    "capabilities": "capabilities",
    "doctor": "doctor",
}
"""Each with its module."""
_GROUPS: Final = ("partitions", "retention", "token", "config", "policy")
"""Modules of commands that have commands."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"changefeed {version('changefeed-gateway')}")
        raise typer.Exit


def _options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Change feeds of databases over one gRPC API."""
    configure_logging(LoggingSettings(level="warning", format="console"))


def app_for(arguments: Sequence[str]) -> typer.Typer:
    """The command line: with the command alone that the arguments begin with, otherwise with all of them.

    What the others need is not loaded then: it is a third of what the gateway loads until it serves.
    """
    app = typer.Typer(
        name="changefeed",
        help="Change feeds of databases over one gRPC API.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,  # they show lines of code to whoever only wanted to read changes
        rich_markup_mode="rich",
    )
    app.callback()(_options)
    chosen = {*arguments[:1]} & {*_COMMANDS, *_GROUPS} or {*_COMMANDS, *_GROUPS}
    for name, module in _COMMANDS.items():
        if name in chosen:
            app.command()(getattr(import_module(f"{__package__}.{module}"), name))
    for name in _GROUPS:
        if name in chosen:
            app.add_typer(import_module(f"{__package__}.{name}").app, name=name)
    return app


def main() -> None:
    """Run the command line."""
    app_for(sys.argv[1:])()
