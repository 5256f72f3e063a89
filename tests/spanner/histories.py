"""Random histories of a database, the same for every backend, and what a bare reader makes of its change stream."""

import base64
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.spanner.sdk import BareDatabase, Record, deletion, mutation
from tests.spanner.server.schema import Column, Table, table

THINGS = table(
    "things", ["id", "part"],
    id="INT64", part="STRING", whole="INT64", exact="NUMERIC", doc="JSON", raw="BYTES", moment="TIMESTAMP",
    ratio="FLOAT64", flag="BOOL", day="DATE", text="STRING", numbers="ARRAY<INT64>", words="ARRAY<STRING>",
)  # fmt: skip
EVENTS = table("events", ["moment", "raw"], moment="TIMESTAMP", raw="BYTES", amount="NUMERIC", text="STRING")
TABLES = (THINGS, EVENTS)

Transaction = list[dict[str, Any]]


class History:
    """Transactions drawn from a seed, which know the rows that are there."""

    def __init__(self, seed: int, *, postgres: bool) -> None:
        self._random = Random(seed)
        self._postgres = postgres
        self._keys: dict[str, set[tuple[Any, ...]]] = {made.name: set() for made in TABLES}

    def transactions(self, count: int) -> Iterator[Transaction]:
        for _ in range(count):
            drawn = [self._mutation() for _ in range(self._random.choice((1, 1, 2, 5)))]
            yield [made for made in drawn if made is not None] or [self._insert(THINGS)]

    def _mutation(self) -> dict[str, Any] | None:
        chosen = self._random.choice(TABLES)
        draw = self._random.choice((self._insert, self._insert, self._change, self._change, self._delete))
        return draw(chosen)

    def _insert(self, chosen: Table) -> dict[str, Any]:
        rows = [self._row(chosen, chosen.columns[len(chosen.key) :]) for _ in range(self._random.choice((1, 1, 3)))]
        for row in rows:
            self._keys[chosen.name].add(tuple(row[name] for name in chosen.key))
        return mutation(self._random.choice(("insert_or_update", "replace")), chosen.name, *_by_key(chosen, rows))

    def _change(self, chosen: Table) -> dict[str, Any] | None:
        if not self._keys[chosen.name]:
            return None
        key = self._random.choice(sorted(self._keys[chosen.name]))
        others = chosen.columns[len(chosen.key) :]
        columns = self._random.sample(others, self._random.randint(0, len(others)))
        return mutation("update", chosen.name, dict(zip(chosen.key, key, strict=True)) | self._values(columns))

    def _delete(self, chosen: Table) -> dict[str, Any] | None:
        if not self._keys[chosen.name]:
            return None
        key = self._random.choice(sorted(self._keys[chosen.name]))
        self._keys[chosen.name].discard(key)
        return deletion(chosen.name, list(key))

    def _row(self, chosen: Table, others: Sequence[Column]) -> dict[str, Any]:
        return {name: self._key_value(chosen.column(name).type) for name in chosen.key} | self._values(others)

    def _values(self, columns: Iterable[Column]) -> dict[str, Any]:
        return {column.name: self._value(column) for column in columns}

    def _key_value(self, kind: str) -> Any:
        match kind:
            case "INT64":
                return str(self._random.choice((1, 2, 10, -1, 2**63 - 1)))
            case "TIMESTAMP":
                return f"2024-01-0{self._random.randint(1, 3)}T00:00:00Z"
            case "BYTES":
                return base64.b64encode(self._random.choice((b"", b"\x00", b"\xff"))).decode()
            case _:
                return self._random.choice(("", "a", "Ä", '"'))

    def _value(self, column: Column) -> Any:
        if self._random.random() < 0.2:
            return None
        if column.is_array:
            # The emulator's process dies of a change stream record with a NULL in an array of texts.
            absent = 0 if column.element == "STRING" else 0.2
            length = self._random.choice((0, 1, 3))
            return [None if self._random.random() < absent else self._scalar(column.element) for _ in range(length)]
        return self._scalar(column.element)

    def _scalar(self, kind: str) -> Any:
        draw = self._random
        match kind:
            case "INT64":
                return str(draw.choice((0, -1, 2**53 + 1, 2**63 - 1, -(2**63))))
            case "NUMERIC":
                return draw.choice(("0", "-1.50", "0.000000001", "99999999999999999999999999999.999999999", "100"))
            case "JSON":
                return json.dumps(draw.choice(DOCUMENTS))
            case "BYTES":
                return base64.b64encode(draw.randbytes(draw.choice((0, 1, 20)))).decode()
            case "TIMESTAMP":
                return draw.choice(("2024-02-29T23:59:59Z", "1969-12-31T23:59:59.5Z", "2024-01-02T03:04:05.123456Z"))
            case "FLOAT64":
                return draw.choice((0.5, -1e300, 1e-300, 3.0, "NaN", "Infinity", "-Infinity"))
            case "BOOL":
                return draw.random() < 0.5
            case "DATE":
                return draw.choice(("2024-02-29", "0001-01-01", "9999-12-31"))
            case _:
                return draw.choice(("", "text", "Zeichen äöü", '"quoted" \\ back', "line\nline", "x" * 100))


DOCUMENTS: tuple[Any, ...] = (
    None, True, 0, -7, 1.5, "text", [], {}, [1, "a", None], {"b": 1, "a": {"nested": [2, {"c": "ä"}]}, "longer": "x"},
)  # fmt: skip


@dataclass
class Reading:
    """All that the partitions of a change stream said up to a time."""

    data: list[tuple[str, Record]] = field(default_factory=list)
    """With each record the token of its partition, in the order of reading."""
    starts: dict[str, str] = field(default_factory=dict)
    """When each partition began to be read."""
    parents: dict[str, list[str]] = field(default_factory=dict)
    ends: dict[str, list[Record]] = field(default_factory=dict)
    """The child records of each partition that has ended."""
    heartbeats: list[tuple[str, str]] = field(default_factory=list)

    def transactions(self) -> list[list[Record]]:
        """The records of each transaction in their order, all partitions together."""
        found: dict[tuple[str, str], list[Record]] = defaultdict(list)
        for _, record in self.data:
            found[record["commit_timestamp"], record["server_transaction_id"]].append(record)
        return [sorted(found[key], key=lambda record: record["record_sequence"]) for key in sorted(found, key=_moment)]


async def read_everything(database: BareDatabase, stream: str, start: str, end: str) -> Reading:
    """Read a change stream up to a time, children when all their parents have ended."""
    reading = Reading()
    waiting: dict[str, list[str]] = {}
    for record in await database.query(stream, start):
        _register(reading, waiting, record["child_partitions_record"])
    while ready := [token for token, parents in waiting.items() if all(parent in reading.ends for parent in parents)]:
        for token in ready:
            del waiting[token]
            for record in await database.query(stream, reading.starts[token], end, token):
                _take(reading, waiting, token, record)
    return reading


def content(transactions: Iterable[Sequence[Record]]) -> list[list[Record]]:
    """What two backends must say alike: all but times and ids, and the order of the tables within a transaction."""
    left_out = {
        "commit_timestamp", "server_transaction_id", "record_sequence", "is_last_record_in_transaction_in_partition",
        "number_of_partitions_in_transaction",
    }  # fmt: skip
    return [
        sorted(
            ({name: value for name, value in record.items() if name not in left_out} for record in records),
            key=lambda record: str(record["table_name"]),
        )
        for records in transactions
    ]


def _register(reading: Reading, waiting: dict[str, list[str]], record: Record) -> None:
    for child in record["child_partitions"]:
        if child["token"] not in reading.starts:
            reading.starts[child["token"]] = record["start_timestamp"]
            reading.parents[child["token"]] = child["parent_partition_tokens"]
            waiting[child["token"]] = child["parent_partition_tokens"]


def _take(reading: Reading, waiting: dict[str, list[str]], token: str, record: Record) -> None:
    [(kind, said)] = record.items()
    match kind:
        case "data_change_record":
            reading.data.append((token, said))
        case "heartbeat_record":
            reading.heartbeats.append((token, said["timestamp"]))
        case "child_partitions_record":
            reading.ends.setdefault(token, []).append(said)
            _register(reading, waiting, said)
        case _:
            raise AssertionError(kind)


def _moment(key: tuple[str, str]) -> tuple[str, str]:
    """RFC 3339 without a fraction sorts behind one with it, unless the Z is cut off."""
    return key[0].removesuffix("Z"), key[1]


def _by_key(chosen: Table, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of rows with one key the last: a mutation may not write a row twice."""
    return list({tuple(row[name] for name in chosen.key): row for row in rows}.values())
