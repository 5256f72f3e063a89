"""Where settings come from: a YAML file, then the environment, which wins."""

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as SourceError

from changefeed_gateway.settings.files import read_bytes
from changefeed_gateway.settings.model import ENVIRONMENT_PREFIX, Settings
from changefeed_gateway.settings.problems import (
    SettingsError,
    SettingsProblem,
    is_known,
    names_below,
    problems_of,
)
from changefeed_gateway.settings.values import FilePath, Filled, ListenAddress
from changefeed_gateway.settings.yaml_file import NotReadable, read_yaml

DEFAULT_FILE: Final = Path("changefeed.yaml")

_SERVICE: Final = rf"{ENVIRONMENT_PREFIX}(?:[A-Z0-9]+_)*"
_IP: Final = r"[0-9a-f.:]+"
_URL: Final = rf"(?:tcp|udp|sctp)://(?:{_IP}|\[{_IP}\]):[0-9]{{1,5}}"
_OF_A_SERVICE: Final = {
    re.compile(_SERVICE + name): re.compile(value)
    for name, value in {
        r"SERVICE_HOST": _IP,
        r"SERVICE_PORT(?:_[A-Z0-9_]+)?": r"[0-9]{1,5}",
        r"PORT": _URL,
        r"PORT_[0-9]{1,5}_(?:TCP|UDP|SCTP)": _URL,
        r"PORT_[0-9]{1,5}_(?:TCP|UDP|SCTP)_PROTO": "tcp|udp|sctp",
        r"PORT_[0-9]{1,5}_(?:TCP|UDP|SCTP)_PORT": r"[0-9]{1,5}",
        r"PORT_[0-9]{1,5}_(?:TCP|UDP|SCTP)_ADDR": _IP,
    }.items()
}
"""Variables that Kubernetes gives every container for a Service, by name and value ("Accessing the Service")."""


class ClientSettings(BaseSettings):
    """What the command line needs before it knows anything else; no setting of the gateway."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, extra="ignore", hide_input_in_errors=True, defer_build=True
    )

    target: Annotated[str | None, Filled] = None
    """host:port of the gateway to talk to; where the settings have it listen unless given."""
    tls: bool = False
    """Speak TLS, and trust what the system trusts."""
    ca: FilePath | None = None
    """Certificates to trust instead; TLS too."""
    cert: FilePath | None = None
    """A certificate of the caller, with `key` (mTLS)."""
    key: FilePath | None = None
    token: SecretStr | None = None
    """The access token that every call brings."""
    token_file: FilePath | None = None
    """A file that holds it, read again when it changes."""
    config: FilePath | None = None
    """The settings file; `changefeed.yaml` in the working directory, if there is one, unless given."""


class _Listening(BaseModel):
    """Of the gateway's settings the one that its callers need; the others may hold secrets that callers lack."""

    model_config = ConfigDict(hide_input_in_errors=True, defer_build=True)

    listen: ListenAddress


class GatewayTarget(NamedTuple):
    """The gateway to talk to."""

    address: str
    """host:port"""
    origin: str
    """Where the address came from, in words."""


def client_settings() -> ClientSettings:
    """What the environment says to the command line. Raises SettingsError."""
    try:
        return ClientSettings()
    except ValidationError as error:
        problems = problems_of(error, ClientSettings)
        raise SettingsError([replace(p, path=f"{ENVIRONMENT_PREFIX}{p.path.upper()}") for p in problems]) from None


def gateway_target(option: str | None = None, file: Path | None = None) -> GatewayTarget:
    """The gateway that an option names, else CHANGEFEED_TARGET, else the one that these settings describe.

    `file` as in `load_settings`; nothing of it is looked at but `listen`. Raises SettingsError.
    """
    ours = client_settings()
    if option is not None:
        return GatewayTarget(option, "--target")
    if ours.target is not None:
        return GatewayTarget(ours.target, f"{ENVIRONMENT_PREFIX}TARGET")
    chosen = file or ours.config
    variable = f"{ENVIRONMENT_PREFIX}LISTEN"
    given = next((value for name, value in os.environ.items() if name.upper() == variable), None)
    origin = f"listen in {chosen or DEFAULT_FILE}" if given is None else variable
    given = _read(chosen).get("listen") if given is None else given
    if given is None:
        return GatewayTarget(str(Settings.model_fields["listen"].default), "the default")
    try:
        listen = _Listening.model_validate({"listen": given}).listen
    except ValidationError as error:
        raise SettingsError(problems_of(error, _Listening)) from None
    if not listen.port:
        raise _refused("listen", "port 0, which is any", "a port that callers know, or --target")
    if listen.is_every_address:
        raise _refused("listen", f"{listen}, which is every address", "an address that callers know, or --target")
    return GatewayTarget(str(listen), origin)


def load_settings(file: Path | None = None) -> Settings:
    """Read the settings; `file` wins over CHANGEFEED_CONFIG, which wins over `changefeed.yaml`.

    Raises SettingsError with every problem that was found.
    """
    content = _read(file or client_settings().config)
    _refuse_unknown_variables()
    try:
        return Settings(**content)
    except ValidationError as error:
        raise SettingsError(problems_of(error, Settings)) from None
    except SourceError as error:
        raise _unreadable_variable(error) from None
    except RecursionError:
        raise _refused(f"{ENVIRONMENT_PREFIX}*", "value hidden", "JSON of no great depth") from None


def _read(file: Path | None) -> dict[str, Any]:
    path = file or DEFAULT_FILE
    try:
        text = read_bytes(path).decode("utf-8")
    except FileNotFoundError:
        if file is None:
            return {}
        raise _refused(str(path), "", "a file that exists") from None
    except (OSError, ValueError):
        raise _refused(str(path), "", "a readable text file") from None
    try:
        content = read_yaml(text)
    except NotReadable as error:
        raise _refused(str(path), error.where, f"YAML ({error})") from None
    if content is None:
        return {}
    # A leading underscore would make it an order to pydantic's reader, such as to leave out the environment.
    if not isinstance(content, dict) or not all(isinstance(name, str) and name[:1] != "_" for name in content):
        raise _refused(str(path), "", "a mapping: " + ", ".join(names_below(Settings, ())))
    return content


def _refuse_unknown_variables() -> None:
    """pydantic-settings passes over a variable that names no setting; a typing error must not pass."""
    ours = [name for name in os.environ if name.upper().startswith(ENVIRONMENT_PREFIX) and not _is_injected(name)]
    problems = [
        SettingsProblem(
            path=name,
            given="unknown environment variable",
            allowed=", ".join(
                f"{ENVIRONMENT_PREFIX}{setting.upper()}"
                for setting in (*names_below(Settings, ()), *ClientSettings.model_fields)
            ),
        )
        for name in ours
        if not _is_setting(name)
    ]
    problems += [
        SettingsProblem(path=name, given="given twice, in capitals and otherwise", allowed="one of them")
        for name, count in Counter(name.upper() for name in ours).items()
        if count > 1
    ]
    if problems:
        raise SettingsError(problems)


def _is_injected(variable: str) -> bool:
    """Whether Kubernetes made it for a Service whose name begins with ours: both name and value have its form."""
    return any(
        name.fullmatch(variable) and value.fullmatch(os.environ[variable]) for name, value in _OF_A_SERVICE.items()
    )


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
