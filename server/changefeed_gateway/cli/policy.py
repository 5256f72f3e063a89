"""`changefeed policy ...`: what the settings let whom do."""

import re
from typing import Annotated, Final

import typer
from rich.text import Text

from changefeed_gateway.app.security import Explanation, Rule
from changefeed_gateway.app.security import explain as explained
from changefeed_gateway.cli.arguments import Collection
from changefeed_gateway.cli.exits import ExitCode, Failed, exits
from changefeed_gateway.cli.options import Config, Json
from changefeed_gateway.cli.output import out, print_json, print_table
from changefeed_gateway.settings import load_settings

app = typer.Typer(no_args_is_help=True, help="Look at who may what.")

_PRINCIPAL: Final = re.compile(r"(cert|jwt|token):\S.*")


def _principal(text: str) -> str:
    if not _PRINCIPAL.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is not cert:, jwt: or token: and a name")
    return text


def _claim(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE")
    return name, value


@app.callback()
def _group() -> None:
    """Look at who may what."""


@app.command()
def explain(
    principal: Annotated[
        str, typer.Argument(metavar="PRINCIPAL", parser=_principal, help="Who calls, such as jwt:alice.")
    ],
    collection: Collection,
    group: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A group that they are in.")] = None,
    claim: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A claim that their token makes.")
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Say what the settings let a caller do with a collection, and by which rules; asks no gateway and no database."""
    with exits():
        settings = load_settings(config)
        security = settings.security
        if not security.asks_who_calls:
            raise Failed(ExitCode.SETTINGS, "these settings ask nobody who they are: everybody may everything")
        if collection.connection not in settings.connections:
            raise Failed(ExitCode.NOT_FOUND, f"no connection {collection.connection!r} in the settings")
        found = explained(
            security,
            principal,
            collection.connection,
            collection.collection,
            groups=group or (),
            claims=dict(map(_claim, claim or ())),
        )
        if json:
            print_json("explanation", _as_json(found))
        else:
            _print(found)
        if not found.rules:
            raise Failed(ExitCode.AUTHENTICATION, "every call is refused: no rule gives anything")


def _as_json(found: Explanation) -> dict[str, object]:
    rules = [
        {"rule": rule.path, "rights": rule.rights, "partition_keys": rule.partition_keys, "items": rule.items}
        for rule in found.rules
    ]
    quota = found.quota and found.quota.model_dump(exclude={"principals"}, exclude_none=True)
    return {"rules": rules, "quota": quota and {"rule": found.quota_path} | quota}


def _print(found: Explanation) -> None:
    if found.rules:
        rows = [
            [rule.path, ", ".join(rule.rights), _scope(rule), "yes" if rule.items else "no"] for rule in found.rules
        ]
        print_table(["RULE", "RIGHTS", "SCOPE", "ITEMS"], rows)
    if found.quota is not None:
        limits = found.quota.model_dump(exclude={"principals"}, exclude_none=True)
        told = ", ".join(f"{name} {limit:g}" for name, limit in limits.items()) or "no bound"
        out.print(Text.assemble((f"{found.quota_path}: ", "bold"), told), soft_wrap=True)


def _scope(rule: Rule) -> str:
    if rule.partition_keys is None:
        return "every scope"
    return "logical partitions " + ", ".join(repr(key) for key in rule.partition_keys)
