"""Nothing lost, nothing twice, one order for all: many writers against many readers."""

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence

import pytest

from changefeed_gateway.core.model import (
    After,
    Beginning,
    Change,
    ChangeType,
    LogicalPartition,
    PartitionId,
    PhysicalPartition,
)
from tests.databases import PostgresForTests
from tests.postgres.reading import address, check, ids, open_provider, page_read, read_all
from tests.postgres.storm import COLLECTION, SPACES, prepare, storm, truth
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
                    page = await provider.read_page(feed, read)
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
    last: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    followers = [Follower(log_database, seed, size) for seed, size in enumerate((7, 100, 1000))]
    following = [asyncio.create_task(follower.run(last)) for follower in followers]
    async with storm(log_database, other_database):
        await asyncio.sleep(SECONDS)
    async with open_provider(log_database) as provider:
        feed = await provider.open_feed(address(COLLECTION))
        whole, _ = await read_all(provider, feed)
        last.set_result(whole[-1].event_id)
        async with asyncio.timeout(60):
            await asyncio.gather(*following)

        assert len(set(ids(whole))) == len(whole)
        assert history(whole) == await truth(log_database)
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
