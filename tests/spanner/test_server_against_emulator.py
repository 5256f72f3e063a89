"""The wire-level server says what the official emulator says: the same histories, read by the same bare reader."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

import pytest

from tests.soak import SOAKING
from tests.spanner.emulator import GOOGLE_SQL, POSTGRESQL, Emulator
from tests.spanner.histories import TABLES, History, Reading, content, read_everything
from tests.spanner.sdk import BareDatabase, bare_database, mutation
from tests.spanner.server.behaviour import Behaviour
from tests.spanner.server.clock import parse
from tests.spanner.server.schema import StreamDefinition
from tests.spanner.server.wire import WireServer

# The service allows three streams on a table.
WHOLE = (
    StreamDefinition("old_and_new"),
    StreamDefinition("new_row", None, {"value_capture_type": "NEW_ROW"}),
    StreamDefinition("new_row_and_old", None, {"value_capture_type": "NEW_ROW_AND_OLD_VALUES"}),
)
PARTIAL = (
    StreamDefinition("new_values", None, {"value_capture_type": "NEW_VALUES", "retention_period": "36h"}),
    StreamDefinition("columns", {"things": ["exact", "doc", "words"], "events": []}),
    StreamDefinition("kinds", {"things": ["text", "raw"]}, {"exclude_insert": True, "value_capture_type": "NEW_ROW"}),
)

STREAM = "changes"
"""Of the tests of partitions."""

_NUMBERS = itertools.count(1)


@asynccontextmanager
async def on_both(
    emulator: Emulator, streams: Sequence[StreamDefinition], *, postgres: bool
) -> AsyncIterator[tuple[BareDatabase, BareDatabase, WireServer]]:
    """The same database on the emulator and on a server of its own."""
    name = f"histories-{next(_NUMBERS)}"
    ddl = [made.ddl(postgres=postgres) for made in TABLES]
    ddl += [stream.ddl(postgres=postgres) for stream in streams]
    path = await emulator.create_database(name, ddl, dialect=POSTGRESQL if postgres else GOOGLE_SQL)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(WireServer(Behaviour(emulated_values=True)))
        server.create_database(name, TABLES, streams, postgres=postgres)
        yield (
            await stack.enter_async_context(bare_database(emulator.host, path, postgres=postgres)),
            await stack.enter_async_context(bare_database(server.host, server.path(name), postgres=postgres)),
            server,
        )
    await emulator.drop_database(name)


# --- Records


async def write_and_read(
    database: BareDatabase, seed: int, count: int, streams: Sequence[StreamDefinition]
) -> dict[str, Reading]:
    start = await database.now()
    for transaction in History(seed, postgres=database.postgres).transactions(count):
        await database.commit(*transaction)
    end = await database.now()
    return {stream.name: await read_everything(database, stream.name, start, end) for stream in streams}


@pytest.mark.parametrize("postgres", [False, True], ids=["googlesql", "postgresql"])
@pytest.mark.parametrize("streams", [WHOLE, PARTIAL], ids=["whole", "partial"])
@pytest.mark.parametrize("seed", range(20) if SOAKING else [1])
async def test_the_same_history_gives_the_same_records(
    spanner_emulator: Emulator, streams: Sequence[StreamDefinition], seed: int, postgres: bool
) -> None:
    async with on_both(spanner_emulator, streams, postgres=postgres) as (*databases, _):
        emulator, server = [await write_and_read(database, seed, 60, streams) for database in databases]
    for stream in streams:
        said, ours = content(emulator[stream.name].transactions()), content(server[stream.name].transactions())
        assert len(said) > 10
        assert ours == said
    for reading in (*emulator.values(), *server.values()):
        check_transactions(reading)


def check_transactions(reading: Reading) -> None:
    """What the documentation says of the records of one transaction."""
    places = defaultdict(list)
    for token, record in reading.data:
        places[record["server_transaction_id"]].append((token, record))
    for records in places.values():
        sequences = [record["record_sequence"] for _, record in records]
        assert len(set(sequences)) == len(sequences) == records[0][1]["number_of_records_in_transaction"]
        partitions = {token for token, _ in records}
        assert len(partitions) == records[0][1]["number_of_partitions_in_transaction"]
        for partition in partitions:
            last = [r["is_last_record_in_transaction_in_partition"] for token, r in records if token == partition]
            assert last == [False] * (len(last) - 1) + [True]


# --- Partitions

KEYS = 5
GENERATIONS = 5 if SOAKING else 1
"""How many partitions in a row are seen to end on the emulator, where one lives for two to four seconds."""
SHAPES = {(1, 1), (1, 2), (2, 1)}
"""Moves, splits and merges: how many parents one of the children has, and how many children there are."""


@pytest.mark.parametrize("postgres", [False, True], ids=["googlesql", "postgresql"])
async def test_partitions_come_and_go_by_the_same_rules(churning_spanner_emulator: Emulator, postgres: bool) -> None:
    stream = StreamDefinition(STREAM)
    async with on_both(churning_spanner_emulator, [stream], postgres=postgres) as (emulator, ours, server):
        start = await emulator.now()
        ending = asyncio.create_task(generations(emulator, start, GENERATIONS))
        check_reading(await read_back(emulator, start, await write_while(emulator, lambda _: not ending.done())))
        await ending
        start, churn = await ours.now(), Churn(server, ours.path)
        written = await write_while(ours, lambda number: number < 120 and churn.step(number))
        reading = await read_back(ours, start, written)
        check_reading(reading)
        assert shapes(reading) == SHAPES


async def generations(database: BareDatabase, start: str, count: int) -> None:
    """Wait until so many partitions in a row have ended."""
    ended = (await database.query(STREAM, start))[0]["child_partitions_record"]
    for _ in range(count):
        token = ended["child_partitions"][0]["token"]
        *_, last = await database.query(STREAM, ended["start_timestamp"], None, token)
        ended = last["child_partitions_record"]


async def read_back(database: BareDatabase, start: str, written: int) -> Reading:
    """Read everything, and see that it is what was written."""
    reading = await read_everything(database, STREAM, start, await database.now())
    assert written_numbers(reading) == [list(range(key, written, KEYS)) for key in range(KEYS)]
    return reading


def check_reading(reading: Reading) -> None:
    check_transactions(reading)
    check_lineage(reading)
    assert reading.ends
    assert shapes(reading) <= SHAPES


class Churn:
    """Splits, merges and moves drawn at random."""

    def __init__(self, server: WireServer, path: str) -> None:
        self._server = server
        self._database = path.rpartition("/")[2]
        self._random = Random(1)

    def step(self, number: int) -> bool:
        """Do something to the partitions every few numbers; always true."""
        if number % 7 == 0:
            alive = self._server.alive(self._database, STREAM)
            first, *others = self._random.sample(alive, len(alive))
            draw = self._random.choice(("split", "merge", "move"))
            if draw == "merge" and others:
                self._server.merge(self._database, STREAM, first, others[0])
            elif draw == "split":
                self._server.split(self._database, STREAM, first)
            else:
                self._server.move(self._database, STREAM, first)
        return True


async def write_while(database: BareDatabase, goes_on: Callable[[int], bool]) -> int:
    """Write rising numbers to a few keys in turn; gives how many."""
    for number in itertools.count():
        if not goes_on(number):
            return number
        row = {"id": str(number % KEYS), "part": "", "whole": str(number)}
        await database.commit(mutation("insert_or_update", "things", row))
    raise AssertionError


def written_numbers(reading: Reading) -> list[list[int]]:
    """What was written to each key, in the order of reading: parents before their children."""
    found: dict[int, list[int]] = {key: [] for key in range(KEYS)}
    for _, record in reading.data:
        for mod in record["mods"]:
            found[int(mod["keys"]["id"])].append(int(mod["new_values"]["whole"]))
    return list(found.values())


def check_lineage(reading: Reading) -> None:
    """What facts there are about parents and children."""
    for token, records in reading.ends.items():
        assert len({record["start_timestamp"] for record in records}) == 1
        for record in records:
            for child in record["child_partitions"]:
                assert token in child["parent_partition_tokens"]
                # Every parent says the same, and a child begins where all of them end.
                assert reading.parents[child["token"]] == child["parent_partition_tokens"]
                assert reading.starts[child["token"]] == record["start_timestamp"]
    for token, record in reading.data:
        time = parse(record["commit_timestamp"])
        assert parse(reading.starts[token]) <= time
        if token in reading.ends:
            assert time < parse(reading.ends[token][0]["start_timestamp"])


def shapes(reading: Reading) -> set[tuple[int, int]]:
    """The kinds of churn that were seen."""
    return {
        (len(child["parent_partition_tokens"]), len(record["child_partitions"]))
        for records in reading.ends.values()
        for record in records
        for child in record["child_partitions"]
    }
