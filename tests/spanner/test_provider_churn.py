"""Writers, kills and resumes on the official emulator while its partitions split, merge and move.

The emulator gives keys to whichever partitions are alive, so what is held is the order within each partition, and a
partition's changes behind those of all its parents.
"""

import asyncio
import itertools
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import grpc
import pytest
from google.api_core.exceptions import Aborted

from changefeed_gateway.core.model import Address
from tests.conformance.client import BEGINNING, Client, Event, Refusal, Start, after, wire_address
from tests.gateway import RunningGateway
from tests.patience import finished
from tests.soak import hangs_after, soak_seconds
from tests.spanner.emulator import GOOGLE_SQL, POSTGRESQL, Emulator
from tests.spanner.gateway import make_provider
from tests.spanner.scene import CONNECTION
from tests.spanner.writing import Writer, delete, insert, put

_T = TypeVar("_T")

SECONDS = soak_seconds(4)
ROWS = 12
_NUMBERS = itertools.count(1)

DDL = {
    False: (
        "CREATE TABLE things (id INT64, mark STRING(MAX)) PRIMARY KEY (id)",
        "CREATE CHANGE STREAM changes FOR things OPTIONS (value_capture_type = 'NEW_ROW')",
    ),
    True: (
        "CREATE TABLE things (id bigint PRIMARY KEY, mark varchar)",
        "CREATE CHANGE STREAM changes FOR things WITH (value_capture_type = 'NEW_ROW')",
    ),
}


class Storm:
    """A database on the emulator, writers, and a gateway that can be killed."""

    def __init__(self, emulator: Emulator, database: str) -> None:
        self.emulator, self.path = emulator, emulator.path(database)
        self.written: set[str] = set()
        """Marks of the upserts that were committed."""
        self.over = asyncio.Event()
        self._marks = itertools.count(1)
        self._gateway: RunningGateway | None = None

    async def restart(self) -> None:
        """Kill the gateway, if there is one, and start another."""
        await self.kill()
        provider = make_provider(self.path, self.emulator.host)
        self._gateway = await RunningGateway.start({CONNECTION: provider})

    async def kill(self) -> None:
        if self._gateway is not None:
            await self._gateway.kill()
        self._gateway = None

    @property
    def client(self) -> Client:
        assert self._gateway is not None
        return Client(
            self._gateway.stub, wire_address(Address(connection=CONNECTION, database="", collection="things"))
        )

    async def write(self, seed: int) -> None:
        """One application: mutations of several rows, deletes, and DML."""
        dice, writer = random.Random(seed), Writer(self.emulator.host, self.path)
        try:
            while not self.over.is_set():
                marks = {row: f"m{next(self._marks)}" for row in dice.sample(range(ROWS), dice.randint(1, 4))}
                with suppress(Aborted):  # it takes one transaction at a time
                    await self._transact(writer, dice, marks)
        finally:
            await writer.close()

    async def _transact(self, writer: Writer, dice: random.Random, marks: dict[int, str]) -> None:
        match dice.randrange(4):
            case 0:
                updates = [f"UPDATE things SET mark = '{mark}' WHERE id = {row}" for row, mark in marks.items()]
                await writer.run(*updates)
            case 1:
                await writer.commit(delete("things", [str(min(marks))]))
            case 2:
                key, mark = 10_000 + next(self._marks), f"m{next(self._marks)}"
                await writer.commit(insert("things", ["id", "mark"], [str(key), mark]))
                self.written.add(mark)
            case _:
                rows = [[str(row), mark] for row, mark in marks.items()]
                await writer.commit(put("things", ["id", "mark"], *rows))
                self.written.update(marks.values())


def marks_of(events: list[Event]) -> set[str]:
    return {json.loads(event.new_item_json)["mark"] for event in events if event.new_item_json}


async def sat_out(ask: Callable[[], Awaitable[_T]]) -> _T:
    """The answer of a gateway whose service takes too long on a busy machine: a consumer asks again."""
    while True:
        try:
            return await ask()
        except grpc.aio.AioRpcError as error:
            if Refusal.of_error(error).reason != "PROVIDER_TIMEOUT":
                raise


async def follow(storm: Storm, dice: random.Random, events: list[Event]) -> None:
    """Read the entire collection by pages and streams, through kills, until the writers are over and all has come."""
    start: Start = BEGINNING
    while not (storm.over.is_set() and storm.written <= marks_of(events)):
        if dice.random() < 0.15:
            await storm.restart()
        some, token = await sat_out(partial(page_after if dice.random() < 0.5 else messages_after, storm, dice, start))
        events += some
        start = after(token)


async def page_after(storm: Storm, dice: random.Random, start: Start) -> tuple[Sequence[Event], str]:
    page = await storm.client.read(start, size=dice.choice([2, 7, 1000]), wait=0.2)
    return page.events, page.continuation_token


async def messages_after(storm: Storm, dice: random.Random, start: Start) -> tuple[Sequence[Event], str]:
    async with storm.client.subscribe(start, size=dice.choice([3, 100]), heartbeat=0.1) as stream:
        for _ in range(dice.randint(1, 6)):
            await stream.next()
    return stream.events, stream.token


async def whole_of(storm: Storm) -> list[Event]:
    """What whoever reads at once is told."""
    events: list[Event] = []
    start: Start = BEGINNING
    while True:
        page = await sat_out(partial(storm.client.read, start))
        events += page.events
        start = after(page.continuation_token)
        if not page.more_available:
            return events


@pytest.fixture
async def storm(request: pytest.FixtureRequest, churning_spanner_emulator: Emulator) -> AsyncIterator[Storm]:
    postgres, name = bool(request.param), f"storm-{next(_NUMBERS)}"
    dialect = POSTGRESQL if postgres else GOOGLE_SQL
    await churning_spanner_emulator.create_database(name, DDL[postgres], dialect=dialect)
    storm = Storm(churning_spanner_emulator, name)
    await storm.restart()
    yield storm
    await storm.kill()
    await churning_spanner_emulator.drop_database(name)


@pytest.mark.soak
@pytest.mark.timeout(hangs_after(SECONDS))
@pytest.mark.req("E4", "P1", "P2", "P3", "SC-1", "SC-2")
@pytest.mark.parametrize("storm", [False, True], indirect=True, ids=["googlesql", "postgresql"])
async def test_nothing_is_lost_while_partitions_churn_and_gateways_die(storm: Storm) -> None:
    writers = [asyncio.create_task(storm.write(seed)) for seed in range(2)]
    events: list[Event] = []
    reading = asyncio.create_task(follow(storm, random.Random(7), events))
    asyncio.get_running_loop().call_later(SECONDS, storm.over.set)
    await asyncio.gather(*writers)
    await finished([reading], lambda: len(events))
    assert len(storm.written) > 10
    whole = await whole_of(storm)
    # The same, each change once.
    assert len({event.event_id for event in whole}) == len(whole)
    assert {event.event_id for event in events} <= {event.event_id for event in whole}
    assert storm.written <= marks_of(whole)
    parents = {p.partition_id: set(p.parent_partition_ids) for p in await sat_out(storm.client.partitions)}
    for some in (events, whole):
        check_order(list({event.event_id: event for event in some}.values()), parents)


def check_order(events: list[Event], parents: dict[str, set[str]]) -> None:
    """Each partition in the order of its commits, behind all of its parents."""
    last: dict[str, int] = {}
    first: dict[str, int] = {}
    times: dict[str, list[int]] = defaultdict(list)
    for place, event in enumerate(events):
        last[event.partition_id] = place
        first.setdefault(event.partition_id, place)
        times[event.partition_id].append(event.commit_timestamp.ToNanoseconds())
    assert all(some == sorted(some) for some in times.values())
    for partition, place in first.items():
        for parent in parents[partition]:
            assert last.get(parent, -1) < place
