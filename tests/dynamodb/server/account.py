"""Everything that one account holds in one region: tables, streams of today and of earlier lives, and the time."""

import itertools
from typing import Any

from tests.dynamodb.server.behaviour import Behaviour
from tests.dynamodb.server.clock import Clock
from tests.dynamodb.server.errors import ServiceError, invalid, no_stream, no_table
from tests.dynamodb.server.shard import Shard
from tests.dynamodb.server.stream import Stream, label_of
from tests.dynamodb.server.table import Table

REGION = "eu-test-1"
ACCOUNT = "123456789012"

FIRST_SEQUENCE = 10**21 - 30
"""The thirtieth number has one digit more than those before it: they do not compare as text."""


class Account:
    """Not safe for threads: whoever shares it takes turns."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.clock = Clock()
        self.tables: dict[str, Table] = {}
        self.streams: dict[str, Stream] = {}
        self._sequences = itertools.count(FIRST_SEQUENCE)
        self._last_birth = 0.0

    def table(self, name: str) -> Table:
        """A table by its name. Raises ResourceNotFoundException."""
        if (table := self.tables.get(name)) is None:
            raise no_table(name)
        return table

    def stream(self, arn: str) -> Stream:
        """A stream by its ARN. Raises ResourceNotFoundException."""
        if (stream := self.streams.get(arn)) is None:
            raise no_stream(arn)
        return stream

    def shard(self, shard_id: str) -> tuple[Stream, Shard]:
        """A shard of any stream, by its id. Raises KeyError."""
        for stream in self.streams.values():
            if shard_id in stream.shards:
                return stream, stream.shards[shard_id]
        raise KeyError(shard_id)

    def create_table(self, name: str, key_schema: list[dict[str, str]], attributes: list[dict[str, str]]) -> Table:
        """Make a table without a stream."""
        if name in self.tables:
            raise ServiceError("ResourceInUseException", f"Table already exists: {name}")
        if {part["AttributeName"] for part in key_schema} != {a["AttributeName"] for a in attributes}:
            raise invalid("One or more parameter values were invalid: other attributes are defined than the key has")
        arn = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{name}"
        table = Table(name=name, arn=arn, key_schema=key_schema, attributes=attributes, created=self.clock.now())
        self.tables[name] = table
        return table

    def delete_table(self, name: str) -> Table:
        """Remove a table; its stream ends and stays readable."""
        table = self.table(name)
        if table.stream is not None and table.stream.enabled:
            self.disable_stream(table)
        return self.tables.pop(name)

    def enable_stream(self, table: Table, view_type: str) -> Stream:
        """Begin a new stream, with an ARN that no stream had before."""
        if table.stream is not None and table.stream.enabled:
            raise ServiceError("ResourceInUseException", f"Table already has an enabled stream: {table.name}")
        self._last_birth = max(self.clock.now(), self._last_birth + 0.001)
        label = label_of(self._last_birth)
        table.stream = Stream(
            arn=f"{table.arn}/stream/{label}",
            label=label,
            table=table.name,
            view_type=view_type,
            key_schema=table.key_schema,
            shards=self.behaviour.shards,
            now=self.clock.now,
            sequences=self._sequences,
        )
        self.streams[table.stream.arn] = table.stream
        return table.stream

    def disable_stream(self, table: Table) -> None:
        """Switch the stream off."""
        if table.stream is None or not table.stream.enabled:
            raise invalid("Table is already in the desired state: its stream is disabled")
        table.stream.disable(leaves_shown_open=self.behaviour.leaves_shown_open)

    def specify_stream(self, table: Table, specification: dict[str, Any]) -> None:
        """Do what a StreamSpecification asks."""
        if not specification["StreamEnabled"]:
            self.disable_stream(table)
        elif "StreamViewType" not in specification:
            raise invalid("One or more parameter values were invalid: StreamViewType is required")
        else:
            self.enable_stream(table, specification["StreamViewType"])
