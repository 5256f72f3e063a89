"""Types of setting values: each says in one sentence what it allows, and that sentence is its error."""

import ipaddress
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, NamedTuple

from pydantic import BeforeValidator, SecretStr, SerializerFunctionWrapHandler, WrapSerializer
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from changefeed_gateway.settings.dsn import NotADsn, canonical_dsn

NOT_ALLOWED: Final = "not_allowed"
"""Type of the errors whose message is the sentence of allowed values."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d)")
_LONGEST_DURATION: Final = 50
"""Characters of a duration's text; looking for durations in a longer one takes its length squared."""
_FIRST_TOO_LARGE: Final = 10**18
"""Numbers from here on are none that can be set; Python refuses to write the largest at all."""
_UNITS: Final = {
    "us": timedelta(microseconds=1),
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}


class HostPort(NamedTuple):
    """A listen address; port 0 takes any free port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_every_address(self) -> bool:
        """Whether it means all of this machine's, which nobody can connect to by that name."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def not_allowed(allowed: str) -> PydanticCustomError:
    """Refuse a value; `allowed` completes "allowed: ..."."""
    return PydanticCustomError(NOT_ALLOWED, "{allowed}", {"allowed": allowed})


def parse_duration(text: str) -> timedelta:
    """Read a duration such as "2ms", "10s" or "1h30m". Raises ValueError for anything else."""
    parts = _DURATION.findall(text) if len(text) <= _LONGEST_DURATION else []
    if not parts or "".join(amount + unit for amount, unit in parts) != text:
        raise ValueError("not a duration")
    try:
        return sum((float(amount) * _UNITS[unit] for amount, unit in parts), timedelta(0))
    except OverflowError:
        raise ValueError("not a duration: longer than any calendar") from None


def format_duration(duration: timedelta) -> str:
    """Write a duration so that `parse_duration` reads it."""
    rest, text = duration, ""
    for unit, length in reversed(_UNITS.items()):
        amount, rest = divmod(rest, length)
        text += f"{amount}{unit}" if amount else ""
    return text or "0s"


def duration_between(shortest: str, longest: str) -> BeforeValidator:
    """Allow durations within bounds."""
    low, high = parse_duration(shortest), parse_duration(longest)
    allowed = f'a duration from {shortest} to {longest}, such as "{longest}"'

    def check(value: object) -> object:
        try:
            duration = value if isinstance(value, timedelta) else parse_duration(_text(value))
        except ValueError as error:
            raise not_allowed(allowed) from error
        if not low <= duration <= high:
            raise not_allowed(allowed)
        return duration

    return BeforeValidator(check)


def whole_number_between(low: int, high: int) -> BeforeValidator:
    """Allow whole numbers within bounds, also as text (the environment has nothing else)."""
    allowed = f"a whole number from {low} to {high}"

    def check(value: object) -> object:
        text = _text(value)
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise not_allowed(allowed)
        if not low <= int(text) <= high:
            raise not_allowed(allowed)
        return int(text)

    return BeforeValidator(check)


def number_between(low: float, high: float) -> BeforeValidator:
    """Allow decimal numbers within bounds, also as text."""
    allowed = f"a number from {low:g} to {high:g}"

    def check(value: object) -> object:
        text = str(value)
        if isinstance(value, bool) or not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
            raise not_allowed(allowed)
        if not low <= float(text) <= high:
            raise not_allowed(allowed)
        return float(text)

    return BeforeValidator(check)


def name_like(pattern: str, allowed: str) -> BeforeValidator:
    """Allow texts that match a pattern whole."""

    def check(value: object) -> object:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise not_allowed(allowed)
        return value

    return BeforeValidator(check)


def one_of(*choices: str) -> BeforeValidator:
    """Allow one of a few words."""
    allowed = "one of " + ", ".join(choices)

    def check(value: object) -> object:
        if _text(value) not in choices:
            raise not_allowed(allowed)
        return value

    return BeforeValidator(check)


def _text(value: object) -> str:
    """A plain value as the environment would give it; empty for everything that no setting here can be."""
    match value:
        case str():
            return value
        case int() if not isinstance(value, bool) and abs(value) < _FIRST_TOO_LARGE:
            return str(value)
        case _:
            return ""


def _parse_path(value: object) -> object:
    if isinstance(value, Path):
        return value
    # The system takes no other: a file of such a name would be looked for with an error nobody expects.
    if not isinstance(value, str) or not value or "\0" in value or not _is_unicode(value):
        raise not_allowed("a path")
    return Path(value)


def _parse_filled(value: object) -> object:
    if isinstance(value, str) and not (value.strip() and _is_unicode(value)):
        raise not_allowed("a text that is not empty")
    return value


def _parse_dsn(value: object) -> object:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        return value
    try:
        return canonical_dsn(text)
    except NotADsn as error:
        raise not_allowed(f"a connection string of libpq: {error}") from None


def _is_unicode(text: str) -> bool:
    """Whether it can be written; half a pair of surrogates stands for bytes that were no UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _parse_host_port(value: object) -> HostPort:
    if isinstance(value, HostPort):
        return value
    match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})", _text(value))
    if match is None or int(match[2]) > 65535:
        raise not_allowed('host:port, such as "127.0.0.1:50051" or "[::1]:50051"')
    return HostPort(match[1].strip("[]"), int(match[2]))


def _as_text(convert: Callable[..., str]) -> WrapSerializer:
    def serialize(value: object, _: SerializerFunctionWrapHandler) -> str:
        return convert(value)

    return WrapSerializer(serialize, return_type=str)


# NoDecode: from the environment it comes as it is, not as JSON.
FilePath = Annotated[Path, BeforeValidator(_parse_path)]
Filled = BeforeValidator(_parse_filled)
"""A text that says something: an empty one would mean another thing, such as a connection string of defaults."""
VariableName = name_like(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")
Url = name_like(r"https?://[^\s@]+", "a URL that begins with http:// or https://, without credentials")
DsnText = BeforeValidator(_parse_dsn)
"""A connection string, kept as `canonical_dsn` writes it."""
ListenAddress = Annotated[HostPort, NoDecode, BeforeValidator(_parse_host_port), _as_text(str)]
"""Any address: what is shown there holds no document, key or token."""
DurationText = _as_text(format_duration)
