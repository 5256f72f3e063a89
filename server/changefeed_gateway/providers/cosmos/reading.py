"""Reads one interval for everybody in this process: calls are shared by all who ask for the same."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.pace import Pace
from changefeed_gateway.core.refusals import ForTheCaller
from changefeed_gateway.core.shared import SharedQuestion
from changefeed_gateway.providers.cosmos.container import Container
from changefeed_gateway.providers.cosmos.cursor import Interval, Mode, Position, beginning, number_of
from changefeed_gateway.providers.cosmos.errors import READ_FEED, Refused, expired, unknown
from changefeed_gateway.providers.cosmos.mapping import Document
from changefeed_gateway.providers.cosmos.sdk import FREE, Cost, FeedAnswer, Sdk

MOST_DOCUMENTS: Final = 1_000
"""That one call asks for. A transaction is never cut, so that an answer may have more."""

_LONGEST_LAG: Final = 3_600
"""Seconds by which a replica may lag behind another one."""

_GROWTH: Final = 4
"""Times as many documents are asked for by who goes on where an answer ended."""
_MOST_KEPT: Final = 16_000_000
"""Bytes of answers that are kept, as they came; parsed they take some three times as much."""
_SOON: Final = 10.0
"""Seconds within which who reads on comes for what was kept."""
_AT_ONCE: Final = 4
"""Calls for one interval: readers at different places do not wait for each other."""
_MOST_PLACES: Final = 64
"""Of one interval, whose pauses are known."""


class Fetched(NamedTuple):
    """What one call brought."""

    documents: Sequence[Document]
    etag: str
    at_tip: bool
    """There was nothing more: the service says so, and an answer without documents does not."""
    as_of: int
    """Nothing beyond what was read is older than this; 0 where that was not found out."""
    cost: Cost
    size: int = 0
    """Bytes of the answer."""
    told_at: int = 0
    """When the service answered, epoch seconds of its clock."""
    reached: int = 0
    """The number to which the replica that answered had come; 0 where that was not told."""


class _Kept(NamedTuple):
    origin: str
    """What it answers."""
    fetched: Fetched
    at: float
    """When somebody came last, on the monotonic clock."""


class KeptAnswers:
    """Answers of which readers have taken a part: the newest of each interval, as many as there is room for.

    A call costs the same for a thousand documents as for a hundred. So who goes on where an answer ended is given more
    by the next call, and what does not fit into a page waits here for the next one. While answers go before anybody
    comes for them nobody is given more than a page: it would be asked for again.
    """

    def __init__(self, most: int = _MOST_KEPT) -> None:
        """At most so many bytes."""
        self._most = most
        self._held = 0
        self._answers: OrderedDict[tuple[str, Interval], _Kept] = OrderedDict()
        """By container and interval; who was come for longest ago is first."""
        self._crowded_until = 0.0

    @property
    def crowded(self) -> bool:
        """Whether answers have gone lately that somebody may have come for."""
        return monotonic() < self._crowded_until

    def find(self, rid: str, position: Position) -> Fetched | None:
        """The answer to a position's origin in a container, if it goes further than the position."""
        kept = self._answers.get((rid, position.interval))
        if kept is None or kept.origin != position.origin or len(kept.fetched.documents) <= position.passed:
            return None
        self._answers.move_to_end((rid, position.interval))
        self._answers[rid, position.interval] = kept._replace(at=monotonic())
        return kept.fetched._replace(cost=FREE)

    def keep(self, rid: str, position: Position, fetched: Fetched) -> None:
        """Keep the answer to a position's origin."""
        self._let_go(rid, position.interval)
        now = monotonic()
        self._answers[rid, position.interval] = _Kept(position.origin, fetched, now)
        self._held += fetched.size
        while self._held > self._most:
            oldest = next(iter(self._answers))
            if now < self._answers[oldest].at + _SOON:
                self._crowded_until = now + _SOON
            self._let_go(*oldest)

    def forget(self, rid: str, position: Position) -> None:
        """Let go of the answer to a position's origin; one to another origin is what somebody else reads."""
        kept = self._answers.get((rid, position.interval))
        if kept is not None and kept.origin == position.origin:
            self._let_go(rid, position.interval)

    def _let_go(self, rid: str, interval: Interval) -> None:
        kept = self._answers.pop((rid, interval), None)
        self._held -= kept.fetched.size if kept is not None else 0


class _Idle(NamedTuple):
    """A place where nothing happens."""

    empty_answers: int
    not_before: float
    """When to ask again, on the monotonic clock."""


def lags_no_more(reached_at: int, told_at: int) -> bool:
    """Whether who has not come to a number is no replica that lags: a fail-over has lost what had it.

    Both in epoch seconds: when the number had been reached, 0 where that is not known, and when the lower one was told.
    """
    return bool(reached_at) and told_at - reached_at > _LONGEST_LAG


class IntervalReader:
    """One interval of one container: a range, what is left of one, or a logical partition."""

    def __init__(self, sdk: Sdk, container: Container, interval: Interval, pace: Pace) -> None:
        self.newest = 0
        """The highest number that an answer has told, unless for an hour none has told as high a one."""
        self._newest_at = 0
        """When it was told last, epoch seconds of the service's clock."""
        self._goes_on: tuple[str, int] = ("", 0)
        """Where the last answer that brought all that was asked for ended, and how many that was."""
        self._sdk = sdk
        self._container = container
        self._interval = interval
        self._pace = pace
        self._questions = SharedQuestion[Any](at_once=_AT_ONCE, goes_on=True, foreseen=ForTheCaller)
        self._idle: OrderedDict[str, _Idle] = OrderedDict()
        """By the origin of who stands there."""

    async def now(self) -> tuple[Position, Cost]:
        """After everything that is there."""
        found: tuple[Position, Cost] = await self._questions.ask("now", self._now)
        return found

    async def fetch(self, position: Position, limit: int, *, join: bool = False, more: bool = False) -> Fetched:
        """What follows a position's origin; `join`: a call that is under way will do, which may miss the latest.

        `more`: there is room to keep what goes beyond the limit, for who goes on where an answer ended. Raises
        CheckpointExpired, RangeGone and the errors of the service.
        """
        etag, before = self._goes_on
        if more and position.origin == etag:
            limit = min(MOST_DOCUMENTS, max(limit, _GROWTH * before))
        key = "fetch", position.origin, limit
        fetched: Fetched = await self._questions.ask(key, partial(self._fetch, position, limit), join=join)
        return fetched

    def delay(self, position: Position) -> float:
        """Seconds until it is time to ask again for what follows a position where nothing was."""
        idle = self._idle.get(position.origin)
        return max(0.0, idle.not_before - monotonic()) if idle else 0.0

    def close(self) -> None:
        """End what is under way; who waits is told so."""
        self._questions.close()

    # --- One call

    async def _now(self) -> tuple[Position, Cost]:
        position = beginning(self._interval)
        try:
            answer = await self._ask(position, 1, now=True)
        except Refused as error:
            raise unknown(READ_FEED) from error
        return position.at(answer.etag, 0, self._age(answer)), answer.cost

    async def _fetch(self, position: Position, limit: int) -> Fetched:
        try:
            answer = await self._ask(position, limit)
        except Refused as error:
            if self._container.mode is Mode.LATEST_VERSION or not position.origin:
                raise unknown(READ_FEED) from error
            # Its words are not documented. If now can be read, it is the position that the service refuses.
            await self._now()
            raise expired() from error
        self._note(position, answer)
        as_of = self._age(answer) if answer.at_tip else 0
        if len(answer.documents) >= limit:
            self._goes_on = answer.etag, limit
        return Fetched(
            answer.documents,
            answer.etag,
            answer.at_tip,
            as_of,
            answer.cost,
            answer.size,
            answer.time,
            answer.reached,
        )

    async def _ask(self, position: Position, limit: int, *, now: bool = False) -> FeedAnswer:
        container = self._container
        here = position.narrowed(self._interval)
        answer = await self._sdk.read_feed(container.name, container.rid, container.mode, here, limit, now=now)
        number = number_of(answer.etag)
        if number >= self.newest or answer.time - self._newest_at > _LONGEST_LAG:
            self.newest, self._newest_at = number, answer.time
        return answer

    def _age(self, answer: FeedAnswer) -> int:
        """The latest version of an item does not age."""
        return answer.time if self._container.mode is Mode.ALL_VERSIONS_AND_DELETES else 0

    def _note(self, position: Position, answer: FeedAnswer) -> None:
        before = self._idle.pop(position.origin, None)
        if not answer.at_tip:
            return
        empty = before.empty_answers + 1 if before else 1
        self._idle[answer.etag] = _Idle(empty, monotonic() + self._pace.pause(empty))
        if len(self._idle) > _MOST_PLACES:
            self._idle.popitem(last=False)
