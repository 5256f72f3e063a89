"""Values as they are stored, and as a record tells them: mutations bring them in the JSON form of the API."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from tests.spanner.server.clock import SECOND, parse, rfc3339
from tests.spanner.server.errors import ServiceError, invalid
from tests.spanner.server.schema import Column, Table

Row = Mapping[str, Any]
Stored = None | bool | float | str | list[Any]

NON_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})


def stored(column: Column, value: Any, *, postgres: bool, now: int) -> Stored:
    """Check a value of a mutation and bring it into its one form. Raises INVALID_ARGUMENT."""
    if value is None:
        return None
    try:
        if column.is_array:
            return [None if item is None else _scalar(column.element, item, postgres, now) for item in value]
        return _scalar(column.element, value, postgres, now)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise _misfit(column) from error


def told(column: Column, value: Stored, *, emulated: bool) -> Any:
    """A stored value as a record has it in its JSON."""
    if not emulated:
        return value
    if isinstance(value, list):
        return ["NULL" if item is None else _emulated(column.element, item) for item in value]
    return _emulated(column.element, value)


def sort_key(column: Column, value: Stored) -> tuple[bool, Any]:
    """What a key column is ordered by: NULL comes first."""
    if value is None:
        return False, 0
    match column.element:
        case "INT64":
            return True, int(str(value))
        case "NUMERIC":
            return True, Decimal(str(value))
        case "FLOAT64" | "FLOAT32":
            return True, -math.inf if value == "NaN" else float(value)  # type: ignore[arg-type]
        case "BYTES":
            return True, base64.b64decode(str(value))
        case "TIMESTAMP":
            return True, parse(str(value))
        case _:
            return True, value


def key_place(table: Table, key: Sequence[Stored]) -> tuple[tuple[bool, Any], ...]:
    """Where a key, or its first values, lie among those of the table."""
    return tuple(sort_key(table.column(name), value) for name, value in zip(table.key, key, strict=False))


def _scalar(kind: str, value: Any, postgres: bool, now: int) -> Stored:
    match kind:
        case "INT64":
            return str(_in_64_bits(int(_text(value))))
        case "FLOAT64" | "FLOAT32":
            return value if value in NON_FINITE else float(value)
        case "NUMERIC":
            return _text(value) if postgres else _numeric(Decimal(_text(value)))
        case "BOOL":
            return _bool(value)
        case "BYTES":
            return base64.b64encode(base64.b64decode(_text(value), validate=True)).decode()
        case "TIMESTAMP":
            moment = now if value == "spanner.commit_timestamp()" else parse(_text(value))
            return rfc3339(moment // 1000 * 1000 if postgres else moment)
        case "JSON":
            return _jsonb(json.loads(_text(value), parse_float=Decimal)) if postgres else _json(_text(value))
        case _:
            return _text(value)


def _emulated(kind: str, value: Stored) -> Stored:
    if kind in ("FLOAT64", "FLOAT32") and value in NON_FINITE:
        return None
    if kind == "TIMESTAMP" and value is not None:
        return rfc3339(parse(str(value)) // SECOND * SECOND)
    return value


def _in_64_bits(number: int) -> int:
    if not -(2**63) <= number < 2**63:
        raise ValueError("not in 64 bits")
    return number


def _numeric(number: Decimal) -> str:
    text = f"{number:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-0", "0") if number == 0 else _trimmed(text)


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _json(text: str) -> str:
    return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _jsonb(value: Any) -> str:
    """As PostgreSQL writes jsonb: keys by their length, then their bytes, and numbers as they were written."""
    match value:
        case dict():
            keys = sorted(value, key=lambda name: (len(name.encode()), name.encode()))
            return "{" + ", ".join(f"{_jsonb(name)}: {_jsonb(value[name])}" for name in keys) + "}"
        case list():
            return "[" + ", ".join(map(_jsonb, value)) + "]"
        case Decimal():
            return f"{value:f}"
        case _:
            return json.dumps(value, ensure_ascii=False)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("not a boolean")
    return value


def _misfit(column: Column) -> ServiceError:
    return invalid(f"Invalid value for column {column.name}: Expected {column.type}.")
