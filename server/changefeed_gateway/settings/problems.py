"""What is wrong with settings, said so that it can be repaired, without showing a secret."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from changefeed_gateway.settings.values import HostPort

_SHOWN: Final = (bool, int, float, timedelta, HostPort)
"""Types of the settings whose refused value is shown, and the words of a short list; what is text may be a secret."""
_PLAIN = re.compile(r"[\w.:\[\]-]{1,40}", re.ASCII)
"""What is shown at all: no URL, connection string or anything else that came into the wrong place."""
_LARGEST_SHOWN: Final = 10**18
_HIDDEN: Final = "<hidden>"
_TAG = "provider"
"""The setting that tells the kinds of a union apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsProblem:
    """One wrong setting."""

    path: str
    """Dotted, from the top; empty for the whole."""
    given: str
    """What was given: the value where it can be no secret, its kind otherwise; empty for nothing."""
    allowed: str

    def __str__(self) -> str:
        given = f" ({self.given})" if self.given else ""
        return f"{self.path or 'settings'}{given}: allowed is {self.allowed}"


class SettingsError(Exception):
    """Settings were refused; `problems` names every one that was found."""

    def __init__(self, problems: Sequence[SettingsProblem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[SettingsProblem]:
    """Translate pydantic's findings about a model."""
    return [_problem(detail, model) for detail in error.errors(include_url=False)]


def _problem(detail: ErrorDetails, model: type[BaseModel]) -> SettingsProblem:
    path, kinds = _walk(model, detail["loc"])
    if detail["type"].startswith("union_tag"):
        path.append(_TAG)
    elif detail["type"] == "extra_forbidden" and detail["input"] is None and not _close(model, detail["loc"]):
        # A bare text within braces: more likely a value that lost its name than a name.
        path[-1] = _HIDDEN
    allowed = _allowed(detail, model, kinds)
    return SettingsProblem(path=".".join(map(_name, path)), given=_given(detail, kinds), allowed=allowed)


def _given(detail: ErrorDetails, kinds: Sequence[Any]) -> str:
    value = detail["input"]
    match detail["type"]:
        case "missing" | "union_tag_not_found":
            return "nothing given"
        case "union_tag_invalid":
            return _shown(detail["ctx"]["tag"])
        case "extra_forbidden":
            return "unknown"
        case _ if detail["loc"][-1:] == ("[key]",) or any(_is_shown(kind) for kind in kinds):
            return _shown(value)
        case _:
            return f"given {_kind(value)}"


def _shown(value: object) -> str:
    # Python refuses to write the largest numbers.
    plain = isinstance(value, str) or (isinstance(value, int | float) and abs(value) < _LARGEST_SHOWN)
    return f"given {value!r}" if plain and _PLAIN.fullmatch(str(value)) else f"given {_kind(value)}"


def _is_shown(kind: Any) -> bool:
    return kind in _SHOWN or get_origin(kind) is Literal


def _name(part: str) -> str:
    return part if part == _HIDDEN or _PLAIN.fullmatch(part) else _HIDDEN


def _kind(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case str():
            return "a text"
        case int() | float():
            return "a number"
        case list() | tuple():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return "a value of another kind"


def _allowed(detail: ErrorDetails, model: type[BaseModel], kinds: Sequence[Any]) -> str:
    match detail["type"]:
        case "extra_forbidden":
            return _known_names(model, detail["loc"])
        case "union_tag_invalid" | "union_tag_not_found":
            return "one of " + ", ".join(tag for kind in kinds for tag in _tag_of(kind))
        case "model_type" | "model_attributes_type" | "dict_type":
            return "a mapping: " + ", ".join(names_below(model, detail["loc"]))
        case "value_error" | "assertion_error":
            return "another value"
        case "invalid_key":
            return "names that are texts"
        case "missing":
            return "a value: this setting is required"
        case "too_short":
            return "at least one"
        case "string_type" | "path_type":
            return "a text"
        case "tuple_type" | "list_type":
            return "a list"
        case _:
            return detail["msg"]


def _known_names(model: type[BaseModel], loc: Sequence[int | str]) -> str:
    close = _close(model, loc)
    hint = f"{close[0]!r} (did you mean it?), " if close else ""
    return hint + ", ".join(name for name in names_below(model, loc[:-1]) if name not in close)


def _close(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """The setting that a wrong name was probably meant to be."""
    return get_close_matches(str(loc[-1]), names_below(model, loc[:-1]), n=1)


def names_below(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """Names of the settings directly below a place, in their order; none below a plain value."""
    _, kinds = _walk(model, loc)
    return list(dict.fromkeys(name for kind in kinds for name in _fields(kind)))


def is_known(model: type[BaseModel], loc: Sequence[int | str]) -> bool:
    """Whether there can be a setting in that place."""
    _, kinds = _walk(model, loc)
    return bool(kinds)


def _walk(model: type[BaseModel], loc: Sequence[int | str]) -> tuple[list[str], list[Any]]:
    """Follow a place to the kinds of value it may hold.

    The path leaves out what pydantic adds to a place: the tag of a union, the mark of a mapping's key.
    """
    path: list[str] = []
    kinds: list[Any] = [model]
    for part in (str(part) for part in loc):
        tagged = [kind for kind in kinds if part in _tag_of(kind)]
        if tagged and len(kinds) > 1:
            kinds = tagged
        elif part != "[key]":
            path.append(part)
            kinds = [step for kind in kinds for step in _step(kind, part)]
    return path, kinds


def _fields(kind: Any) -> list[str]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return list(kind.model_fields)
    return ["<name>"] if get_origin(kind) is dict else []


def _step(kind: Any, name: str) -> Iterator[Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if name in kind.model_fields:
            yield from _alternatives(kind.model_fields[name].annotation)
    elif get_origin(kind) is dict:
        yield from _alternatives(get_args(kind)[1])
    elif get_origin(kind) is tuple:
        yield from _alternatives(get_args(kind)[0])


def _alternatives(kind: Any) -> Iterator[Any]:
    if get_origin(kind) is Annotated:
        yield from _alternatives(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for part in get_args(kind):
            yield from _alternatives(part)
    elif kind is not NoneType:
        yield kind


def _tag_of(kind: Any) -> tuple[str, ...]:
    if isinstance(kind, type) and issubclass(kind, BaseModel) and _TAG in kind.model_fields:
        return get_args(kind.model_fields[_TAG].annotation)
    return ()


def address_taken(path: str, address: object) -> SettingsError:
    """What is said of an address that cannot be listened on."""
    allowed = "an address of this machine that no other process listens on"
    return SettingsError([SettingsProblem(path=path, given=str(address), allowed=allowed)])
