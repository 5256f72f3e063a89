"""A reader meets a history other than the one that it began in: it is refused, and nothing is passed over."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from changefeed_gateway.core.errors import InvalidRequest
from changefeed_gateway.core.model import After, Beginning, Now, Snapshot, Start
from changefeed_gateway.providers.postgres.cursor import Position, decode_position
from changefeed_gateway.providers.postgres.log.reading import Stretch
from changefeed_gateway.providers.postgres.ticks.tick import Tick
from tests.postgres.shop import Shop, keys, open_shop


@pytest.fixture
async def shop(log_database: str) -> AsyncIterator[Shop]:
    async with open_shop(log_database) as shop:
        yield shop


async def insert_and_tick(shop: Shop, *numbers: int) -> None:
    for number in numbers:
        await shop.insert(number)
        await shop.tick()


@pytest.mark.req("P1", "P6")
@pytest.mark.parametrize("lost", [1, 2])
async def test_who_waits_in_vain_at_a_tick_that_a_failover_lost_is_refused(
    shop: Shop, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another tick may have its number by then, and no later one may have come."""
    await insert_and_tick(shop, 1, 2)
    page = await shop.page(Beginning())
    newest = decode_position(page.cursor)[0].tick
    [feed] = shop.provider._feeds()

    async def wait(seen: int, seconds: float) -> Tick | None:
        assert seen == newest
        await shop.forget_ticks(f"id > {newest - lost}")
        await shop.insert(3)
        assert (await feed.ticker.refresh()).id == newest - lost + 1
        return None

    monkeypatch.setattr(feed.ticker, "wait", wait)
    with pytest.raises(InvalidRequest) as caught:
        await shop.page(After(page.cursor), wait=1)
    assert caught.value.reason == "TOKEN_RESOURCE_RECREATED"


@pytest.mark.req("P1", "P6")
@pytest.mark.parametrize("start", [Beginning(), Snapshot()])
async def test_a_feed_that_began_anew_is_not_read_on_by_who_was_in_its_history_before(shop: Shop, start: Start) -> None:
    """Its ticks have come beyond the reader's place before this process asked for any."""
    await insert_and_tick(shop, *range(1, 6))
    page = await shop.page(start, size=3)
    await shop.connection.execute("SELECT changefeed.begin_epoch(1)")
    await insert_and_tick(shop, *range(6, 20))
    with pytest.raises(InvalidRequest) as caught:
        await shop.page(After(page.cursor))
    assert caught.value.reason == "TOKEN_RESOURCE_RECREATED"


@pytest.mark.req("P6")
async def test_who_has_not_read_what_a_failover_lost_goes_on_at_once(shop: Shop) -> None:
    await insert_and_tick(shop, 1, 2)
    first = await shop.page(Beginning(), size=1)
    newest = decode_position((await shop.page(Beginning())).cursor)[0].tick
    await shop.forget_ticks(f"id >= {newest}")
    shop.provider._connections.server_started = datetime.now(UTC)
    assert keys(await shop.page(After(first.cursor), wait=1)) == [2]


@pytest.mark.req("P1", "P6")
async def test_a_failover_between_two_steps_of_one_page_passes_nothing_over(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await insert_and_tick(shop, 1)
    start = await shop.page(Now())
    # Numbers that came to nothing: a step that looks for a page of them finds fewer changes.
    await shop.connection.execute("SELECT nextval('changefeed_log.seq_1') FROM generate_series(1, 8)")
    await insert_and_tick(shop, *range(2, 8))
    reader = shop.provider._log_of(shop.feed)._reader
    step = reader._step

    async def fail_over_and_step(after: Position, *how: Any) -> Stretch:
        if after > decode_position(start.cursor)[0]:
            monkeypatch.setattr(reader, "_step", step)
            await shop.forget_ticks(f"id >= {after.batch}")
            await insert_and_tick(shop, *range(8, 20))
            shop.provider.forget()
        return await step(after, *how)

    monkeypatch.setattr(reader, "_step", fail_over_and_step)
    with pytest.raises(InvalidRequest) as caught:
        await shop.page(After(start.cursor), size=10)
    assert caught.value.reason == "TOKEN_RESOURCE_RECREATED"
