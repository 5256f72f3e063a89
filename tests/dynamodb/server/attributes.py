"""Items as the service keeps them: maps of typed values, numbers in one form only."""

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from tests.dynamodb.server.errors import invalid

Attribute = dict[str, Any]
"""A typed value, such as `{"S": "text"}`."""

Item = dict[str, Attribute]

DIGITS = 38
"""Significant digits that a number may have."""

LARGEST_ITEM = 400 * 1024


def normalised(item: Mapping[str, Attribute]) -> Item:
    """The item with its numbers as the service returns them. Raises ValidationException."""
    return {name: _normalised(value) for name, value in item.items()}


def size_of(item: Mapping[str, Attribute]) -> int:
    """Bytes that an item counts for, near enough."""
    return len(json.dumps(item, separators=(",", ":"), ensure_ascii=False).encode())


def check_size(item: Item) -> None:
    """Raise ValidationException for an item that is too large."""
    if size_of(item) > LARGEST_ITEM:
        raise invalid("Item size has exceeded the maximum allowed size")


def _normalised(value: Attribute) -> Attribute:
    [(kind, content)] = value.items()
    match kind:
        case "N":
            return {kind: _number(content)}
        case "NS":
            return {kind: [_number(each) for each in content]}
        case "L":
            return {kind: [_normalised(each) for each in content]}
        case "M":
            return {kind: normalised(content)}
        case _:
            return value


def _number(text: str) -> str:
    try:
        number = Decimal(text)
    except InvalidOperation as error:
        raise invalid(f"The parameter cannot be converted to a numeric value: {text}") from error
    if not number.is_finite() or (number and not -130 <= number.adjusted() <= 125):
        raise invalid("Number overflow or underflow")
    plain = f"{number:f}"
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    if len(plain.lstrip("-").replace(".", "").strip("0")) > DIGITS:
        raise invalid("Attempting to store more than 38 significant digits in a Number")
    return "0" if plain == "-0" else plain
