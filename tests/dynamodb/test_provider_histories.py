"""Random histories of a table: nothing is lost, each item is in order, and what a trim takes is told."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from typing import assert_never

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from changefeed_gateway.core.pace import Pace
from tests.conformance.client import NOW, after
from tests.dynamodb.consumers import Crew, Follower, PageReader, drain
from tests.dynamodb.ledger import Ledger
from tests.dynamodb.scene import Scene
from tests.dynamodb.server.behaviour import Behaviour
from tests.dynamodb.server.errors import ServiceError, internal, third_reader, throttled
from tests.dynamodb.server.wire import WireServer
from tests.dynamodb.shop import TABLE
from tests.soak import hangs_after, soak_seconds

SECONDS = soak_seconds(8)
"""About as long as one test takes: a history takes two."""

HURRY = Pace(shortest_pause=timedelta(milliseconds=5), longest_pause=timedelta(milliseconds=50))

READING = ("DescribeTable", "DescribeStream", "GetShardIterator", "GetRecords")
"""What the gateway calls; the table's writer is left alone."""

MOST_EMPTY_PAGES = 9
"""Of one shard in a history: ten in a row are what the gateway takes for the end, as the service names no number."""


@dataclass(frozen=True)
class Write:
    """Change some items: each number names an item and what happens to it."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Reshard:
    """Split or rotate an open shard; the listing may lag behind."""

    which: int
    split: bool
    listed: bool
    parent_shown_open: bool


@dataclass(frozen=True)
class Listing:
    """Make the listing stale, on all pages or on the first; or up to date again."""

    held: bool
    first_page_only: bool = False


@dataclass(frozen=True)
class Trouble:
    """Something that the next calls run into."""

    kind: str
    times: int


@dataclass(frozen=True)
class Time:
    """Hours that pass; what is older than a day goes."""

    hours: int
    iterators_age: bool


@dataclass(frozen=True)
class Kill:
    """End the gateway and start another."""


@dataclass(frozen=True)
class Work:
    """Let a consumer read a little."""

    consumer: int
    amount: int


@dataclass(frozen=True)
class Anew:
    """Let the last consumer forget everything and start from now."""


Step = Write | Reshard | Listing | Trouble | Time | Kill | Work | Anew

WORK = st.builds(Work, consumer=st.integers(0, 3), amount=st.integers(1, 9))
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.builds(Write, st.lists(st.integers(0, 99), min_size=1, max_size=12).map(tuple)),
    WORK,
    WORK,
    st.builds(
        Reshard,
        which=st.integers(0, 9),
        split=st.booleans(),
        listed=st.booleans(),
        parent_shown_open=st.booleans(),
    ),
    st.sampled_from([Listing(held=True), Listing(held=True, first_page_only=True), Listing(held=False)]),
    st.builds(
        Trouble,
        kind=st.sampled_from(["throttle", "third reader", "outage", "drop", "cut", "empty", "expire"]),
        times=st.integers(1, 3),
    ),
    st.sampled_from([Kill(), Anew()]),
)
TIMES: st.SearchStrategy[Step] = st.builds(Time, hours=st.sampled_from([1, 6, 13, 25]), iterators_age=st.booleans())


def _listed_split(which: int) -> Reshard:
    return Reshard(which, split=True, listed=True, parent_shown_open=False)


def _listed_rotation(which: int) -> Reshard:
    return Reshard(which, split=False, listed=True, parent_shown_open=False)


_DAY = Time(hours=25, iterators_age=True)
_DAY_OF_READERS = Time(hours=25, iterators_age=False)
UNREAD_FROM_NOW: list[Step] = [Anew(), Write((1, 2)), _DAY, Write((3,)), Kill(), Work(3, 9)]
"""All that came after a now is trimmed, and nothing at that place says so by itself."""
UNREAD_IN_A_CHILD: list[Step] = [
    Write((1,)),
    *(Work(consumer, 9) for consumer in (0, 1, 2)),
    _listed_split(0),
    *(Work(consumer, 9) for consumer in (0, 1, 2)),
    Write((1, 2, 3)),
    _DAY,
    Write((4,)),
    Kill(),
    *(Work(consumer, 9) for consumer in (0, 1, 2)),
]
"""The same before the first record of a child."""
BEHIND_EMPTY_PAGES: list[Step] = [
    Write((1,)),
    Time(hours=6, iterators_age=True),
    Trouble("empty", 2),
    Work(0, 9),
    Time(hours=20, iterators_age=True),
    Write((2,)),
    Kill(),
    Work(0, 9),
]
"""A change that is six hours old lies behind six empty pages when a reader begins, and is trimmed before the next."""
UNREAD_BEHIND_AN_EMPTY_SHARD: list[Step] = [
    _listed_rotation(0),
    Write((1,)),
    Time(hours=6, iterators_age=True),
    Work(2, 1),
    Time(hours=20, iterators_age=True),
    Kill(),
    Write((2,)),
    Work(2, 9),
]
"""A reader begins at a shard that ended empty, drains it, and its child's first change is trimmed before the next."""
BEGUN_WHERE_ANOTHER_STOOD: list[Step] = [Work(0, 9), Write((1,)), _DAY_OF_READERS, Work(1, 9)]
"""The beginning is asked for where the place that another reader called so has been trimmed."""
NOW_WHERE_NOTHING_HAPPENED: list[Step] = [Anew(), _DAY_OF_READERS, Anew(), Kill(), Work(3, 9)]
"""Now is asked for where the tip has been known for a day."""
NOW_WHERE_ANOTHER_CAME_LATE: list[Step] = [Work(3, 9), _DAY, Work(3, 9), Work(0, 9), Anew()]
"""Now is asked for where a reader saw the end a day ago, and one of the same place has just seen it."""
GONE_WITH_ITS_SHARD: list[Step] = [
    _listed_split(0),
    _listed_split(1),
    Time(hours=19, iterators_age=True),
    Work(2, 1),
    _listed_rotation(1),
    Write((1, 2, 3)),
    Time(hours=6, iterators_age=True),
    Kill(),
    Work(2, 9),
]
"""A reader stands in a shard that ended empty, which vanishes: what goes on where it ended cannot be known for sure."""
CHILD_GONE_WITH_ITS_PARENT: list[Step] = [
    _listed_rotation(0),
    _listed_split(0),
    _listed_rotation(0),
    Time(hours=19, iterators_age=True),
    Work(2, 1),
    Write((0, 1, 2, 3, 4)),
    Time(hours=6, iterators_age=True),
    Work(2, 9),
]
"""The gateway knows that the shard ended empty, but one of its two children has vanished, and leads nowhere."""

OPENED_WHERE_ITS_SHARD_HAS_GONE: list[Step] = [
    Reshard(0, split=False, listed=False, parent_shown_open=False),
    Time(hours=13, iterators_age=True),
    Write((1, 2, 3)),
    Time(hours=6, iterators_age=True),
    Listing(held=True, first_page_only=True),
    Work(1, 2),
    Time(hours=6, iterators_age=True),
    Work(1, 9),
]
"""A stream is opened where a shard that ended empty has vanished, and hears of it with the first page."""

# To shrink a history that lost something means to wait in vain again and again, for longer than a test may take. It is
# printed as it was found, with its blob: give it to `@example` and take steps away.
HISTORIES = settings(
    max_examples=ceil(SECONDS / 2),
    phases=[phase for phase in Phase if phase not in (Phase.shrink, Phase.explain)],
    report_multiple_bugs=False,
)

BEHAVIOURS = st.builds(
    Behaviour,
    shards=st.integers(1, 3),
    at_timestamp=st.booleans(),
    exact_times=st.booleans(),
    shard_filter=st.booleans(),
    trimmed_tip_is_error=st.booleans(),
    end_with_last_record=st.booleans(),
)


class History:
    """A table that lives through some steps, with four consumers."""

    def __init__(self, server: WireServer, scene: Scene) -> None:
        self.server = server
        self.scene = scene
        self.ledger = Ledger(server)
        self.consumers: list[PageReader | Crew] = [
            PageReader(scene, self.ledger),
            Follower(scene, self.ledger),
            Crew(scene, self.ledger),
            PageReader(scene, self.ledger),
        ]
        self._items: set[int] = set()
        self._written = 0
        self._empty_pages: Counter[str] = Counter()

    async def begin(self) -> None:
        """Make the table and start the gateway."""
        await self.scene.write(self.scene.shop.create)
        await self.scene.serve()

    async def take(self, step: Step) -> None:
        """Live through a step."""
        match step:
            case Write(numbers):
                await self.scene.write(self._write, numbers)
                self.server.pass_time(timedelta(seconds=2))
            case Reshard():
                self._reshard(step)
            case Listing(held=False):
                self.server.list_everything()
            case Listing(first_page_only=first_page_only):
                self.server.hold_listing(TABLE, first_page_only=first_page_only)
            case Trouble(kind, times):
                self._make_trouble(kind, times)
            case Time(hours, iterators_age):
                # No listing lags behind for hours: nothing would tell a reader of a shard whose parent is gone.
                self.server.list_everything()
                self.server.pass_time(timedelta(hours=hours), iterators_age=iterators_age)
            case Kill():
                await self.scene.restart()
            case Anew():
                await self._start_from_now()
            case Work(consumer, amount):
                await self.consumers[consumer].work(amount)
            case _:
                assert_never(step)

    async def end(self) -> None:
        """Let everything go well, and hold each consumer against what it is owed."""
        self.server.list_everything()
        self.server.clear_faults()
        for consumer in self.consumers:
            await drain(consumer)
            consumer.account.check()

    async def _start_from_now(self) -> None:
        late = self.consumers[3]
        assert isinstance(late, PageReader)
        async with late.handled():
            token = (await self.scene.client.resolve(NOW)).continuation_token
            late.start = after(token)
            late.account.begin(len(self.ledger.history))

    def _write(self, numbers: tuple[int, ...]) -> None:
        for number in numbers:
            item = number % 10
            if number >= 75 and item in self._items:
                self._items.discard(item)
                self.scene.shop.delete(f"p{item % 5}", item)
            else:
                self._items.add(item)
                self._written += 1
                self.scene.shop.put(f"p{item % 5}", item, text={"S": str(self._written)})

    def _reshard(self, step: Reshard) -> None:
        shards = self.server.open_shards(TABLE)
        shard = shards[step.which % len(shards)]
        action = self.server.split if step.split and len(shards) < 8 else self.server.rotate
        action(shard, listed=step.listed, parent_shown_open=step.parent_shown_open)

    def _make_trouble(self, kind: str, times: int) -> None:
        shards = self.server.open_shards(TABLE)
        troubles: dict[str, Callable[[], object]] = {
            "throttle": lambda: self._fail_reading(throttled(), times),
            "third reader": lambda: self.server.fail("GetRecords", third_reader(), times=times),
            "outage": lambda: self._fail_reading(internal(), times),
            "drop": lambda: self._drop_reading(times),
            "cut": lambda: self.server.drop("GetRecords", times=times, in_the_middle=True),
            "empty": lambda: self._send_empty_pages(shards[times % len(shards)], times * 3),
            "expire": self.server.expire_iterators,
        }
        troubles[kind]()

    def _send_empty_pages(self, shard: str, count: int) -> None:
        count = min(count, MOST_EMPTY_PAGES - self._empty_pages[shard])
        if count:
            self._empty_pages[shard] += count
            self.server.empty_pages(shard, count)

    def _fail_reading(self, error: ServiceError, times: int) -> None:
        for call in READING:
            self.server.fail(call, error, times=times)

    def _drop_reading(self, times: int) -> None:
        for call in READING:
            self.server.drop(call, times=times)


async def live_through(steps: list[Step], behaviour: Behaviour) -> None:
    """A history from its first step to its end."""
    with WireServer(behaviour) as server:
        history = History(server, Scene(server, at_timestamp=behaviour.at_timestamp, pace=HURRY))
        try:
            await history.begin()
            for step in steps:
                await history.take(step)
            await history.end()
        finally:
            await history.scene.kill()


@pytest.mark.soak
@pytest.mark.timeout(hangs_after(SECONDS))
@pytest.mark.req("P1", "P2", "P3", "P4", "CF-10")
@HISTORIES
@given(steps=st.lists(STEPS, min_size=10, max_size=50), behaviour=BEHAVIOURS)
async def test_every_change_arrives_in_order_whatever_happens(steps: list[Step], behaviour: Behaviour) -> None:
    await live_through(steps, behaviour)


@pytest.mark.soak
@pytest.mark.timeout(hangs_after(SECONDS))
@pytest.mark.req("P1", "P2", "P6", "CF-08")
@HISTORIES
@given(steps=st.lists(STEPS | TIMES, min_size=10, max_size=50), behaviour=BEHAVIOURS)
@example(steps=UNREAD_FROM_NOW, behaviour=Behaviour())
@example(steps=UNREAD_FROM_NOW, behaviour=Behaviour(at_timestamp=False))
@example(steps=UNREAD_IN_A_CHILD, behaviour=Behaviour())
@example(steps=UNREAD_IN_A_CHILD, behaviour=Behaviour(at_timestamp=False))
@example(steps=BEHIND_EMPTY_PAGES, behaviour=Behaviour())
@example(steps=BEHIND_EMPTY_PAGES, behaviour=Behaviour(at_timestamp=False))
@example(steps=UNREAD_BEHIND_AN_EMPTY_SHARD, behaviour=Behaviour())
@example(steps=UNREAD_BEHIND_AN_EMPTY_SHARD, behaviour=Behaviour(at_timestamp=False))
@example(steps=BEGUN_WHERE_ANOTHER_STOOD, behaviour=Behaviour())
@example(steps=NOW_WHERE_NOTHING_HAPPENED, behaviour=Behaviour())
@example(steps=NOW_WHERE_NOTHING_HAPPENED, behaviour=Behaviour(at_timestamp=False))
@example(steps=NOW_WHERE_ANOTHER_CAME_LATE, behaviour=Behaviour(shards=3, shard_filter=False))
@example(steps=NOW_WHERE_ANOTHER_CAME_LATE, behaviour=Behaviour(shards=3, shard_filter=False, at_timestamp=False))
@example(steps=GONE_WITH_ITS_SHARD, behaviour=Behaviour())
@example(steps=OPENED_WHERE_ITS_SHARD_HAS_GONE, behaviour=Behaviour(at_timestamp=False, shard_filter=False))
@example(steps=CHILD_GONE_WITH_ITS_PARENT, behaviour=Behaviour())
@example(steps=CHILD_GONE_WITH_ITS_PARENT, behaviour=Behaviour(at_timestamp=False))
async def test_what_a_trim_takes_is_told(steps: list[Step], behaviour: Behaviour) -> None:
    await live_through(steps, behaviour)


async def test_the_law_sees_a_change_that_is_missing() -> None:
    """The oracle itself: a consumer that is not told everything does not pass."""
    with WireServer() as server:
        scene = Scene(server)
        await scene.write(scene.shop.create)
        await scene.write(scene.shop.put, "a", 1)
        account = PageReader(scene, Ledger(server)).account
        with pytest.raises(AssertionError, match="1 changes are missing"):
            account.check()
        with pytest.raises(AssertionError, match="history was called gone"):
            account.expired(tips_age=False)
