"""Whatever a stream's pace, its key and the size of the ring: it reads its own changes, each once, in order."""

import asyncio
import random
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changefeed_gateway.core.errors import TransientFailure
from changefeed_gateway.core.follower import Follower
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import (
    After,
    Cursor,
    EntireCollection,
    LogicalPartition,
    Scope,
)
from changefeed_gateway.core.tails import Tails
from tests.properties.numbered_log import FEED, READ, Log, cursor, encode


async def collect(follower: Follower, scope: Scope, count: int, *, pace: random.Random, size: int) -> list[bytes]:
    got: list[bytes] = []
    position: Cursor = cursor(0)
    while len(got) < count:
        page = await follower.read(FEED, replace(READ, scope=scope, start=After(position), max_changes=size))
        assert len(page.content.changes) <= size
        assert page.content.cursor >= position
        got += page.records(items=True)
        position = page.content.cursor
        for _ in range(pace.randrange(6)):
            await asyncio.sleep(0)
    return got


@settings(max_examples=40)
@given(
    writes=st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=30), min_size=1, max_size=30),
    ring_bytes=st.sampled_from([1, 2_000, 20_000, 10**7]),
    failures=st.integers(0, 2),
    seed=st.integers(0, 2**32),
)
def test_every_follower_reads_its_changes_once_in_order(
    writes: list[list[str]], ring_bytes: int, failures: int, seed: int
) -> None:
    async def scenario() -> None:
        log, dice = Log(), random.Random(seed)
        log.failures = failures
        tails = Tails(log, encode, Limits(ring_bytes=ring_bytes, default_page_size=7))
        everything = [key for write in writes for key in write]
        wanted: list[tuple[Scope, list[bytes]]] = [
            (EntireCollection(), [str(i).encode() for i in range(len(everything))])
        ] * 3
        wanted += [
            (LogicalPartition(k), [str(i).encode() for i, key in enumerate(everything) if key == k]) for k in "abc"
        ]
        followers = [Follower(tails) for _ in wanted]
        readers = [
            asyncio.create_task(collect(f, scope, len(rows), pace=dice, size=dice.choice([1, 3, 50])))
            for f, (scope, rows) in zip(followers, wanted, strict=True)
        ]
        for write in writes:
            await log.append(*write)
            for _ in range(dice.randrange(8)):
                await asyncio.sleep(0)
        async with asyncio.timeout(20):
            results = await asyncio.gather(*readers)
        assert results == [rows for _, rows in wanted]
        for follower in followers:
            await follower.aclose()
        await tails.aclose()

    asyncio.run(scenario())


async def read_for_ever(follower: Follower, position: Cursor) -> None:
    while True:
        page = await follower.read(FEED, replace(READ, start=After(position), max_wait=timedelta(seconds=1)))
        position = page.content.cursor


async def test_live_pages_are_read_once_for_all_followers() -> None:
    log = Log()
    tails = Tails(log, encode, Limits())
    followers = [Follower(tails) for _ in range(50)]
    for follower in followers:
        await follower.read(FEED, replace(READ, start=After(cursor(0)), max_wait=timedelta(0)))
    before = log.reads
    waiting = [
        asyncio.create_task(follower.read(FEED, replace(READ, start=After(cursor(0)), max_wait=timedelta(seconds=5))))
        for follower in followers
    ]
    await asyncio.sleep(0)
    await log.append("a", "b")
    pages = await asyncio.gather(*waiting)
    assert all(page.records(items=True) == [b"0", b"1"] for page in pages)
    assert all(page.records(items=True) is pages[0].records(items=True) for page in pages)
    assert log.reads - before <= 2
    for follower in followers:
        await follower.aclose()
    await tails.aclose()


async def test_a_tail_ends_with_its_last_follower() -> None:
    log = Log()
    tails = Tails(log, encode, Limits())
    follower = Follower(tails)
    await follower.read(FEED, replace(READ, start=After(cursor(0)), max_wait=timedelta(0)))
    tasks = {task for task in asyncio.all_tasks() if task.get_name() == "tail of numbers"}
    assert len(tasks) == 1
    await follower.aclose()
    assert all(task.done() for task in tasks)


async def test_an_outage_beyond_patience_reaches_every_follower() -> None:
    log = Log()
    tails = Tails(log, encode, Limits(outage_patience=timedelta(milliseconds=10)))
    follower = Follower(tails)
    await follower.read(FEED, replace(READ, start=After(cursor(0)), max_wait=timedelta(0)))
    log.failures = 10**6
    await log.append("a")
    with pytest.raises(TransientFailure):
        await read_for_ever(follower, cursor(1))
    await follower.aclose()
    await tails.aclose()
