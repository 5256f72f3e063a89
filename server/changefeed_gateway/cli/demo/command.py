"""The command itself."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Annotated

import typer

from changefeed_gateway.cli.demo.postgres import EmbeddedStage
from changefeed_gateway.cli.demo.session import Outcome, Session
from changefeed_gateway.cli.demo.stage import Stage
from changefeed_gateway.cli.exclusive_file import exclusive
from changefeed_gateway.cli.exits import ExitCode, Failed, exits
from changefeed_gateway.cli.options import Config, Json
from changefeed_gateway.cli.output import complain, out, print_json
from changefeed_gateway.settings import EmbeddedServer, PostgresConnection, SecuritySettings, Settings, load_settings
from changefeed_gateway.settings.values import HostPort


def demo(
    seconds: Annotated[
        float | None,
        typer.Option("--for", min=0.1, metavar="SECONDS", help="End by itself. [default: Ctrl-C ends it]"),
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show changes of real rows arriving: PostgreSQL, the gateway, people who edit documents, and a client.

    At its end it compares what was committed with what was received. It keeps its data and its place, and resumes.
    """
    with exits():
        present(EmbeddedStage(), _on_embedded(load_settings(config)), seconds, json=json)


def present(stage: Stage, settings: Settings, seconds: float | None, *, json: bool = False) -> None:
    """Run the demo on a stage and report. Raises Failed when both sides differ, or another demo runs on this data."""
    # What they would tell is said in a line each.
    for name in ("changefeed_client", "changefeed_gateway", "grpc"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with _exclusively(settings):
        outcome = asyncio.run(Session(stage, settings, seconds, json=json).run())
    if json:
        print_json("outcome", asdict(outcome) | {"equal": outcome.equal})
    else:
        _report(outcome, with_orders=stage.orders is not None)
    if not outcome.equal:
        raise Failed(ExitCode.UNHEALTHY, "committed and received differ")


def _on_embedded(settings: Settings) -> Settings:
    """The demo writes: never into a database of somebody's."""
    kept = {
        name: connection
        for name, connection in settings.connections.items()
        if name == "main" and isinstance(connection, PostgresConnection) and connection.embedded
    }
    embedded = kept or {"main": PostgresConnection(provider="postgres", embedded=EmbeddedServer())}
    directory = settings.data_directory(embedded["main"].embedded or EmbeddedServer()).absolute()
    complain(f"embedded PostgreSQL in {directory}" + ("" if kept else ", not the connections of the settings"))
    # Its own gateway is nobody else's either.
    alone = {"security": SecuritySettings(), "listen": HostPort("127.0.0.1", settings.listen.port)}
    return settings.model_copy(update={"connections": embedded, **alone})


@contextmanager
def _exclusively(settings: Settings) -> Iterator[None]:
    """Two demos on the same data would count each other's changes."""
    settings.state_directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(settings.state_directory / "demo.lock"))
        except BlockingIOError:
            raise Failed(ExitCode.USAGE, f"a demo runs already in {settings.state_directory}") from None
        yield


def _report(outcome: Outcome, *, with_orders: bool) -> None:
    out.print(f"committed  {outcome.committed:,} changes in {outcome.transactions:,} transactions", end="")
    out.print(f" ({outcome.rolled_back:,} more rolled back)")
    out.print(f"received   {outcome.received:,} changes, {outcome.duplicates:,} twice")
    out.print(
        f"mirror     {outcome.documents:,} documents, {'equal to' if outcome.equal else 'compared with'} the source"
    )
    if with_orders:
        out.print(f"orders     {outcome.orders:,} changes committed, {outcome.orders_received:,} received")
    lost = max(0, outcome.committed - outcome.received) + max(0, outcome.orders - outcome.orders_received)
    out.print(f"lost       {'nothing' if outcome.equal else f'{lost:,} changes'}")
    for document in outcome.differing[:10]:
        complain(f"differs: document {document}")
