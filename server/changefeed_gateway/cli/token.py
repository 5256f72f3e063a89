"""`changefeed token ...`: explain a token."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from changefeed.v1.resource_pb2 import FeedScope
from changefeed.v1.token_pb2 import InspectContinuationTokenResponse
from changefeed_client import ChangeFeedRpcError
from changefeed_gateway.cli.arguments import Collection
from changefeed_gateway.cli.calling import GatewayOptions, calls_gateway, client_of
from changefeed_gateway.cli.exits import ExitCode, Failed, exit_code, exits
from changefeed_gateway.cli.options import Json
from changefeed_gateway.cli.output import as_dict, out, print_json, printable
from changefeed_gateway.cli.place import Place, PlaceError

app = typer.Typer(no_args_is_help=True, help="Explain continuation tokens.")

_File = Annotated[Path | None, typer.Option("--file", metavar="FILE", help="Take the token from a --resume file.")]


@app.callback()
def _group() -> None:
    """Explain continuation tokens."""


@app.command("inspect")
@calls_gateway
def inspect(
    collection: Collection,
    token: Annotated[str | None, typer.Argument(help="The token.")] = None,
    file: _File = None,
    json: Json = False,
    *,
    gateway: GatewayOptions,
) -> None:
    """Say what a token is and whether it can be used for a collection now; if not, exit as a read with it would."""

    async def ask(text: str) -> InspectContinuationTokenResponse:
        async with client_of(gateway) as client:
            return await client.inspect(collection, text)

    with exits():
        text = token or (_of(file) if file else None)
        if not text:
            raise Failed(ExitCode.USAGE, "a token is needed, as an argument or by --file")
        answer = asyncio.run(ask(text))
        if json:
            print_json("token", as_dict(answer))
        else:
            _print(answer)
        if not answer.usable:
            problem = ChangeFeedRpcError.of_status(answer.problem)
            raise Failed(exit_code(problem) or ExitCode.UNEXPECTED)


def _of(file: Path) -> str:
    token = Place(file).load()
    if token is None:
        raise PlaceError(f"{file}: there is no such file")
    return token


def _print(answer: InspectContinuationTokenResponse) -> None:
    facts = {
        "usable": "yes" if answer.usable else "no",
        "problem": "" if answer.usable else str(ChangeFeedRpcError.of_status(answer.problem)),
        "provider": answer.provider,
        "scope": _scope(answer.scope),
        "made": answer.issue_time.ToJsonString() if answer.HasField("issue_time") else "",
        "signed by": answer.key_id,
        "version": str(answer.schema_version or ""),
        "expires": answer.token_expire_time.ToJsonString() if answer.HasField("token_expire_time") else "",
    }
    for name, value in facts.items():
        if value:
            out.print(Text.assemble((f"{name:10}", "bold"), value), soft_wrap=True)


def _scope(scope: FeedScope) -> str:
    """In words; empty where the gateway does not say it, as of a token that is another collection's."""
    match scope.WhichOneof("scope"):
        case "entire_collection":
            return "entire collection"
        case "physical_partition_id":
            return printable(f"physical partition {scope.physical_partition_id}")
        case "logical_partition":
            return printable(f"logical partition {scope.logical_partition}")
        case _:
            return ""
