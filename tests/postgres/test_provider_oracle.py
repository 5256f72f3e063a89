"""Nothing lost, nothing twice, one order for all: many writers against many readers."""

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from changefeed_gateway.core.errors import Reason, TransientFailure
from changefeed_gateway.core.model import (
    After,
    Beginning,
    Change,
    ChangeType,
    LogicalPartition,
    PartitionId,
    PhysicalPartition,
)
from tests.databases import LOG, PostgresForTests
from tests.patience import finished
from tests.postgres.history import DAY, live_since
from tests.postgres.reading import address, check, ids, open_provider, page_read, read_all
from tests.postgres.storm import COLLECTION, SPACES, connect, prepare, storm, truth
from tests.postgres.test_stepping_clock import Clock, server_with_clock
from tests.soak import soak_seconds

SECONDS = soak_seconds(4)


@pytest.fixture
async def other_database(postgres: PostgresForTests) -> AsyncIterator[str]:
    dsn = await postgres.fresh()
    yield dsn
    await postgres.drop(dsn)


def history(changes: Sequence[Change]) -> dict[str, list[tuple[str, int]]]:
    """What a consumer saw of each row, with the version that each image carries."""
    rows: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for change in changes:
        (key,) = change.key.components
        seen = rows[key.value]
        if change.change_type is ChangeType.DELETE:
            assert change.item is None
            seen.append(("delete", seen[-1][1] + 1))
        else:
            assert change.item is not None
            item = json.loads(change.item)
            assert (str(item["id"]), str(item["space"])) == (key.value, change.key.partition_key)
            seen.append(("upsert", item["version"]))
    return rows


class Follower:
    """Reads live, with waiting, and loses its provider now and then."""

    def __init__(self, dsn: str, seed: int, size: int) -> None:
        self._dsn = dsn
        self._random = random.Random(seed)
        self._size = size
        self.changes: list[Change] = []

    async def run(self, last: asyncio.Future[str]) -> None:
        """Until the event whose id `last` brings."""
        start: Beginning | After = Beginning()
        while not self._seen(last):
            async with open_provider(self._dsn) as provider:
                feed = await provider.open_feed(address(COLLECTION))
                for _ in range(self._random.randrange(20, 200)):
                    if self._seen(last):
                        return
                    read = page_read(start, size=self._size, wait=0.5)
                    try:
                        page = await provider.read_page(feed, read)
                    except TransientFailure as failure:
                        # Beside the storm a server may say nothing within a wait: a consumer asks again.
                        if failure.reason != Reason.PROVIDER_TIMEOUT.value:
                            raise
                        continue
                    check(page, read)
                    # A consumer that saves any token of a page, and dies.
                    kept = self._random.choice((len(page.changes), self._random.randint(0, len(page.changes))))
                    self.changes += page.changes[:kept]
                    cursor = page.cursor if kept == len(page.changes) else ([page.start, *page.cursors][kept])
                    start = After(cursor)

    def _seen(self, last: asyncio.Future[str]) -> bool:
        return last.done() and last.result() in {change.event_id for change in self.changes[-5000:]}


@pytest.mark.soak
@pytest.mark.req("P1", "P2", "DB-1", "DB-11")
async def test_every_reader_gets_every_change_once_in_one_order(log_database: str, other_database: str) -> None:
    await prepare(log_database)
    await judge(log_database, other_database, asyncio.sleep(SECONDS))


@pytest.mark.soak
@pytest.mark.req("P1", "P2", "DB-10", "DB-11")
async def test_the_same_while_the_clock_steps_and_the_day_floor_moves() -> None:
    """A day passes every half second; in between the clock steps by up to two days, both ways."""
    async with server_with_clock() as (postgres, clock):
        dsn = await postgres.fresh(LOG)
        await prepare(dsn)
        async with await connect(dsn) as connection:
            await live_since(connection, 1, ahead=int(2 * SECONDS) + 5)
        await judge(dsn, await postgres.fresh(LOG), step(clock, SECONDS))
        async with await connect(dsn) as connection:
            cursor = await connection.execute("SELECT count(DISTINCT day >> 40) FROM changefeed_log.tick_1")
            [(floors,)] = await cursor.fetchall()
            assert floors >= SECONDS, "the floor moved"


async def step(clock: Clock, seconds: float) -> None:
    chance, begin = random.Random(7), datetime.now(UTC)
    two_days = 2 * DAY.total_seconds()
    for number in range(int(seconds / 0.1)):
        wrong = chance.choice((0, 0, 0.02, -0.02, 3 * 3600, -3 * 3600, two_days, -two_days))
        clock.set(begin + number / 5 * DAY + timedelta(seconds=wrong))
        await asyncio.sleep(0.1)


async def judge(dsn: str, other_dsn: str, meanwhile: Coroutine[Any, Any, None]) -> None:
    """Followers of all kinds beside a storm, and readers of all kinds after it."""
    last: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    followers = [Follower(dsn, seed, size) for seed, size in enumerate((7, 100, 1000))]
    following = [asyncio.create_task(follower.run(last)) for follower in followers]
    async with storm(dsn, other_dsn):
        await meanwhile
    async with open_provider(dsn) as provider:
        feed = await provider.open_feed(address(COLLECTION))
        whole, _ = await read_all(provider, feed)
        last.set_result(whole[-1].event_id)
        await finished(following, lambda: sum(len(follower.changes) for follower in followers))

        assert len(set(ids(whole))) == len(whole)
        assert history(whole) == await truth(dsn)
        for follower in followers:
            assert ids(follower.changes) == ids(whole)
        for size, count in ((1, 1500), (7, 5000), (50, 1_000_000), (5000, 1_000_000)):
            read = page_read(Beginning(), size=size)
            changes, _ = await read_all(provider, feed, read, at_most=count)
            assert ids(changes) == ids(whole)[: len(changes)]
            assert len(changes) >= min(count, len(whole))
        scope = PhysicalPartition(PartitionId("0-4095"))
        changes, _ = await read_all(provider, feed, page_read(Beginning(), scope=scope))
        assert ids(changes) == ids(whole)
        for space in range(SPACES):
            mine = [change.event_id for change in whole if change.key.partition_key == str(space)]
            for size in (7, 100):
                read = page_read(Beginning(), scope=LogicalPartition(str(space)), size=size)
                changes, _ = await read_all(provider, feed, read)
                assert ids(changes) == mine
