"""Random histories of a container, in both modes: nothing is lost, each item is in order, and a trim is told."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from typing import assert_never

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from changefeed_gateway.core.pace import Pace
from changefeed_gateway.providers.cosmos.cursor import Mode
from tests.cosmos.consumers import Crew, Follower, PageReader, drain
from tests.cosmos.ledger import Ledger
from tests.cosmos.scene import THINGS, Scene
from tests.cosmos.server.behaviour import Behaviour
from tests.cosmos.server.errors import ServiceError, gone, internal, retry_with, throttled
from tests.cosmos.server.faults import Kind
from tests.cosmos.server.wire import WireServer
from tests.soak import hangs_after, soak_seconds

SECONDS = soak_seconds(4)
"""About as long as one test takes: a history takes two."""

HURRY = Pace(shortest_pause=timedelta(milliseconds=5), longest_pause=timedelta(milliseconds=50))

READING = ("ReadContainer", "ReadPartitionKeyRanges", "ReadChangeFeed")
"""What the gateway calls."""


@dataclass(frozen=True)
class Write:
    """Change some items: each number names an item and what happens to it."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Change some items of one logical partition in one transaction, an item several times perhaps."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Split:
    """Put two ranges in the place of one."""

    which: int


@dataclass(frozen=True)
class Merge:
    """Put one range in the place of two neighbours, where the mode can be read across that."""

    which: int


@dataclass(frozen=True)
class Trouble:
    """Something that the next calls run into."""

    kind: str
    times: int


@dataclass(frozen=True)
class Trim:
    """Let the retention pass."""


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
    """Let a consumer forget everything and start from now."""

    consumer: int


Step = Write | Batch | Split | Merge | Trouble | Trim | Kill | Work | Anew

NUMBERS = st.lists(st.integers(0, 99), min_size=1, max_size=12).map(tuple)
WORK = st.builds(Work, consumer=st.integers(0, 2), amount=st.integers(1, 9))
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.builds(Write, NUMBERS),
    st.builds(Batch, NUMBERS),
    WORK,
    WORK,
    st.builds(Split, which=st.integers(0, 9)),
    st.builds(Merge, which=st.integers(0, 9)),
    st.builds(
        Trouble,
        kind=st.sampled_from(["throttle", "outage", "conflict", "moved", "drop", "cut", "empty", "previous"]),
        times=st.integers(1, 3),
    ),
    st.just(Kill()),
    st.builds(Anew, consumer=st.integers(0, 2)),
)

BATCH_LARGER_THAN_A_PAGE: list[Step] = [
    Batch(tuple(range(0, 60, 5))),
    *(Work(consumer, 1) for consumer in (0, 1, 2)),
    Split(0),
    Kill(),
    *(Work(consumer, 2) for consumer in (0, 1, 2)),
]
"""A transaction is told in several pages, and its range splits between two of them."""
SPLIT_BEFORE_ANYTHING_WAS_READ: list[Step] = [Write((1, 2, 3, 4, 5)), Split(0), Split(0), Kill(), Work(2, 9)]
"""Children have children of their own before the first call."""
MERGED_BEHIND_A_SPLIT: list[Step] = [
    Split(0),
    Write((1, 2, 3, 4, 5, 6)),
    Work(0, 2),
    Work(2, 1),
    Merge(0),
    Write((1, 2, 3)),
    Kill(),
    Work(0, 9),
    Work(2, 9),
    Split(0),
    Write((4, 5, 6)),
]
"""Readers of two ranges go on in one that was made of them, and through its split."""

# To shrink a history that lost something means to wait in vain again and again, for longer than a test may take. It is
# printed as it was found, with its blob: give it to `@example` and take steps away.
HISTORIES = settings(
    max_examples=ceil(SECONDS / 2),
    phases=[phase for phase in Phase if phase not in (Phase.shrink, Phase.explain)],
    report_multiple_bugs=False,
)


class History:
    """A container that lives through some steps, with three consumers."""

    def __init__(self, server: WireServer, scene: Scene, mode: Mode) -> None:
        self.server = server
        self.scene = scene
        self.mode = mode
        self.ledger = Ledger(server, mode)
        self.consumers: list[PageReader | Crew] = [
            PageReader(scene, self.ledger),
            Follower(scene, self.ledger),
            Crew(scene, self.ledger),
        ]
        self._items: set[int] = set()
        self._written = 0

    async def begin(self) -> None:
        """Make the container, start the gateway, and let everybody begin."""
        self.server.create_container(THINGS, "/pk")
        await self.scene.serve()
        for consumer in self.consumers:
            await consumer.begin()

    async def take(self, step: Step) -> None:
        """Live through a step."""
        match step:
            case Write(numbers):
                for number in numbers:
                    self._write(number)
            case Batch(numbers):
                self._write_together(numbers)
            case Split(which):
                self._split(which)
            case Merge(which):
                self._merge(which)
            case Trouble(kind, times):
                self._make_trouble(kind, times)
            case Trim():
                self.server.trim(THINGS)
            case Kill():
                await self.scene.restart()
            case Anew(consumer):
                async with self.consumers[consumer].handled():
                    await self.consumers[consumer].begin()
            case Work(consumer, amount):
                await self.consumers[consumer].work(amount)
            case _:
                assert_never(step)

    async def end(self) -> None:
        """Let everything go well, and hold each consumer against what it is owed."""
        self.server.clear_faults()
        for consumer in self.consumers:
            await drain(consumer)
            consumer.account.check()

    def _write(self, number: int) -> None:
        item = number % 10
        name, key = f"item {item}", f"key {item % 5}"
        if number >= 75 and item in self._items:
            self._items.discard(item)
            remove = self.server.expire_item if number >= 90 else self.server.delete
            remove(THINGS, name, key)
        else:
            self._items.add(item)
            self.server.upsert(THINGS, self._item(item))

    def _write_together(self, numbers: tuple[int, ...]) -> None:
        # Of one logical partition: items that are the same modulo 5.
        chosen = [number % 2 * 5 + numbers[0] % 5 for number in numbers]
        self._items.update(chosen)
        self.server.transaction(THINGS, *map(self._item, chosen))

    def _item(self, item: int) -> dict[str, object]:
        self._written += 1
        return {"id": f"item {item}", "pk": f"key {item % 5}", "text": str(self._written)}

    def _split(self, which: int) -> None:
        ranges = self.server.ranges(THINGS)
        if len(ranges) < 8:
            self.server.split(THINGS, ranges[which % len(ranges)])

    def _merge(self, which: int) -> None:
        ranges = self.server.ranges(THINGS)
        if self.mode is Mode.LATEST_VERSION and len(ranges) > 1:
            first = which % (len(ranges) - 1)
            self.server.merge(THINGS, ranges[first : first + 2])

    def _make_trouble(self, kind: str, times: int) -> None:
        ranges = self.server.ranges(THINGS)
        troubles: dict[str, Callable[[], object]] = {
            "throttle": lambda: self._fail_reading(throttled(10), times),
            "outage": lambda: self._fail_reading(internal(), 1),
            "conflict": lambda: self._fail_reading(retry_with(), times),
            "moved": lambda: self.server.fail("ReadChangeFeed", gone(1000 + 2 * times), times=times),
            "drop": lambda: self.server.drop("ReadChangeFeed", times=times),
            "cut": lambda: self.server.drop("ReadChangeFeed", times=times, kind=Kind.CUT),
            "empty": lambda: self.server.empty_pages(THINGS, ranges[times % len(ranges)], times),
            "previous": self._change_forms,
        }
        troubles[kind]()

    def _change_forms(self) -> None:
        behaviour = self.server.behaviour
        behaviour.previous_image, behaviour.deleted_current = behaviour.deleted_current, not behaviour.previous_image

    def _fail_reading(self, error: ServiceError, times: int) -> None:
        for call in READING:
            self.server.fail(call, error, times=times)


async def live_through(steps: list[Step], mode: Mode, ranges: int) -> None:
    """A history from its first step to its end."""
    with WireServer(Behaviour(ranges=ranges)) as server:
        history = History(server, Scene(server, mode=mode, pace=HURRY), mode)
        try:
            await history.begin()
            for step in steps:
                await history.take(step)
            await history.end()
        finally:
            await history.scene.kill()


@pytest.mark.soak
@pytest.mark.timeout(hangs_after(SECONDS))
@pytest.mark.req("P1", "P2", "P3", "P4", "CF-10", "E4")
@HISTORIES
@given(steps=st.lists(STEPS, min_size=10, max_size=50), mode=st.sampled_from(Mode), ranges=st.integers(1, 3))
@example(steps=BATCH_LARGER_THAN_A_PAGE, mode=Mode.ALL_VERSIONS_AND_DELETES, ranges=1)
@example(steps=BATCH_LARGER_THAN_A_PAGE, mode=Mode.LATEST_VERSION, ranges=1)
@example(steps=SPLIT_BEFORE_ANYTHING_WAS_READ, mode=Mode.ALL_VERSIONS_AND_DELETES, ranges=1)
@example(steps=MERGED_BEHIND_A_SPLIT, mode=Mode.LATEST_VERSION, ranges=1)
async def test_every_change_arrives_in_order_whatever_happens(steps: list[Step], mode: Mode, ranges: int) -> None:
    await live_through(steps, mode, ranges)


@pytest.mark.soak
@pytest.mark.timeout(hangs_after(SECONDS))
@pytest.mark.req("P1", "P2", "P6", "CF-08")
@HISTORIES
@given(steps=st.lists(STEPS | st.just(Trim()), min_size=10, max_size=50), ranges=st.integers(1, 3))
async def test_what_a_trim_takes_is_told(steps: list[Step], ranges: int) -> None:
    await live_through(steps, Mode.ALL_VERSIONS_AND_DELETES, ranges)


async def test_the_law_sees_a_change_that_is_missing() -> None:
    """The oracle itself: a consumer that is not told everything does not pass."""
    with WireServer() as server:
        server.create_container(THINGS, "/pk")
        scene = Scene(server)
        scene.put("1")
        for mode in Mode:
            account = PageReader(scene, Ledger(server, mode)).account
            with pytest.raises(AssertionError, match="1 changes are missing"):
                account.check()
