"""Where settings come from: a YAML file, then the environment, which wins."""

import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as SourceError

from changefeed_gateway.settings.model import ENVIRONMENT_PREFIX, Settings
from changefeed_gateway.settings.problems import (
    SettingsError,
    SettingsProblem,
    is_known,
    names_below,
    problems_of,
)

DEFAULT_FILE: Final = Path("changefeed.yaml")


class ClientSettings(BaseSettings):
    """What the command line needs before it knows anything else; no setting of the gateway."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, extra="ignore")

    target: str = "127.0.0.1:50051"
    """host:port of the gateway to talk to."""
    config: Path | None = None
    """The settings file; `changefeed.yaml` in the working directory, if there is one, unless given."""


def load_settings(file: Path | None = None) -> Settings:
    """Read the settings; `file` wins over CHANGEFEED_CONFIG, which wins over `changefeed.yaml`.

    Raises SettingsError with every problem that was found.
    """
    content = _read(file or ClientSettings().config)
    _refuse_unknown_variables()
    try:
        return Settings(**content)
    except ValidationError as error:
        raise SettingsError(problems_of(error, Settings)) from None
    except SourceError as error:
        raise _unreadable_variable(error) from None


def _read(file: Path | None) -> dict[str, Any]:
    path = file or DEFAULT_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if file is None:
            return {}
        raise _refused(str(path), "", "a file that exists") from None
    except (OSError, UnicodeDecodeError):
        raise _refused(str(path), "", "a readable text file") from None
    try:
        content = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        # Only place and kind: the quoted line could hold a secret.
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "unknown place"
        raise _refused(str(path), where, f"YAML ({_unquoted(error.problem)})") from None
    except yaml.YAMLError:
        raise _refused(str(path), "", "YAML text") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise _refused(str(path), "", "a mapping: " + ", ".join(names_below(Settings, ())))
    return content


def _unquoted(problem: str | None) -> str:
    return re.sub(r"'.*'", "...", problem or "not readable")


class _StrictLoader(yaml.SafeLoader):
    """Refuses a name that stands twice in a mapping, where YAML readers keep the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(problem="a name stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _refuse_unknown_variables() -> None:
    """pydantic-settings passes over a variable that names no setting; a typing error must not pass."""
    problems = [
        SettingsProblem(
            path=name,
            given="unknown environment variable",
            allowed=", ".join(
                f"{ENVIRONMENT_PREFIX}{setting.upper()}"
                for setting in (*names_below(Settings, ()), *ClientSettings.model_fields)
            ),
        )
        for name in os.environ
        if name.upper().startswith(ENVIRONMENT_PREFIX) and not _is_setting(name)
    ]
    if problems:
        raise SettingsError(problems)


def _is_setting(variable: str) -> bool:
    path = variable[len(ENVIRONMENT_PREFIX) :].lower().split("__")
    if len(path) == 1 and path[0] in ClientSettings.model_fields:
        return True
    # Below the top, the model names what it allows better than a list of variables could.
    return is_known(Settings, path) or (len(path) > 1 and bool(names_below(Settings, path[:1])))


def _unreadable_variable(error: SourceError) -> SettingsError:
    variables = sorted(name for name in os.environ if name.upper().startswith(ENVIRONMENT_PREFIX))
    field = str(error).split('"')[1] if '"' in str(error) else ""
    named = [name for name in variables if field and field.upper() in name.upper()]
    return _refused(
        ", ".join(named) or ENVIRONMENT_PREFIX + "*",
        "value hidden",
        "JSON for a list or a mapping",
    )


def _refused(path: str, given: str, allowed: str) -> SettingsError:
    return SettingsError([SettingsProblem(path=path, given=given, allowed=allowed)])
