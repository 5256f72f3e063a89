"""The ticker without a database: who is asked, when, and who hears of it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVarTuple

import pytest
import structlog

from changefeed_gateway.core.errors import InternalFailure, NotFound, TransientFailure
from changefeed_gateway.core.supervision import Supervisor
from changefeed_gateway.providers.postgres.ticks.bell import Bell
from changefeed_gateway.providers.postgres.ticks.tick import Tick
from changefeed_gateway.providers.postgres.ticks.ticker import Cadence, TickAnswer, Ticker
from tests.virtual_time import VirtualTime, in_leaping_time

BRISK = Cadence(
    interval=timedelta(milliseconds=1),
    shortest_poll=timedelta(milliseconds=1),
    longest_poll=timedelta(milliseconds=8),
    quiet_poll=timedelta(milliseconds=100),
    lone_poll=timedelta(milliseconds=100),
    outage_patience=timedelta(milliseconds=300),
)

LONE = replace(BRISK, lone_poll=timedelta(minutes=1))


def tick(number: int) -> Tick:
    return Tick(number, 1, 1, frozenset(), number, 1, datetime(2026, 1, 1, tzinfo=UTC))


class Database:
    """Answers as told, and counts."""

    def __init__(self) -> None:
        self.newest = 1
        self.quiet = True
        self.error: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.asked = 0
        self.answered = 0
        self.under_way = 0
        self._went_on = asyncio.Condition()

    async def ask(self) -> TickAnswer:
        assert self.under_way == 0, "one question at a time"
        self.under_way += 1
        self.asked += 1
        await self._tell()
        try:
            await asyncio.sleep(0)
            if self.hold is not None:
                await self.hold.wait()
            if self.error is not None:
                raise self.error
            self.answered += 1
            await self._tell()
            return TickAnswer(tick(self.newest), self.quiet)
        finally:
            self.under_way -= 1

    async def _tell(self) -> None:
        async with self._went_on:
            self._went_on.notify_all()

    async def until_asked(self, condition: Callable[[int], bool]) -> None:
        async with self._went_on, asyncio.timeout(30):
            await self._went_on.wait_for(lambda: condition(self.asked))

    async def until_answered(self, number: int) -> None:
        async with self._went_on, asyncio.timeout(30):
            await self._went_on.wait_for(lambda: self.answered == number)


@asynccontextmanager
async def ticking(cadence: Cadence = BRISK) -> AsyncIterator[tuple[Database, Ticker]]:
    database = Database()
    supervisor = Supervisor(first_pause=timedelta(milliseconds=1))
    ticker = Ticker(database.ask, cadence, supervisor, "ticks")
    try:
        yield database, ticker
    finally:
        await ticker.aclose()


@in_leaping_time
async def test_a_ring_wakes_all_who_wait_with_one_question() -> None:
    async with ticking() as (database, ticker):
        waiting = [asyncio.create_task(ticker.wait(1, 5)) for _ in range(50)]
        await database.until_asked(lambda asked: asked == 1)
        await asyncio.sleep(0.02)
        assert database.asked == 1
        database.newest = 2
        ticker.ring()
        assert {answer.id for answer in await asyncio.gather(*waiting) if answer} == {2}
        assert database.asked == 2


_Arguments = TypeVarTuple("_Arguments")


class _Counting(VirtualTime):
    """Counts what is put into its turns."""

    steps = 0

    def call_soon(
        self, callback: Callable[[*_Arguments], object], *args: *_Arguments, context: Context | None = None
    ) -> asyncio.Handle:
        self.steps += 1
        return super().call_soon(callback, *args, context=context)


class _Bells(_Counting):
    """A gateway whose database answers at once, and arms the bell as the change log does."""

    def __init__(self) -> None:
        super().__init__()
        self.newest = 1
        self.bell = Bell(lambda: True)
        self.asked = 0
        self.ticker = Ticker(self.ask, Cadence(), Supervisor(), "ticks", self.bell)

    async def ask(self) -> TickAnswer:
        orders = self.bell.orders()
        self.asked += 1
        known = self.newest if self.ticker.newest is None else self.ticker.newest.id
        self.bell.obeyed(orders, armed=orders.arm and self.newest - known <= 1)
        return TickAnswer(tick(self.newest), True)

    async def change(self, count: int = 1) -> tuple[int, int]:
        """Changes that ring after silence; the steps of the loop until a reader has them, and the questions."""
        steps = 0

        async def read() -> None:
            nonlocal steps
            await self.ticker.wait(self.newest, 60)
            steps = self.steps

        reading = asyncio.create_task(read())
        await self.pass_time(1.0)
        assert not self.bell.silent
        asked, before = self.asked, self.steps
        self.newest += count
        self.ticker.ring(1000)
        await self.turns()
        assert reading.done()
        await self.pass_time(0.01)
        return steps - before, self.asked - asked

    async def pass_time(self, seconds: float) -> None:
        await self.turns()
        self.now += seconds
        await self.turns()


@pytest.mark.req("P8")
def test_a_change_after_silence_costs_one_question_and_wakes_its_reader_in_two_steps() -> None:
    loop = _Bells()

    async def scenario() -> None:
        await loop.change()
        for _ in range(5):
            steps, questions = await loop.change()
            # As many turns are the test's own.
            assert steps <= 4
            assert questions == 1, "and none that arms the bell afterwards"
        await loop.ticker.aclose()

    loop.run(scenario())


@pytest.mark.req("P8")
def test_after_several_changes_it_looks_once_more_before_it_lets_anybody_ring() -> None:
    loop = _Bells()

    async def scenario() -> None:
        await loop.change()
        for _ in range(5):
            _, questions = await loop.change(7)
            assert questions == 2
        await loop.ticker.aclose()

    loop.run(scenario())


@pytest.mark.req("P1")
def test_the_newest_tick_has_all_changes_up_to_a_number_only_where_that_is_known_and_for_a_while() -> None:
    loop = VirtualTime()
    complete = True

    async def ask() -> TickAnswer:
        return TickAnswer(tick(1), quiet=False, numbers_complete=complete)

    async def scenario() -> None:
        nonlocal complete
        ticker = Ticker(ask, Cadence(), Supervisor(), "ticks")
        assert ticker.with_numbers(1) is None, "nobody has asked"
        newest = await ticker.refresh()
        assert ticker.with_numbers(1) is newest
        assert ticker.with_numbers(2) is None, "another number was drawn"
        loop.now += 1.9
        assert ticker.with_numbers(1) is newest
        loop.now += 0.2
        assert ticker.with_numbers(1) is None, "who asks makes the ticks of a feed where nothing happens"
        await ticker.refresh()
        ticker.forget()
        assert ticker.with_numbers(1) is None, "the database may have lost it"
        complete = False
        await ticker.refresh()
        assert ticker.with_numbers(1) is None, "a transaction that drew a number is under way"
        await ticker.aclose()

    loop.run(scenario())


@pytest.mark.req("P8")
def test_while_changes_follow_each_other_closely_nobody_rings() -> None:
    loop = _Bells()
    gap, interval = 0.005, 0.002

    async def scenario() -> None:
        reading = asyncio.create_task(_read_all(loop))
        await loop.pass_time(1.0)
        rings = 0
        for _ in range(50):
            asked = loop.asked
            loop.newest += 1
            if not loop.bell.silent:
                rings += 1
                loop.ticker.ring(1000)
            for _ in range(round(gap / interval * 10)):
                await loop.pass_time(interval / 10)
            assert loop.ticker.newest is not None
            assert loop.ticker.newest.id == loop.newest, "found at the next interval"
            assert loop.asked - asked <= 1 + gap / interval
        assert rings <= 3, "until it is known that they follow each other"
        for _ in range(20):
            await loop.pass_time(interval)
        assert not loop.bell.silent, "it sleeps, and is woken"
        asked = loop.asked
        await loop.pass_time(1.0)
        assert loop.asked == asked
        await loop.ticker.aclose()
        reading.cancel()

    loop.run(scenario())


async def _read_all(loop: _Bells) -> None:
    seen = 0
    while (found := await loop.ticker.wait(seen, 60)) is not None:
        seen = found.id


@in_leaping_time
async def test_the_safety_poll_finds_what_no_ring_told() -> None:
    async with ticking() as (database, ticker):
        waiting = asyncio.create_task(ticker.wait(1, 5))
        await database.until_asked(lambda asked: asked == 1)
        database.newest = 2
        assert await waiting == tick(2)


@pytest.mark.parametrize(
    ("last_seq", "topology", "heard"), [(2, 0, True), (0, 0, True), (-1, 0, True), (1, 2, True), (1, 0, False)]
)
@in_leaping_time
async def test_a_quiet_feed_asks_once_its_sequence_shows_something_else(
    last_seq: int, topology: int, heard: bool
) -> None:
    async with ticking(LONE) as (database, ticker):
        waiting = asyncio.create_task(ticker.wait(1, 5))
        await database.until_asked(lambda asked: asked == 1)
        for _ in range(20):
            await asyncio.sleep(0.01)
            ticker.compare(1, 0, asyncio.get_running_loop().time(), heard=True)
        assert database.asked == 1
        database.newest = 2
        ticker.compare(last_seq, topology, asyncio.get_running_loop().time(), heard=heard)
        assert await waiting == tick(2)


@in_leaping_time
async def test_an_empty_wait_rests_on_what_was_seen_of_the_sequence() -> None:
    """Without an answer for so long it would be a failure."""
    async with ticking(LONE) as (database, ticker):
        await ticker.refresh()
        waiting = [asyncio.create_task(ticker.wait(1, 0.4)) for _ in range(2)]
        await database.until_answered(2)
        database.error = TransientFailure("away")
        await asyncio.sleep(0.1)
        ticker.compare(1, 0, asyncio.get_running_loop().time(), heard=True)
        assert await asyncio.gather(*waiting) == [None, None]
        assert await ticker.recent() == tick(1)


@in_leaping_time
async def test_outstanding_changes_are_polled_fast_and_then_slower() -> None:
    async with ticking() as (database, ticker):
        database.quiet = False
        begin = asyncio.get_running_loop().time()
        assert await ticker.wait(1, 1) is None
        took = asyncio.get_running_loop().time() - begin
        assert 5 < database.asked <= took / 0.001
        assert database.asked <= 6 + took / 0.008


@in_leaping_time
async def test_with_nobody_there_nothing_runs() -> None:
    async with ticking() as (database, ticker):
        assert await ticker.wait(1, 0.01) is None
        await asyncio.sleep(0.25)
        asked = database.asked
        ticker.ring()
        await asyncio.sleep(0.25)
        assert database.asked == asked
        database.newest = 2
        assert await ticker.wait(1, 1) == tick(2)


@in_leaping_time
async def test_an_answer_is_not_shared_with_who_asked_after_the_question() -> None:
    async with ticking() as (database, ticker):
        database.hold = asyncio.Event()
        early = asyncio.create_task(ticker.refresh())
        await database.until_asked(lambda asked: asked == 1)
        late = [asyncio.create_task(ticker.refresh()) for _ in range(20)]
        await asyncio.sleep(0.01)
        assert database.asked == 1
        hold, database.hold = database.hold, None
        hold.set()
        assert await early == tick(1)
        assert await asyncio.gather(*late) == [tick(1)] * 20
        assert database.asked == 2


@in_leaping_time
async def test_a_cancelled_question_goes_on_for_the_others() -> None:
    async with ticking() as (database, ticker):
        database.hold = asyncio.Event()
        first = asyncio.create_task(ticker.refresh())
        second = asyncio.create_task(ticker.refresh())
        await database.until_asked(lambda asked: asked == 1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        database.hold.set()
        assert await second == tick(1)


async def test_recent_asks_only_when_the_answer_is_old() -> None:
    async with ticking() as (database, ticker):
        assert await ticker.recent() == await ticker.recent() == tick(1)
        assert database.asked == 1
        await ticker.recent(0)
        assert database.asked == 2


@in_leaping_time
async def test_ticks_keep_their_interval() -> None:
    cadence = Cadence(interval=timedelta(milliseconds=200))
    async with ticking(cadence) as (database, ticker):
        begin = asyncio.get_running_loop().time()
        for number in range(2, 5):
            database.newest = number
            await ticker.refresh()
        assert asyncio.get_running_loop().time() - begin >= 0.399


@in_leaping_time
async def test_a_question_that_made_no_tick_delays_nobody() -> None:
    interval = timedelta(seconds=1)
    async with ticking(Cadence(interval=interval)) as (_, ticker):
        for _ in range(2):
            await ticker.refresh()
        begin = asyncio.get_running_loop().time()
        await ticker.refresh()
        assert asyncio.get_running_loop().time() - begin < interval.total_seconds()


@in_leaping_time
async def test_an_outage_is_sat_out() -> None:
    async with ticking() as (database, ticker):
        database.error = TransientFailure("away")
        waiting = asyncio.create_task(ticker.wait(1, 5))
        refreshing = asyncio.create_task(ticker.refresh())
        await database.until_asked(lambda asked: asked >= 2)
        database.error, database.newest = None, 2
        assert await waiting == await refreshing == tick(2)


@in_leaping_time
async def test_an_outage_surfaces_when_the_reads_own_time_is_over() -> None:
    async with ticking() as (database, ticker):
        database.error = TransientFailure("away")
        with pytest.raises(TransientFailure):
            await ticker.wait(1, 0.25)


async def test_an_outage_surfaces_when_patience_is_over() -> None:
    async with ticking() as (database, ticker):
        database.error = TransientFailure("away")
        async with asyncio.timeout(30):
            with pytest.raises(TransientFailure, match="away"):
                await ticker.wait(1, 60)
            with pytest.raises(TransientFailure, match="away"):
                await ticker.refresh()


@in_leaping_time
async def test_a_database_that_never_answers_is_not_an_empty_feed() -> None:
    async with ticking() as (database, ticker):
        database.hold = asyncio.Event()
        with pytest.raises(TransientFailure):
            await ticker.wait(1, 0.25)


@in_leaping_time
async def test_what_will_not_pass_surfaces_at_once() -> None:
    async with ticking() as (database, ticker):
        database.error = NotFound("gone")
        async with asyncio.timeout(30):
            with pytest.raises(NotFound):
                await ticker.wait(1, 60)
            with pytest.raises(NotFound):
                await ticker.refresh()
        database.error, database.newest = None, 2
        assert await ticker.wait(1, 5) == tick(2)


@in_leaping_time
async def test_a_fault_in_asking_is_told_to_who_waits_and_asking_goes_on() -> None:
    async with ticking() as (database, ticker):
        database.error = KeyError("nobody foresaw it")
        async with asyncio.timeout(30):
            with pytest.raises(InternalFailure) as caught:
                await ticker.wait(1, 60)
            assert isinstance(caught.value.__cause__, KeyError)
            waiting = [asyncio.create_task(ticker.wait(1, 60)) for _ in range(3)]
            await database.until_asked(lambda asked: asked >= 3)
            database.error, database.newest = None, 2
            answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(answer == tick(2) or isinstance(answer, InternalFailure) for answer in answers)
        assert await ticker.wait(1, 60) == tick(2)


@in_leaping_time
async def test_who_shares_a_question_that_is_closed_is_told_to_come_again() -> None:
    """A feed that is made anew closes what other calls are waiting for."""
    async with ticking() as (database, ticker):
        database.hold = asyncio.Event()
        sharing = [asyncio.create_task(ticker.refresh()) for _ in range(3)]
        await database.until_asked(lambda asked: asked == 1)
        late = asyncio.create_task(ticker.refresh())
        waiting = asyncio.create_task(ticker.wait(1, 60))
        await asyncio.sleep(0)
        await ticker.aclose()
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*sharing, late, waiting, return_exceptions=True)
        assert [getattr(answer, "reason", answer) for answer in answers] == ["DRAINING"] * 5
        assert all(isinstance(answer, TransientFailure) and answer.retry_after for answer in answers)


@in_leaping_time
async def test_a_closed_ticker_asks_nothing_any_more() -> None:
    async with ticking() as (database, ticker):
        await ticker.aclose()
        for read in (ticker.refresh(), ticker.recent(), ticker.wait(1, 60)):
            with pytest.raises(TransientFailure) as caught:
                await read
            assert caught.value.reason == "DRAINING"
        assert database.asked == 0


@in_leaping_time
async def test_a_close_that_is_cancelled_has_sent_everybody_away() -> None:
    async with ticking() as (database, ticker):
        database.hold = asyncio.Event()
        waiting = asyncio.create_task(ticker.wait(1, 60))
        await database.until_asked(lambda asked: asked == 1)
        closing = asyncio.create_task(ticker.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(TransientFailure):
                await waiting


@in_leaping_time
async def test_rings_that_bring_nothing_are_answered_at_the_pace_of_polls() -> None:
    """Every login may ring: a flood of it makes no flood of questions."""
    cadence = replace(LONE, longest_poll=timedelta(milliseconds=100))
    async with ticking(cadence) as (database, ticker):
        waiting = asyncio.create_task(ticker.wait(1, 60))
        end = asyncio.get_running_loop().time() + 1
        while asyncio.get_running_loop().time() < end:
            ticker.ring()
            await asyncio.sleep(0.0002)
        assert database.asked <= 30
        database.newest = 2
        ticker.ring()
        async with asyncio.timeout(10):
            assert await waiting == tick(2)


@in_leaping_time
async def test_what_asks_for_everybody_knows_nothing_of_who_came_first() -> None:
    found: list[dict[str, object]] = []

    async def ask() -> TickAnswer:
        found.append(structlog.contextvars.get_contextvars())
        return TickAnswer(tick(1), True)

    supervisor = Supervisor()
    ticker = Ticker(ask, BRISK, supervisor, "ticks")
    with structlog.contextvars.bound_contextvars(request_id="somebody's"):
        await ticker.refresh()
        await ticker.wait(1, 0.05)
    assert len(found) >= 2
    assert not any(found)
    await ticker.aclose()
