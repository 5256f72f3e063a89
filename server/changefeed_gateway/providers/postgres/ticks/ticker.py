"""Makes the ticks of one feed while somebody waits for changes, and wakes all who wait by one event."""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

from changefeed_gateway.core.cancellation import cut_short
from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import ChangeFeedError, InternalFailure, Reason, TransientFailure
from changefeed_gateway.core.shared import SharedQuestion
from changefeed_gateway.core.supervision import Done, LongTask, Supervisor
from changefeed_gateway.providers.postgres.ticks.bell import Bell
from changefeed_gateway.providers.postgres.ticks.tick import Tick

_T = TypeVar("_T")

FOR_A_TICK: Final = timedelta(seconds=5)
"""Time to answer for a statement that takes a millisecond; then it is asked anew."""

_LINGER: Final = 0.05
"""Seconds for which ticks go on after the last waiter left: it is usually reading and soon back."""

_NUMBERS_COMPLETE_FOR: Final = 2.0
"""Seconds; ticks of a feed where nothing happens are made by those who ask, so that tokens do not age."""
_AWAKE_FOR: Final = 5
"""Intervals. Changes that follow each other sooner are looked for at every interval, and nobody rings: a few questions
then find nothing, which costs less than as many rings of writers."""

STALLED_AFTER: Final = 2.5
"""Times `Cadence.quiet_poll` without an answer to a question."""
_FORGOTTEN_AFTER: Final = 3.0
"""Seconds without anybody who wants an answer."""


class TickAnswer(NamedTuple):
    """What asking for a tick brought."""

    newest: Tick
    quiet: bool
    """Nothing is outstanding: only a new sequence number can bring news."""
    complete_to: datetime | None = None
    """Everything committed before it belongs to the newest tick or an earlier one; None where that is not known."""
    numbers_complete: bool = False
    """The newest tick sees whatever drew a number up to its own, and has or will have committed."""


Ask = Callable[[], Awaitable[TickAnswer]]
"""Asks the database for a tick, which it makes only if there is something for it to bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """How often ticks are asked for."""

    interval: timedelta = timedelta(milliseconds=2)
    """From the start of one that was made to the start of the next; from an answer with news to the next question."""
    shortest_poll: timedelta = timedelta(microseconds=500)
    longest_poll: timedelta = timedelta(milliseconds=50)
    quiet_poll: timedelta = timedelta(seconds=1)
    """How often the sequences of quiet feeds are looked at: the safety net under the doorbell."""
    lone_poll: timedelta = timedelta(seconds=60)
    """A quiet feed asks for itself at least so often: no sequence shows that its newest tick grows old."""
    outage_patience: timedelta = timedelta(seconds=10)
    """How long a failing database is sat out."""


class Ticker:
    """One a feed and process, shared by all its readers; one question to the database is under way at a time."""

    def __init__(self, ask: Ask, cadence: Cadence, supervisor: Supervisor, name: str, bell: Bell | None = None) -> None:
        """`name` is what the task that asks is called by `supervisor`; `bell` is armed by `ask`, as it orders."""
        self.newest: Tick | None = None
        self.questions = self.ticks = 0
        """Questions so far, and ticks that they brought."""
        self._asking = 0
        """Those who want a new answer, and do not wait for news."""
        self._unanswered_since: float | None = None
        self._left_at = 0.0
        self._complete = (0, datetime.min.replace(tzinfo=UTC))
        self._supervisor, self._name = supervisor, name
        self._bell = bell or Bell(lambda: False)
        self._closed = False
        self._cadence = cadence
        self._question = SharedQuestion[TickAnswer](goes_on=True)
        self._ask = ask
        self._awake_for = _AWAKE_FOR * cadence.interval.total_seconds()
        self._news_at = -math.inf
        self._not_before = 0.0
        self._answered_at = 0.0
        self._quiet = False
        self._numbers_complete_until = 0.0
        """Until when the newest tick is taken to have all changes up to its number."""
        self._rung = False
        self._rest_is_over: asyncio.Future[None] | None = None
        self._hearing: set[asyncio.Future[ChangeFeedError | bool]] = set()
        self._waiting = 0
        self._linger_until = 0.0
        self._loop: LongTask | None = None

    def ring(self, value: int = 0) -> None:
        """Say that there may be news: whoever waits is served at once. `value` is what a bell had that rang."""
        self._bell.hear(value)
        self._rung = True
        self._end_rest()

    @property
    def waiting(self) -> bool:
        """Whether anybody waits for news."""
        return self._waiting > 0

    @property
    def silence(self) -> float:
        """Seconds for which somebody wants an answer and the database has given none; 0 when nobody does."""
        since = self._unanswered_since
        return monotonic() - since if since is not None and (self._waiting or self._asking) else 0.0

    @property
    def stalled(self) -> bool:
        """Whether that is longer than any feed is left alone: even a quiet one is looked at in every `quiet_poll`."""
        return self.silence >= STALLED_AFTER * self._cadence.quiet_poll.total_seconds()

    def complete_to(self, tick: int) -> datetime | None:
        """A time before which everything committed belongs to a tick or an earlier one; None where none is known."""
        known, time = self._complete
        return time if known == tick else None

    def compare(
        self, last_seq: int, topology: int, at: float, *, heard: bool, database_time: datetime | None = None
    ) -> None:
        """Take in what was seen from outside: the sequence's last number, the last change of partitions, and when.

        A quiet feed rests on it: it is as good as an answer, or a ring where it differs or rings are not heard.
        """
        if not self._quiet or self.newest is None:
            return
        if heard and last_seq == self.newest.last_seq and topology <= self.newest.id:
            self._answered_at = max(self._answered_at, at)
            # It may have been on its way while a later answer came.
            if database_time is not None and (self.newest.id, database_time) > self._complete:
                self._complete = (self.newest.id, database_time)
        else:
            self.ring()

    async def refresh(self) -> Tick:
        """The newest tick, once everything committed before the call has one.

        Raises the errors of `ask`; passing ones only when the outage's patience is over.
        """
        self._come()
        self._asking += 1
        try:
            return (await self._ask_patiently()).newest
        finally:
            self._asking -= 1
            self._left_at = monotonic()

    def _come(self) -> None:
        """Whoever comes after a while knows nothing of a question that failed before."""
        if not (self._waiting or self._asking) and monotonic() - self._left_at > _FORGOTTEN_AFTER:
            self._unanswered_since = None

    async def recent(self, seconds: float = 2.0) -> Tick:
        """The newest tick as of some seconds ago at most."""
        if self.newest is not None and monotonic() - self._answered_at <= seconds:
            return self.newest
        return await self.refresh()

    def with_numbers(self, number: int) -> Tick | None:
        """The newest tick, if it has every change up to a number, whatever commits from now on; else None."""
        newest = self.newest
        return newest if newest and newest.last_seq == number and monotonic() < self._numbers_complete_until else None

    def forget(self) -> None:
        """What was known of the newest tick may not be so any more."""
        self._numbers_complete_until = 0.0
        self._answered_at = -math.inf

    async def wait(self, seen: int, seconds: float) -> Tick | None:
        """The first tick known beyond `seen`; None when the time is over before there is one.

        Raises TransientFailure when the database did not answer within the time or within the outage's patience, or
        the ticker is closed, and at once what will not pass.
        """
        begin = monotonic()
        self._come()
        self._waiting += 1
        try:
            while self.newest is None or self.newest.id <= seen:
                self._follow()
                if not await self._hear(begin + seconds):
                    self._check_answered(begin)
                    return None
            return self.newest
        finally:
            self._waiting -= 1
            self._left_at = monotonic()
            self._linger_until = self._left_at + _LINGER

    async def _hear(self, until: float) -> bool:
        """Wait for the next tick; whether there was one before a time of the clock. Raises the error that was told."""
        told: asyncio.Future[ChangeFeedError | bool] = asyncio.get_running_loop().create_future()
        timer = asyncio.get_running_loop().call_at(until, _resolve, told, False)
        self._hearing.add(told)
        try:
            news = await told
        finally:
            timer.cancel()
            self._hearing.discard(told)
        if isinstance(news, ChangeFeedError):
            raise news
        return news

    async def aclose(self) -> None:
        """Stop asking, and send away whoever waits; idempotent."""
        # All of it at once: who closes may be cancelled while it waits for the rest.
        self._closed = True
        if self._loop is not None:
            self._loop.cancel()
        self._question.close()
        self._tell(cut_short())
        await self._question.aclose()
        if self._loop is not None:
            await self._loop.aclose()

    async def _ask_and_tell(self) -> TickAnswer:
        begin = monotonic()
        if begin < self._not_before:
            await asyncio.sleep(self._not_before - begin)
            begin = monotonic()
        self.questions += 1
        if self._unanswered_since is None:
            self._unanswered_since = begin
        if begin - self._news_at >= self._awake_for:
            self._bell.needless = False
        answer = await self._ask()
        self._answered_at, self._quiet, self._unanswered_since = monotonic(), answer.quiet, None
        self._numbers_complete_until = begin + _NUMBERS_COMPLETE_FOR if answer.numbers_complete else 0.0
        if answer.complete_to is not None:
            self._complete = (answer.newest.id, answer.complete_to)
        if answer.newest != self.newest:
            self._not_before = begin + self._cadence.interval.total_seconds()
            self._bell.needless = self._answered_at - self._news_at < self._awake_for
            self._news_at = self._answered_at
            self.newest = answer.newest
            self.ticks += 1
            self._tell(True)
        return answer

    def _tell(self, what: ChangeFeedError | bool) -> None:
        for told in self._hearing:
            _resolve(told, what)

    def _check_answered(self, begin: float) -> None:
        """An empty answer is a statement about the database, so the database must have made it."""
        if self._answered_at < begin and monotonic() - begin >= 2 * self._cadence.quiet_poll.total_seconds():
            raise TransientFailure(
                "PostgreSQL did not answer while the read waited: try again",
                reason=Reason.PROVIDER_TIMEOUT,
                retry_after=self._cadence.quiet_poll,
            )

    def _follow(self) -> None:
        if self._closed:
            raise cut_short()
        if self._loop is None or not self._loop.running:
            self._loop = self._supervisor.keep(self._name, self._ask_while_waiting)

    async def _ask_patiently(self, *, again_and_again: bool = False) -> TickAnswer:
        try:
            # The usual case, without the cost of counting attempts.
            return await (self._ask_here() if again_and_again else self._ask_once())
        except TransientFailure:
            if self._closed:
                raise
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, TransientFailure) and not self._closed),
            wait=wait_exponential_jitter(multiplier=0.05, max=1.0, jitter=0.1),
            stop=stop_after_delay(self._cadence.outage_patience.total_seconds()),
            reraise=True,
        )
        return await retrying(self._ask_once)

    async def _ask_once(self) -> TickAnswer:
        if self._closed:
            raise cut_short()
        return await self._question.ask(None, self._ask_and_tell)

    async def _ask_here(self) -> TickAnswer:
        if self._closed:
            raise cut_short()
        return await self._question.ask_here(None, self._ask_and_tell)

    async def _ask_while_waiting(self, done: Done) -> None:
        try:
            await self._ask_and_rest(done)
        except Exception as error:
            # Who waits would hear of nothing until the next start.
            failure = InternalFailure("the ticks of a feed failed unexpectedly")
            failure.__cause__ = error
            self._tell(failure)
            raise

    async def _ask_and_rest(self, done: Done) -> None:
        self._bell.want(True)
        try:
            await self._go_on_asking(done)
        finally:
            self._bell.want(False)

    async def _go_on_asking(self, done: Done) -> None:
        shortest = self._cadence.shortest_poll.total_seconds()
        longest = self._cadence.longest_poll.total_seconds()
        interval = self._cadence.interval.total_seconds()
        poll = idle_ring = shortest
        while self._waiting or monotonic() < self._linger_until:
            before, rung, begin = self.newest, self._rung, monotonic()
            self._rung = False
            try:
                answer = await self._ask_patiently(again_and_again=True)
            except ChangeFeedError as error:
                self._tell(error)
                if self._closed or not error.retryable:
                    return
                continue
            done()
            news = answer.newest != before
            poll = shortest if rung or news else min(2 * poll, longest)
            if rung and not news:
                # Anybody may ring: bells that bring nothing are answered no faster than by polling.
                await asyncio.sleep(begin + idle_ring - monotonic())
                idle_ring = min(2 * idle_ring, longest)
            elif news:
                idle_ring = shortest
            pause = self._lone_poll() if answer.quiet else poll
            if self._bell.silent and (news or answer.quiet):
                # Awake until a question finds one change or none, and has armed the bell: so nobody rings under load.
                pause = interval
            elif self._bell.silent and self._bell.needless:
                pause = min(pause, interval)
            if not self._rung:
                await self._rest(pause)

    def _lone_poll(self) -> float:
        """Seconds; drawn, so that feeds that began together do not ask together."""
        return random.uniform(0.5, 1) * self._cadence.lone_poll.total_seconds()  # noqa: S311

    async def _rest(self, seconds: float) -> None:
        """Pause until the bell rings."""
        loop = asyncio.get_running_loop()
        self._rest_is_over = loop.create_future()
        timer = loop.call_later(seconds, self._end_rest)
        try:
            await self._rest_is_over
        finally:
            timer.cancel()
            self._rest_is_over = None

    def _end_rest(self) -> None:
        if self._rest_is_over is not None:
            _resolve(self._rest_is_over, None)


def _resolve(future: "asyncio.Future[_T]", what: _T) -> None:
    """Unless it is resolved already: two may come in one turn of the loop."""
    if not future.done():
        future.set_result(what)
