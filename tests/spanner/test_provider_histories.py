"""Random histories of a table: nothing is lost and each row is in order, whatever partitions, outages and kills do."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from typing import Any, assert_never

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from changefeed_gateway.providers.spanner.reading import Pace
from tests.conformance.client import NOW, after
from tests.soak import hangs_after, soak_seconds
from tests.spanner.consumers import Consumer, Crew, Follower, Ledger, PageReader, drain
from tests.spanner.scene import CHANGES, MAIN, Scene, made, thing
from tests.spanner.server.behaviour import Behaviour
from tests.spanner.server.errors import aborted, throttled, unavailable

SECONDS = soak_seconds(4)
"""About as long as the test takes: a history takes one."""

HURRY = Pace(heartbeat=timedelta(milliseconds=100), renewal=timedelta(milliseconds=500))


@dataclass(frozen=True)
class Write:
    """Change some rows in one transaction: each number names a row and what happens to it."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Churn:
    """Let a partition split or move, or let two or three merge."""

    kind: str
    which: int


@dataclass(frozen=True)
class Trouble:
    """Something that the next queries run into."""

    kind: str
    times: int


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


Step = Write | Churn | Trouble | Kill | Work | Anew

WORK = st.builds(Work, consumer=st.integers(0, 3), amount=st.integers(1, 9))
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.builds(Write, st.lists(st.integers(0, 99), min_size=1, max_size=12, unique=True).map(tuple)),
    WORK,
    WORK,
    st.builds(Churn, kind=st.sampled_from(["split", "merge", "move"]), which=st.integers(0, 9)),
    st.builds(
        Trouble,
        kind=st.sampled_from(["throttle", "outage", "abort", "break", "end early", "silent end", "end queries"]),
        times=st.integers(1, 3),
    ),
    st.sampled_from([Kill(), Anew()]),
)
BEHAVIOURS = st.builds(
    Behaviour,
    partitions=st.integers(1, 3),
    resume_tokens=st.booleans(),
    records_per_message=st.sampled_from([1, 3, 100]),
    chunk_every=st.sampled_from([None, 5, 50]),
    nanoseconds=st.booleans(),
    null_parents=st.booleans(),
    idle_heartbeat=st.booleans(),
)

# To shrink a history that lost something means to wait in vain again and again, for longer than a test may take.
HISTORIES = settings(
    max_examples=ceil(SECONDS),
    phases=[phase for phase in Phase if phase not in (Phase.shrink, Phase.explain)],
    report_multiple_bugs=False,
)


class History:
    """A table that lives through some steps, with four consumers."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.server = scene, scene.server
        self.ledger = Ledger(scene)
        self.consumers: list[Consumer] = [
            PageReader(scene, self.ledger),
            Follower(scene, self.ledger),
            Crew(scene, self.ledger),
            PageReader(scene, self.ledger),
        ]
        self._rows: set[int] = set()
        self._written = 0

    async def take(self, step: Step) -> None:
        """Live through a step."""
        match step:
            case Write():
                self._write(step)
            case Churn(kind, which):
                self._churn(kind, which)
            case Trouble(kind, times):
                self._make_trouble(kind, times)
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
        self.server.clear_faults()
        for partition in self.server.stream(MAIN, CHANGES).partitions.values():
            partition.silent_ends = 0
        await drain(self.consumers)
        for consumer in self.consumers:
            consumer.check()

    async def _start_from_now(self) -> None:
        late = self.consumers[3]
        assert isinstance(late, PageReader)
        self.server.clear_faults()
        late.start = after((await self.scene.client.resolve(NOW)).continuation_token)
        late.since, late.delivered = len(self.ledger.changes()), {}

    def _write(self, step: Write) -> None:
        self._written += 1
        deleted = [number % 10 for number in step.numbers if number >= 75 and number % 10 in self._rows]
        put = {number % 10 for number in step.numbers} - set(deleted)
        mutations: list[dict[str, Any]] = []
        if put:
            rows = [[str(row), f"{self._written}"] for row in sorted(put)]
            mutations.append({"insert_or_update": {"table": "things", "columns": ["id", "text"], "values": rows}})
        if deleted:
            keys = [[str(row)] for row in sorted(set(deleted))]
            mutations.append({"delete": {"table": "things", "key_set": {"keys": keys}}})
        self._rows = (self._rows | put) - set(deleted)
        self.server.write(MAIN, *mutations)

    def _churn(self, kind: str, which: int) -> None:
        alive = self.server.alive(MAIN, CHANGES)
        chosen = alive[which % len(alive)]
        if kind == "split" and len(alive) < 6:
            self.server.split(MAIN, CHANGES, chosen, parts=2 + which % 2)
        elif kind == "merge" and len(alive) > 1:
            self.server.merge(MAIN, CHANGES, *random.Random(which).sample(alive, min(len(alive), 2 + which % 2)))
        else:
            self.server.move(MAIN, CHANGES, chosen)

    def _make_trouble(self, kind: str, times: int) -> None:
        alive = self.server.alive(MAIN, CHANGES)
        chosen = alive[times % len(alive)]
        troubles: dict[str, Callable[[], object]] = {
            "throttle": lambda: self.server.fail("*", throttled(), times=times),
            "outage": lambda: self.server.fail("*", unavailable(), times=times),
            "abort": lambda: self.server.fail("Partition", aborted(), times=times),
            "break": lambda: self.server.fail("Partition", unavailable(), times=times, after_messages=times),
            "end early": lambda: self.server.end_early("Partition", times=times, after_messages=times),
            "silent end": lambda: self.server.omit_child_records(MAIN, CHANGES, chosen, times=times),
            "end queries": lambda: self.server.end_queries(MAIN, CHANGES, chosen),
        }
        troubles[kind]()


@pytest.mark.soak
@pytest.mark.timeout(hangs_after(SECONDS))
@pytest.mark.req("P1", "P2", "P3", "P4", "CF-10", "E4")
@pytest.mark.parametrize("postgres", [False, True])
@HISTORIES
@given(steps=st.lists(STEPS, min_size=10, max_size=40), behaviour=BEHAVIOURS)
async def test_every_change_arrives_in_order_whatever_happens(
    postgres: bool, steps: list[Step], behaviour: Behaviour
) -> None:
    async with made(behaviour, postgres=postgres, pace=HURRY) as scene:
        history = History(scene)
        for step in steps:
            await history.take(step)
        await history.end()


async def test_the_law_sees_a_change_that_is_missing() -> None:
    """The oracle itself: a consumer that is not told everything, or out of order, does not pass."""
    async with made() as scene:
        scene.put(thing(1))
        scene.put(thing(1, "b"))
        consumer = PageReader(scene, Ledger(scene))
        with pytest.raises(AssertionError, match="2 changes are missing"):
            consumer.check()
        await consumer.work(50)
        consumer.check()
        consumer.delivered = dict(reversed(consumer.delivered.items()))
        with pytest.raises(AssertionError, match="out of order"):
            consumer.check()
