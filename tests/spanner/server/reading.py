"""A query of a change stream: what it asks for, what is refused, and what it says as long as it runs."""

import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from tests.spanner.server import errors
from tests.spanner.server.behaviour import Behaviour
from tests.spanner.server.clock import SECOND, Clock, parse
from tests.spanner.server.encoding import encode
from tests.spanner.server.partition import Heartbeat, Partition, Written
from tests.spanner.server.stream import ChangeStream

LONGEST_HEARTBEAT = timedelta(minutes=5)
MILLISECOND = 1_000_000

_MENTIONED = re.compile(r'\bREAD_\w+`?\s*\(|\bread_(?:json|proto_bytes)_\w+"?\s*\(', re.IGNORECASE)
_GOOGLE_SQL = re.compile(
    r"\s*SELECT\s+ChangeRecord\s+FROM\s+`?READ_(\w+)`?\s*\((.*)\)\s*;?\s*", re.IGNORECASE | re.DOTALL
)
_POSTGRES = re.compile(
    r'\s*SELECT\s+\*\s+FROM\s+"?spanner"?\."?read_json_(\w+)"?\s*\((.*)\)\s*;?\s*', re.IGNORECASE | re.DOTALL
)
_ARGUMENTS = ("start_timestamp", "end_timestamp", "partition_token", "heartbeat_milliseconds", "read_options")

Parameters = Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class StreamQuery:
    """Times are in nanoseconds."""

    stream: str
    start: int | None
    end: int | None
    partition: str | None
    heartbeat_milliseconds: int | None


def parse_query(sql: str, parameters: Parameters, *, postgres: bool) -> StreamQuery | None:
    """Read a query of a change stream; None when it is something else. Raises what the service refuses."""
    if _MENTIONED.search(sql) is None:
        return None
    match = (_POSTGRES if postgres else _GOOGLE_SQL).fullmatch(sql)
    if match is None:
        raise errors.combined()
    name, arguments = match.groups()
    said = dict.fromkeys(_ARGUMENTS)
    said |= _arguments(arguments, parameters)
    heartbeat = said["heartbeat_milliseconds"]
    return StreamQuery(
        stream=name,
        start=_moment(said["start_timestamp"]),
        end=_moment(said["end_timestamp"]),
        partition=said["partition_token"],
        heartbeat_milliseconds=None if heartbeat is None else int(heartbeat),
    )


def check_query(query: StreamQuery, behaviour: Behaviour) -> None:
    """Refuse arguments that no stream can answer. Raises INVALID_ARGUMENT and OUT_OF_RANGE."""
    for name, value in (("start_timestamp", query.start), ("heartbeat_milliseconds", query.heartbeat_milliseconds)):
        if value is None:
            raise errors.invalid(f"{name} must not be null.")
    assert query.start is not None
    assert query.heartbeat_milliseconds is not None
    shortest, longest = (
        span // timedelta(milliseconds=1) for span in (behaviour.shortest_heartbeat, LONGEST_HEARTBEAT)
    )
    if not shortest <= query.heartbeat_milliseconds <= longest:
        raise errors.heartbeat_out_of_bounds(shortest, longest, query.heartbeat_milliseconds)
    if query.end is not None and query.end < query.start:
        raise errors.end_before_start(query.start, query.end)


class Reading:
    """One query while it runs. Each step is a run of rows that go into one message."""

    def __init__(self, stream: ChangeStream, query: StreamQuery, *, clock: Clock, behaviour: Behaviour) -> None:
        assert query.start is not None
        assert query.heartbeat_milliseconds is not None
        self._stream = stream
        self._query = query
        self._start = query.start
        self._heartbeat = int(query.heartbeat_milliseconds * MILLISECOND * behaviour.heartbeat_slowdown)
        self._clock = clock
        self._behaviour = behaviour
        stream.check_mode()
        stream.check_start(self._start)
        self._partition = None if query.partition is None else stream.partition(query.partition)
        if self._partition is not None:
            stream.check_within(self._partition, self._start)

    async def messages(self) -> AsyncGenerator[list[bytes], None]:
        """The rows, encoded. Raises NOT_FOUND when the stream is dropped."""
        await self._until_start()
        if self._partition is None:
            yield [written.encoded for written in self._stream.initial(self._start)]
            return
        async for batch in self._of_partition(self._partition):
            yield batch

    async def _of_partition(self, partition: Partition) -> AsyncGenerator[list[bytes], None]:
        number, cuts, found = partition.first_at(self._start), partition.cuts, False
        beat = self._clock.now() + self._heartbeat
        if self._query.end is not None and self._start + 1 < self._query.end and partition.early_beats:
            partition.early_beats -= 1
            yield [self._beat(self._start + 1)]
        while partition.cuts == cuts:
            if self._stream.dropped:
                raise errors.dropped(self._stream.definition.name)
            if batch := self._taken(partition, number):
                number, found = number + len(batch), True
                beat = self._clock.now() + self._heartbeat
                yield _encoded(batch)
            elif self._ended(partition):
                if not partition.ends_silently():
                    yield _encoded(partition.child_records)
                return
            elif self._query.end is not None and self._clock.now() >= self._query.end:
                if not found and self._behaviour.idle_heartbeat:
                    yield [self._beat(self._query.end)]
                return
            elif self._clock.now() >= beat:
                yield [self._beat(self._clock.now())]
                beat = self._clock.now() + self._heartbeat
            else:
                await self._until(beat if self._query.end is None else min(beat, self._query.end))

    def _taken(self, partition: Partition, number: int) -> list[Written]:
        try:
            return partition.take(number, self._query.end, self._behaviour.records_per_message)
        except LookupError as error:
            told = self._behaviour.bounds_told
            raise errors.too_far_in_the_past(self._stream.earliest, self._start, told=told) from error

    def _ended(self, partition: Partition) -> bool:
        return partition.end is not None and (self._query.end is None or partition.end <= self._query.end)

    def _beat(self, moment: int) -> bytes:
        self._clock.said(moment)
        return encode(Heartbeat(moment), postgres=self._stream.postgres)

    async def _until_start(self) -> None:
        while self._clock.now() < self._start and not self._stream.dropped:
            await self._until(self._start)

    async def _until(self, moment: int) -> None:
        await self._stream.changed.wait(max(0.0005, (moment - self._clock.now()) / SECOND))


def _encoded(batch: list[Written]) -> list[bytes]:
    return [written.encoded for written in batch]


def _arguments(text: str, parameters: Parameters) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for place, argument in enumerate(filter(None, map(str.strip, text.split(",")))):
        name, arrow, value = argument.partition("=>")
        if not arrow:
            name, value = _ARGUMENTS[place], argument
        found[name.strip().lower()] = _argument(value.strip(), parameters)
    return found


def _argument(text: str, parameters: Parameters) -> str | None:
    if text.startswith("@"):
        return parameters[text[1:]]
    if text.startswith("$"):
        return parameters[f"p{text[1:]}"]
    return None if text.upper() == "NULL" else text.strip("'\"")


def _moment(text: str | None) -> int | None:
    return None if text is None else parse(text)
