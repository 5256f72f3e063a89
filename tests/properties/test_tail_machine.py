"""Several streams over one log in any interleaving: each reads its own changes, each once, in order, or hears why not.

One model: the log is a list, a stream is an index into it. Everything may happen between any two turns of the loop:
writes, retirement, trimming, a read that fails in any way, a tail or a reader that is cancelled, a drain.
"""

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from changefeed_gateway.core.answer import Batch
from changefeed_gateway.core.errors import CheckpointExpired, InternalFailure, TransientFailure
from changefeed_gateway.core.follower import Follower
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import (
    After,
    EntireCollection,
    LogicalPartition,
    PageRead,
    PartitionId,
    PhysicalPartition,
    Scope,
)
from changefeed_gateway.core.page import EncodedPage
from changefeed_gateway.core.tails import Tails
from changefeed_gateway.core.turns import Turns
from tests.properties.numbered_log import FEED, READ, Log, cursor, encode, position_of, within
from tests.soak import SOAKING, soak_seconds
from tests.virtual_time import VirtualTime

_LONG = timedelta(seconds=1_000)
_SETTLED = 400
"""Turns of the loop within which everything has happened that can happen without news."""

_SCOPES: list[Scope] = [
    EntireCollection(),
    PhysicalPartition(PartitionId("p")),
    LogicalPartition("a"),
    LogicalPartition("b"),
]
_FAULTS = st.sampled_from([TransientFailure, RuntimeError, asyncio.CancelledError])


@dataclass
class Stream:
    """What one consumer knows."""

    scope: Scope
    follower: Follower
    position: int
    asked: tuple[int, "asyncio.Task[EncodedPage]"] | None = None


class TailMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTime()
        self.loop.set_exception_handler(self._note_stray)
        self.strays: list[object] = []
        self.faults = 0
        self.drained = False
        self.streams: list[Stream] = []
        self.log, self.tails = self.loop.run_until_complete(self._set_up())

    async def _set_up(self) -> tuple[Log, Tails]:
        log = Log(item="x" * 300)
        log.turns = 2
        limits = Limits(
            ring_bytes=9_000, default_page_size=4, outage_patience=timedelta(0), max_wait=_LONG, max_catch_up_reads=2
        )
        tails = Tails(log, encode, limits)
        tails.turns = Turns(1)
        return log, tails

    def _note_stray(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        self.strays.append(context.get("exception") or context.get("message"))

    def _spin(self, turns: int) -> None:
        async def spin() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(spin())
        for stream in self.streams:
            if stream.asked is not None and stream.asked[1].done():
                self._judge(stream)

    # --- What consumers do

    @precondition(lambda self: len(self.streams) < 5)
    @rule(scope=st.sampled_from(_SCOPES), back=st.integers(0, 30), anchored=st.booleans())
    def open(self, scope: Scope, back: int, anchored: bool) -> None:
        position = max(self.log.floor, len(self.log.keys) - back)
        stream = Stream(scope, Follower(self.tails), position)
        self.streams.append(stream)
        if anchored:
            # As `Subscribe` does, which asks first whether the position is still there.
            self._ask(stream, size=0, wait=False)

    @rule(data=st.data(), size=st.sampled_from([1, 3, 50]), wait=st.booleans(), turns=st.integers(0, 40))
    def read(self, data: st.DataObject, size: int, wait: bool, turns: int) -> None:
        idle = [stream for stream in self.streams if stream.asked is None]
        if idle:
            self._ask(data.draw(st.sampled_from(idle)), size=size, wait=wait)
        self._spin(turns)

    @precondition(lambda self: any(stream.asked for stream in self.streams))
    @rule(data=st.data(), turns=st.integers(0, 12))
    def cancel(self, data: st.DataObject, turns: int) -> None:
        stream = data.draw(st.sampled_from([stream for stream in self.streams if stream.asked]))
        assert stream.asked is not None
        stream.asked[1].cancel()
        self._spin(turns)

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), turns=st.integers(0, 12))
    def close(self, data: st.DataObject, turns: int) -> None:
        stream = data.draw(st.sampled_from(self.streams))
        self.streams.remove(stream)
        self._end(stream)
        self._spin(turns)

    @rule(seconds=st.sampled_from([1, 999, 1_000]), turns=st.integers(0, 12))
    def let_time_pass(self, seconds: int, turns: int) -> None:
        """Timers of all who wait so long are due at once, whatever else happens in that turn of the loop."""
        self.loop.now += seconds
        self._spin(turns)

    # --- What happens to the log

    @precondition(lambda self: not self.log.retired)
    @rule(keys=st.lists(st.sampled_from("ab"), min_size=1, max_size=12), turns=st.integers(0, 40))
    def write(self, keys: list[str], turns: int) -> None:
        self.log.write(*keys)
        self._spin(turns)

    @rule(back=st.integers(0, 10), turns=st.integers(0, 10))
    def trim(self, back: int, turns: int) -> None:
        self.log.floor = max(self.log.floor, len(self.log.keys) - back)
        self._spin(turns)

    @precondition(lambda self: self.log.keys)
    @rule(turns=st.integers(0, 10))
    def retire(self, turns: int) -> None:
        self.log.retire()
        self._spin(turns)

    # --- What goes wrong

    @rule(fault=_FAULTS, spared=st.integers(0, 3))
    def fail(self, fault: type[BaseException], spared: int) -> None:
        self.faults += 1
        self.log.faults.extend([None] * spared + [fault("ordered")])

    @precondition(lambda self: self.tails._tails)
    @rule(turns=st.integers(0, 10))
    def cut_a_tail_short(self, turns: int) -> None:
        self.faults += 1
        next(iter(self.tails._tails.values())).task.cancel()
        self._spin(turns)

    @precondition(lambda self: self.log.keys and not self.drained)
    @rule()
    def drain(self) -> None:
        self.drained = True
        self.loop.call_soon(self.tails.begin_drain)
        self._spin(_SETTLED)
        assert not any(stream.asked for stream in self.streams), "a read still waits although the gateway drains"

    # --- What must hold

    @invariant()
    def the_budget_is_kept_and_counts_what_is_there(self) -> None:
        budget = self.tails.budget
        # A tail that failed makes room for another, and its ring stays until all that follow it have left.
        places = [place for stream in self.streams for place in stream.follower._places.values()]
        tails = {*self.tails._tails.values(), *(place.tail for place in places if place.tail is not None)}
        rings = [tail.ring for tail in tails if tail.ring is not None]
        pages = sum(kept.size for ring in rings for kept in ring._pages)
        assert budget.held == pages + sum(run.messages for ring in rings for run in ring._runs.values())
        assert budget.held <= 9_000

    def _ask(self, stream: Stream, *, size: int, wait: bool) -> None:
        read = replace(
            READ,
            scope=stream.scope,
            start=After(cursor(stream.position)),
            max_changes=size,
            max_wait=_LONG if wait else timedelta(0),
        )
        stream.asked = size, self.loop.create_task(_read(stream.follower, read))

    def _judge(self, stream: Stream) -> None:
        assert stream.asked is not None
        (size, task), stream.asked = stream.asked, None
        if task.cancelled():
            return
        match task.exception():
            case None:
                self._take(stream, size, task.result())
                return
            case CheckpointExpired():
                assert stream.position < self.log.floor, "a position that is there was called expired"
                stream.position = self.log.floor
            case TransientFailure() | InternalFailure() | RuntimeError() as error:
                assert self.faults, f"nothing was wrong, and yet: {error!r}"
            case error:
                raise AssertionError("not an error of ours") from error
        # As a consumer does: on a new stream, from where it stands.
        self._end(stream)
        stream.follower = Follower(self.tails)

    def _take(self, stream: Stream, size: int, page: EncodedPage) -> None:
        end = position_of(page.content.cursor)
        passed = range(stream.position, end)
        assert end >= stream.position
        assert len(page.content.changes) <= size
        expected = [str(i).encode() for i in passed if within(self.log.keys[i], stream.scope)]
        assert page.records(items=True) == expected
        message = page.message(stream.scope, lambda scope, at: f"{scope} {position_of(at)}", items=True)
        assert message.token == f"{stream.scope} {end}"
        assert isinstance(message, Batch) == bool(expected)
        assert not isinstance(message, Batch) or message.records == expected
        if page.content.retired:
            assert self.log.retired
            assert isinstance(stream.scope, PhysicalPartition)
            assert end == len(self.log.keys)
        stream.position = end

    def _end(self, stream: Stream) -> None:
        if stream.asked is not None:
            stream.asked[1].cancel()
            stream.asked = None
        self.loop.create_task(stream.follower.aclose())

    def teardown(self) -> None:
        self.log.faults.clear()
        self._spin(_SETTLED)
        if not self.log.retired:
            # Whatever happened before: what is written now reaches everybody.
            self.log.write("a", "b")
            self._spin(_SETTLED)
        if not self.drained:
            self._everybody_comes_to_the_end()
        for stream in self.streams:
            self._end(stream)
        self._spin(_SETTLED)
        assert not self.tails._tails, "a tail goes on although nobody follows"
        assert self.tails.budget.held == 0
        self.loop.run_until_complete(self.tails.aclose())
        left = asyncio.all_tasks(self.loop)
        assert not left, f"still running: {left}"
        self.loop.close()
        assert not self.strays

    def _everybody_comes_to_the_end(self) -> None:
        for stream in self.streams:
            for _ in range(200):
                if stream.position == len(self.log.keys):
                    break
                if stream.asked is None:
                    self._ask(stream, size=50, wait=False)
                self._spin(_SETTLED)
                if stream.asked is not None:
                    # It waits, so the tail must have told it that there is nothing for it.
                    assert all(not within(key, stream.scope) for key in self.log.keys[stream.position :])
                    break
            else:
                raise AssertionError("a stream never came to the end")


async def _read(follower: Follower, read: PageRead) -> EncodedPage:
    return await follower.read(FEED, read)


@pytest.mark.soak
def test_streams_over_one_tail_lose_and_repeat_nothing_in_any_interleaving() -> None:
    until = time.monotonic() + soak_seconds(0)
    while True:
        run_state_machine_as_test(
            TailMachine,
            settings=settings(
                max_examples=500 if SOAKING else 60,
                stateful_step_count=30,
                suppress_health_check=list(HealthCheck),
            ),
        )
        if time.monotonic() >= until:
            return
