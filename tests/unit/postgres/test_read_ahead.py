"""What follows a page is read before it is asked for: for who goes on, one stretch at a time, and not for long."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine

import pytest

from changefeed_gateway.providers.postgres.cursor import Position
from changefeed_gateway.providers.postgres.log import read_ahead
from changefeed_gateway.providers.postgres.log.read_ahead import Place, ReadAhead
from changefeed_gateway.providers.postgres.log.reading import Stretch


def place(tick: int, *, generation: int = 0) -> Place:
    return Place(Position(tick), None, None, 1_000, generation)


class Log:
    """Counts what is read of it; `held` keeps every read under way."""

    def __init__(self, holding: set[ReadAhead] | None = None) -> None:
        self.ahead = ReadAhead(set() if holding is None else holding)
        self.read: list[int] = []
        self.cancelled: list[int] = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.error: Exception | None = None

    def reading(self, tick: int) -> Callable[[], Coroutine[None, None, Stretch]]:
        async def read() -> Stretch:
            self.read.append(tick)
            try:
                await self.may_end.wait()
            except asyncio.CancelledError:
                self.cancelled.append(tick)
                raise
            if self.error is not None:
                raise self.error
            return Stretch([], [], Position(tick + 1))

        return read

    async def page(self, tick: int, end: int) -> Stretch | None:
        """Read a page as a feed's log does; what came of it ahead."""
        found = await self.ahead.come(place(tick))
        self.ahead.page_ended(place(tick), place(end), self.reading(end))
        return found


@pytest.fixture
async def log() -> AsyncIterator[Log]:
    log = Log()
    yield log
    await log.ahead.aclose()


async def settle() -> None:
    """Some turns of the loop: enough for a read that does not wait, and for a timer of no time."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_who_goes_on_is_read_ahead_for_and_single_pages_are_not(log: Log) -> None:
    assert await log.page(1, 2) is None
    assert await log.page(7, 8) is None
    await settle()
    assert log.read == []
    assert await log.page(2, 3) is None
    await settle()
    assert log.read == [3]
    assert await log.page(3, 4) == Stretch([], [], Position(4))
    assert await log.page(4, 5) == Stretch([], [], Position(5))


async def test_one_who_comes_while_it_is_read_waits_for_it(log: Log) -> None:
    await log.page(1, 2)
    log.may_end.clear()
    await log.page(2, 3)
    coming = asyncio.create_task(log.ahead.come(place(3)))
    await settle()
    assert not coming.done()
    # Another one at the same place reads for itself.
    assert await log.ahead.come(place(3)) is None
    log.may_end.set()
    assert await coming == Stretch([], [], Position(4))


async def test_what_was_read_ahead_is_not_replaced_for_another_reader(log: Log) -> None:
    for tick in (1, 2):
        await log.page(tick, tick + 1)
    for tick in (11, 12):
        await log.page(tick, tick + 1)
    await settle()
    assert log.read == [3]


@pytest.mark.req("P7")
async def test_of_any_number_of_feeds_few_are_read_ahead_of_at_once() -> None:
    holding: set[ReadAhead] = set()
    logs = [Log(holding) for _ in range(300)]
    try:
        for log in logs:
            await log.page(1, 2)
            await log.page(2, 3)
        await settle()
        ahead = [log for log in logs if log.read]
        assert len(ahead) == read_ahead._MOST_AT_ONCE
        assert await ahead[0].ahead.come(place(3)) is not None
        await ahead[1].ahead.aclose()
        for log in logs[-2:]:
            await log.page(3, 4)
        await settle()
        assert [log.read for log in logs[-2:]] == [[4], [4]]
    finally:
        for log in logs:
            await log.ahead.aclose()
    assert not holding


async def test_a_failure_is_told_to_nobody_and_the_page_is_read_when_asked_for(log: Log) -> None:
    await log.page(1, 2)
    log.error = OSError("gone")
    await log.page(2, 3)
    assert await log.ahead.come(place(3)) is None


async def test_nothing_is_given_of_another_history(log: Log) -> None:
    await log.page(1, 2)
    await log.page(2, 3)
    await settle()
    assert await log.ahead.come(place(3, generation=1)) is None


async def test_who_is_cancelled_takes_the_read_along(log: Log) -> None:
    log.may_end.clear()
    await log.page(1, 2)
    await log.page(2, 3)
    coming = asyncio.create_task(log.ahead.come(place(3)))
    await settle()
    coming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await coming
    assert log.cancelled == [3]


async def test_a_close_ends_what_is_under_way_and_nothing_begins_after_it(log: Log) -> None:
    log.may_end.clear()
    await log.page(1, 2)
    await log.page(2, 3)
    await settle()
    await log.ahead.aclose()
    await log.ahead.aclose()
    assert log.cancelled == [3]
    await log.page(3, 4)
    await settle()
    assert log.read == [3]


async def test_where_nobody_comes_it_runs_out_and_ever_more_pages_are_passed_by(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "_KEPT", 0.0)
    await log.page(0, 1)
    for tick in range(1, 32):
        # Nothing is left of it when its reader comes, because each reads slowly.
        assert await log.page(tick, tick + 1) is None
        await settle()
    assert log.read == [2, 4, 7, 12, 21]


async def test_who_comes_again_in_time_is_read_ahead_for_every_time(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "_KEPT", 0.0)
    for tick in (1, 2):
        await log.page(tick, tick + 1)
    await settle()
    monkeypatch.setattr(read_ahead, "_KEPT", 60.0)
    for tick in range(3, 9):
        await log.page(tick, tick + 1)
        await settle()
    assert log.read == [3, 5, 6, 7, 8, 9]
