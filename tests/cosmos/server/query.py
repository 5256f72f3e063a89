"""The SQL that the tests need: whole items, or how many there are, that some comparisons fit.

Anything else is refused, so that no test relies on what is not there.
"""

import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.cosmos.server.change import Item
from tests.cosmos.server.errors import ServiceError, invalid

_QUERY = re.compile(
    r"\s*SELECT\s+(?P<what>.+?)\s+FROM\s+(?P<alias>\w+)(?:\s+WHERE\s+(?P<where>.+?))?\s*", re.IGNORECASE | re.DOTALL
)
_COMPARISON = re.compile(
    r"""(?P<path>\w+(?:\.\w+|\[(?:"\w+"|'\w+')\])+)\s*(?P<sign>!=|<=|>=|=|<|>)\s*(?P<value>@\w+|"[^"]*"|'[^']*'|[\w.-]+)"""
)
_COUNT = re.compile(r"VALUE\s+COUNT\(1\)", re.IGNORECASE)
_REWRITTEN_COUNT = 'VALUE [{"item": COUNT(1)}]'
"""What a plan makes of a count, so that the client can add the counts of all ranges."""

_SIGNS: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

Predicate = Callable[[Item], bool]


@dataclass(frozen=True)
class Query:
    """What is selected, and of which items."""

    what: str
    alias: str
    where: str
    predicates: tuple[Predicate, ...]

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> "Query":
        """Read what a client posts. Raises BadRequest."""
        parameters = {one["name"]: one["value"] for one in body.get("parameters") or ()}
        if (match := _QUERY.fullmatch(body["query"])) is None:
            raise _unknown(body["query"])
        what, alias, where = match["what"], match["alias"], match["where"] or ""
        whole = what in ("*", alias) or re.fullmatch(rf"VALUE\s+{alias}", what, re.IGNORECASE)
        if not (whole or _COUNT.fullmatch(what) or what == _REWRITTEN_COUNT):
            raise _unknown(what)
        parts = re.split(r"\s+AND\s+", where, flags=re.IGNORECASE) if where else []
        return cls(what, alias, where, tuple(_predicate(part, alias, parameters) for part in parts))

    @property
    def counts(self) -> bool:
        """Whether it asks how many there are."""
        return bool(_COUNT.fullmatch(self.what)) or self.what == _REWRITTEN_COUNT

    def fits(self, item: Item) -> bool:
        """Tell whether an item is meant."""
        return all(predicate(item) for predicate in self.predicates)

    def counted(self, number: int) -> object:
        """The one result of a query that counts."""
        return [{"item": number}] if self.what == _REWRITTEN_COUNT else number

    def plan(self) -> dict[str, Any]:
        """What a client needs to know to ask every range."""
        where = f" WHERE {self.where}" if self.where else ""
        rewritten = f"SELECT {_REWRITTEN_COUNT} FROM {self.alias}{where}" if self.counts else ""
        return {
            "partitionedQueryExecutionInfoVersion": 2,
            "queryInfo": {
                "distinctType": "None",
                "top": None,
                "offset": None,
                "limit": None,
                "orderBy": [],
                "orderByExpressions": [],
                "groupByExpressions": [],
                "groupByAliases": [],
                "aggregates": ["Count"] if self.counts else [],
                "groupByAliasToAggregateType": {},
                "rewrittenQuery": rewritten,
                "hasSelectValue": self.what.upper().startswith("VALUE"),
                "hasNonStreamingOrderBy": False,
            },
            "queryRanges": [{"min": "", "max": "FF", "isMinInclusive": True, "isMaxInclusive": False}],
        }


def _predicate(text: str, alias: str, parameters: Mapping[str, Any]) -> Predicate:
    match = _COMPARISON.fullmatch(text.strip().strip("()").strip())
    if match is None:
        raise _unknown(text)
    start, *path = re.findall(r"\w+", match["path"])
    if start != alias:
        raise _unknown(text)
    wanted = parameters[match["value"]] if match["value"].startswith("@") else _literal(match["value"])
    compare = _SIGNS[match["sign"]]

    def fits(item: Item) -> bool:
        found: Any = item
        for name in path:
            if not isinstance(found, dict) or name not in found:
                return False
            found = found[name]
        same_kind = isinstance(found, str) == isinstance(wanted, str)
        return same_kind and bool(compare(found, wanted))

    return fits


def _literal(text: str) -> Any:
    try:
        return text[1:-1] if text[0] in "'\"" else json.loads(text)
    except ValueError as error:
        raise _unknown(text) from error


def _unknown(text: str) -> ServiceError:
    return invalid(f"this server does not know the query {text}")
