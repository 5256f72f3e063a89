"""The wire-level server says what the official emulator says: the same histories, read by the same bare reader."""

import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.soak import SOAKING
from tests.spanner.emulator import GOOGLE_SQL, POSTGRESQL, Emulator
from tests.spanner.histories import TABLES, History, Reading, content, read_everything
from tests.spanner.sdk import BareDatabase, bare_database
from tests.spanner.server.behaviour import Behaviour
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

_NUMBERS = itertools.count(1)


@asynccontextmanager
async def on_both(
    emulator: Emulator, streams: Sequence[StreamDefinition], *, postgres: bool
) -> AsyncIterator[tuple[BareDatabase, BareDatabase]]:
    """The same database on the emulator and on a server of its own."""
    name = f"histories-{next(_NUMBERS)}"
    ddl = [made.ddl(postgres=postgres) for made in (*TABLES, *streams)]
    path = await emulator.create_database(name, ddl, dialect=POSTGRESQL if postgres else GOOGLE_SQL)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(WireServer(Behaviour(emulated_values=True)))
        server.create_database(name, TABLES, streams, postgres=postgres)
        yield (
            await stack.enter_async_context(bare_database(emulator.host, path, postgres=postgres)),
            await stack.enter_async_context(bare_database(server.host, server.path(name), postgres=postgres)),
        )
    await emulator.drop_database(name)


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
    async with on_both(spanner_emulator, streams, postgres=postgres) as databases:
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
