"""`changefeed config ...`: look at the settings without starting anything."""

from typing import Any

import typer
import yaml

from changefeed_gateway.app.security import check_files
from changefeed_gateway.cli.exits import exits
from changefeed_gateway.cli.options import Config, Json
from changefeed_gateway.cli.output import out, print_json
from changefeed_gateway.settings import load_settings
from changefeed_gateway.settings.secrets import check_secrets

app = typer.Typer(no_args_is_help=True, help="Look at the settings.")


@app.callback()
def _group() -> None:
    """Look at the settings."""


@app.command("check")
def check(config: Config = None, json: Json = False) -> None:
    """Check file, environment and the secrets that they name; print what holds, secrets hidden."""
    with exits():
        loaded = load_settings(config)
        check_secrets(loaded)
        check_files(loaded.security)
        settings: dict[str, Any] = loaded.model_dump(mode="json", exclude_none=True)
        if json:
            print_json("settings", settings)
        else:
            out.print(yaml.safe_dump(settings, sort_keys=False), end="", markup=False)
