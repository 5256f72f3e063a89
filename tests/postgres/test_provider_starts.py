"""Where reading starts, and which positions are refused."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from changefeed_gateway.core.errors import CheckpointExpired, HistoryGap, InvalidRequest
from changefeed_gateway.core.model import (
    After,
    AtTime,
    Beginning,
    Cursor,
    LogicalPartition,
    Now,
)
from changefeed_gateway.providers.postgres.cursor import Position, decode_position, encode_position
from tests.postgres.history import age, live_since
from tests.postgres.reading import ids, open_provider, page_read, read_all
from tests.postgres.shop import QUIET, Shop, keys, open_shop


@pytest.fixture
async def shop(log_database: str) -> AsyncIterator[Shop]:
    async with open_shop(log_database) as shop:
        yield shop


async def test_beginning_of_an_empty_feed_and_what_comes_later(shop: Shop) -> None:
    empty = await shop.page(Beginning())
    assert (list(empty.changes), empty.more_available) == ([], False)
    await shop.insert(1, 2, 3)
    page = await shop.page(After(empty.cursor))
    assert keys(page) == [1, 2, 3]
    assert not page.more_available
    assert keys(await shop.page(Beginning())) == [1, 2, 3]
    assert keys(await shop.page(After(page.cursor))) == []


@pytest.mark.req("CF-04")
async def test_now_is_fixed_before_the_answer(shop: Shop) -> None:
    await shop.insert(1)
    for number in range(2, 12):
        page = await shop.page(Now(), size=number % 2)
        await shop.insert(number)
        assert keys(page) == []
        assert keys(await shop.page(After(page.cursor))) == [number]


async def test_a_read_that_does_not_wait_gives_all_that_had_committed(shop: Shop) -> None:
    page = await shop.page(Beginning())
    for number in range(1, 20):
        await shop.insert(number)
        scope = LogicalPartition("0") if number % 2 else None
        page = await shop.page(After(page.cursor), **({"scope": scope} if scope else {}))
        assert keys(page) == [number]


async def test_a_start_is_resolved_without_changes(shop: Shop) -> None:
    await shop.insert(1)
    for start in (Beginning(), Now(), AtTime(datetime.now(UTC))):
        page = await shop.page(start, size=0)
        assert page.changes == []
        assert page.start == page.cursor
        assert (await shop.page(After(page.cursor), size=0)).cursor == page.cursor


@pytest.mark.req("CF-04")
async def test_at_a_time_nothing_at_or_after_it_is_missing(shop: Shop) -> None:
    times = []
    for number in range(1, 8):
        times.append(datetime.now(UTC))
        await shop.insert(number)
        await shop.tick()
    for index, time in enumerate(times):
        assert keys(await shop.page(AtTime(time))) == list(range(index + 1, 8))
    with pytest.raises(CheckpointExpired) as caught:
        await shop.page(AtTime(times[0] - timedelta(days=400)))
    assert caught.value.reason == "START_TIME_BEFORE_RETENTION"
    earliest = datetime.fromisoformat(caught.value.metadata["earliest_time"])
    assert keys(await shop.page(AtTime(earliest))) == list(range(1, 8))
    assert keys(await shop.page(AtTime(datetime.now(UTC) + timedelta(days=1)))) == []


@pytest.mark.req("US2.2", "CF-08", "DB-10")
async def test_a_position_whose_history_was_dropped_is_expired(shop: Shop) -> None:
    start = (await shop.page(Beginning(), size=0)).cursor
    await shop.insert(1)
    early = (await shop.page(Beginning())).cursor
    await shop.insert(2)
    kept = await shop.tick()
    await shop.insert(3)
    await shop.tick()
    await shop.forget_ticks(f"id < {kept}")
    for cursor in (start, early):
        async with open_provider(shop.dsn) as other:
            for size in (0, 10):
                with pytest.raises(CheckpointExpired, match="restart from beginning or now"):
                    await other.read_page(shop.feed, page_read(After(cursor), size=size))
    assert keys(await shop.page(Beginning())) == [3]
    earliest = (await shop.page(Beginning(), size=0)).cursor
    assert decode_position(earliest)[0] == Position(kept)


@pytest.mark.req("CF-04")
async def test_a_time_before_the_retained_history_names_the_earliest(shop: Shop) -> None:
    await shop.insert(1)
    kept = await shop.tick()
    await shop.forget_ticks(f"id < {kept}")
    with pytest.raises(CheckpointExpired) as caught:
        await shop.page(AtTime(datetime.now(UTC) - timedelta(days=1)))
    assert caught.value.reason == "START_TIME_BEFORE_RETENTION"
    assert f"{datetime.now(UTC):%Y-%m-%d}" in str(caught.value)


@pytest.mark.req("US2.2", "CF-08")
async def test_history_that_is_dropped_while_it_is_read_is_expired_and_never_a_gap(shop: Shop) -> None:
    """P6: the process knows the ticks, but the read itself finds that they are gone."""
    await shop.insert(1, 2)
    first = await shop.page(Beginning(), size=1)
    assert keys(first) == [1]
    await live_since(shop.connection, 32)
    await age(shop.connection, timedelta(days=30))
    async with open_provider(shop.dsn, QUIET) as other:
        page = await other.read_page(shop.feed, page_read(Beginning(), size=1))
        await shop.insert(3)
        await shop.tick()
        day = f"{datetime.now(UTC) - timedelta(days=30):%Y%m%d}"
        for part in ("tick", "log"):
            await shop.connection.execute(f"DROP TABLE changefeed_log.{part}_1_{day}".encode())
        with pytest.raises(CheckpointExpired):
            await other.read_page(shop.feed, page_read(After(page.cursor)))


async def test_a_tick_that_is_missing_in_between_is_a_gap(shop: Shop) -> None:
    ticks, cursors = [], []
    for number in range(1, 5):
        await shop.insert(number)
        ticks.append(await shop.tick())
        cursors.append((await shop.page(Now(), size=0)).cursor)
    await shop.forget_ticks(f"id = {ticks[1]}")
    async with open_provider(shop.dsn, QUIET) as fresh:
        with pytest.raises(HistoryGap, match=f"tick {ticks[1]} is missing"):
            await fresh.read_page(shop.feed, page_read(Beginning()))
        for cursor in cursors[1:3]:
            with pytest.raises(HistoryGap):
                await fresh.read_page(shop.feed, page_read(After(cursor)))


@pytest.mark.parametrize("position", [Position(99), Position(1, 5), Position(2**62, 2**62)])
async def test_a_position_beyond_the_newest_tick_is_refused(shop: Shop, position: Position) -> None:
    for wait in (0, 1):
        with pytest.raises(InvalidRequest, match="lost the history") as caught:
            await shop.page(After(encode_position(position, datetime.now(UTC))), wait=wait)
        assert caught.value.reason == "TOKEN_RESOURCE_RECREATED"


async def test_ticks_that_a_failover_lost_are_noticed_by_who_knew_them(shop: Shop) -> None:
    await shop.insert(1, 2)
    page = await shop.page(Beginning())
    newest = decode_position(page.cursor)[0].tick
    await shop.forget_ticks(f"id >= {newest}")
    with pytest.raises(InvalidRequest, match="lost the history"):
        await shop.page(After(encode_position(Position(newest + 1), datetime.now(UTC))))
    await shop.insert(3)
    assert keys(await shop.page(Beginning())) == [1, 2, 3]


@pytest.mark.parametrize("cursor", [b"", b"x", b"\xff" * 20, b"\0" * 19, b"\0" * 21])
@pytest.mark.req("P6")
async def test_bytes_that_are_no_position_are_refused(shop: Shop, cursor: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await shop.page(After(Cursor(cursor)))
    assert caught.value.reason == "TOKEN_MALFORMED"


async def test_position_zero_is_before_any_history(shop: Shop) -> None:
    with pytest.raises(CheckpointExpired):
        await shop.page(After(Cursor(b"\0" * 20)))


async def test_a_page_says_when_its_cursor_expires(shop: Shop) -> None:
    await shop.insert(1)
    page = await shop.page(Beginning())
    assert page.expire_time is not None
    assert timedelta(days=7) <= page.expire_time - datetime.now(UTC) <= timedelta(days=8, minutes=1)
    assert page.watermark is not None
    assert page.watermark <= datetime.now(UTC)
    assert page.provider_calls > 0


@pytest.mark.req("CF-07", "P3")
async def test_event_ids_are_the_same_in_every_scope(shop: Shop) -> None:
    await shop.insert(1, 2, space=1)
    await shop.insert(3, space=2)
    whole, _ = await read_all(shop.provider, shop.feed)
    first, _ = await read_all(shop.provider, shop.feed, page_read(Beginning(), scope=LogicalPartition("1"), size=1))
    second, _ = await read_all(shop.provider, shop.feed, page_read(Beginning(), scope=LogicalPartition("2")))
    assert ids(whole) == [*ids(first), *ids(second)]
    none, _ = await read_all(shop.provider, shop.feed, page_read(Beginning(), scope=LogicalPartition("3")))
    assert none == []
