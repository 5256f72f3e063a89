"""One stream over a reader that does anything a reader may do, beside a model of what its consumer was promised."""

import asyncio
import gc
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from changefeed_gateway.core.answer import (
    Batch,
    Closing,
    ClosingReason,
    Heartbeat,
    Opened,
    Retired,
    SnapshotFinished,
    StateChanged,
    StreamItem,
    SubscriptionState,
)
from changefeed_gateway.core.budget import Hold, PageBudget, Share
from changefeed_gateway.core.errors import (
    ChangeFeedError,
    CheckpointExpired,
    NewItemStateUnavailable,
    NotFound,
    Throttled,
    TransientFailure,
)
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import (
    Address,
    After,
    Change,
    ChangeType,
    Child,
    Cursor,
    Feed,
    ItemState,
    Key,
    NewItemStateMode,
    Page,
    PageRead,
    PartitionId,
    PhysicalPartition,
)
from changefeed_gateway.core.page import EncodedPage
from changefeed_gateway.core.requirement import ItemRequirement
from changefeed_gateway.core.subscription import Plan, stream
from tests.soak import soak_seconds
from tests.virtual_time import VirtualTime

_OTHERS = 190_000
"""Bytes that another stream holds of the budget, for a while."""

PARTITION = PartitionId("p")
FEED = Feed(
    address=Address(connection="script", database="", collection="numbers"),
    provider_id="script",
    incarnation="1",
    capabilities=(),
    item_state=ItemState.INCLUDED,
    single_order=True,
)
MESSAGE_BYTES = 40
AGE = 100.0
FAILURES = (TransientFailure, CheckpointExpired, Throttled, NotFound)


@dataclass(frozen=True, slots=True)
class Entry:
    """One change of the log."""

    record: bytes
    missing: bool
    """Its item is."""


@dataclass(slots=True, eq=False)
class Question:
    """A read under way."""

    read: PageRead
    answer: asyncio.Future[EncodedPage]


def cursor(position: int) -> Cursor:
    return Cursor(position.to_bytes(4))


def place(cursor: Cursor) -> int:
    return int.from_bytes(cursor)


class ScriptedReader:
    """Answers when and as it is told; what it says of its log is always true."""

    def __init__(self) -> None:
        self.log: list[Entry] = []
        self.retired = False
        self.questions: list[Question] = []

    async def read(self, feed: Feed, read: PageRead) -> EncodedPage:
        assert isinstance(read.start, After)
        if not read.max_changes:
            return self.page(read, count=0, live=False)
        question = Question(read, asyncio.get_running_loop().create_future())
        self.questions.append(question)
        try:
            return await question.answer
        except asyncio.CancelledError:
            # As long as a driver takes to give up its statement.
            for _ in range(3):
                await asyncio.sleep(0)
            raise
        finally:
            self.questions.remove(question)

    def page(self, read: PageRead, *, count: int, live: bool) -> EncodedPage:
        assert isinstance(read.start, After)
        start = place(read.start.cursor)
        end = min(start + min(count, read.max_changes), len(self.log))
        numbers, taken = range(start, end), self.log[start:end]
        more = end < len(self.log)
        page = Page(
            changes=[_change(number, entry) for number, entry in zip(numbers, taken, strict=True)],
            cursors=[cursor(number + 1) for number in numbers],
            start=cursor(start),
            cursor=cursor(end),
            more_available=more,
            retired=self.retired and not more,
            children=(Child(partition_id=PartitionId("c"), parents=(PARTITION,), start=cursor(0)),),
        )
        keep = (lambda size: None) if live else None
        return EncodedPage(page, lambda items: [entry.record for entry in taken], live=live, keep=keep)


def _change(number: int, entry: Entry) -> Change:
    state = ItemState.TOO_LARGE if entry.missing else ItemState.INCLUDED
    key = Key("k", ())
    return Change(str(number), ChangeType.UPDATE, key, state, entry.record.decode(), None, PARTITION, str(number))


class Consumer:
    """Takes items one after another and holds each against what may be said at that place."""

    def __init__(self, machine: "Subscription", *, at: int, max_events: int, required: bool, size: int) -> None:
        self.machine, self.at = machine, at
        self.max_events, self.required, self.size = max_events, required, size
        self.delivered = 0
        self.state: SubscriptionState | None = None
        self.retired = self.closed = False
        self.begun = machine.loop.time()
        self.items: AsyncGenerator[StreamItem] = machine.open(self)
        self.taking: asyncio.Task[StreamItem] | None = None

    def hear(self, item: StreamItem) -> None:
        assert not self.closed, "something came after closing"
        reader = self.machine.reader
        match item:
            case Opened(token=token):
                assert int(token) == self.at
            case SnapshotFinished():
                raise AssertionError("no snapshot was asked for")
            case StateChanged(state=state):
                assert state is not self.state
                if state is SubscriptionState.LIVE:
                    assert self.at in self.machine.ends_seen, "live before the end was delivered"
                self.state = state
            case Batch():
                self._hear_batch(item)
            case Heartbeat(token=token):
                assert int(token) == self.at
            case Retired(token=token, children=children):
                assert reader.retired
                assert self.at == int(token) == len(reader.log)
                assert not self.retired
                assert [child.partition_id for child in children] == ["c"]
                self.retired = True
            case Closing(token=token, reason=reason):
                assert int(token) == self.at
                assert self._is_true(reason), reason
                self.closed = True

    def _hear_batch(self, batch: Batch) -> None:
        end = self.at + len(batch.records)
        taken = self.machine.reader.log[self.at : end]
        assert list(batch.records) == [entry.record for entry in taken]
        assert 1 <= len(taken) <= self.size
        assert len(taken) == 1 or sum(map(len, batch.records)) <= MESSAGE_BYTES
        assert not (self.required and any(entry.missing for entry in taken))
        self.at, self.delivered = end, self.delivered + len(taken)
        assert int(batch.token) == end
        assert not self.max_events or self.delivered <= self.max_events

    def _is_true(self, reason: ClosingReason) -> bool:
        match reason:
            case ClosingReason.MAX_EVENTS:
                return 0 < self.max_events == self.delivered
            case ClosingReason.PARTITION_RETIRED:
                return self.retired
            case ClosingReason.DRAINING:
                return self.machine.draining
            case ClosingReason.MAX_AGE:
                return self.machine.loop.time() >= self.begun + 0.9 * AGE
            case ClosingReason.FEED_DROPPED:
                return NotFound in self.machine.failures

    def fail(self, error: ChangeFeedError) -> None:
        if isinstance(error, NewItemStateUnavailable):
            assert self.required
            assert self.machine.reader.log[self.at].missing
            assert error.metadata["event_id"] == str(self.at)
        else:
            assert type(error) in self.machine.failures


class Subscription(RuleBasedStateMachine):
    """Steps that the world, the reader and the consumer take, in any order."""

    @initialize()
    def begin(self) -> None:
        self.loop = VirtualTime()
        self.complaints: list[object] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.reader = ScriptedReader()
        self.ends_seen: set[int] = set()
        self.failures: set[type[ChangeFeedError]] = set()
        self.draining = False
        self.consumer: Consumer | None = None
        self.token = 0
        self.budget = PageBudget(200_000)
        self.other: tuple[Share, Hold] | None = None

    def open(self, consumer: Consumer) -> AsyncGenerator[StreamItem]:
        mode = NewItemStateMode.REQUIRE if consumer.required else NewItemStateMode.INCLUDE_IF_AVAILABLE
        plan = Plan(
            feed=FEED,
            read=PageRead(
                scope=PhysicalPartition(PARTITION),
                start=After(cursor(consumer.at)),
                max_changes=consumer.size,
                max_bytes=10_000,
                max_item_bytes=10_000,
            ),
            heartbeat=timedelta(seconds=10),
            max_events=consumer.max_events,
            requirement=ItemRequirement(mode, lambda at: str(place(at))),
            token=lambda scope, at: str(place(at)),
            draining=lambda: self.draining,
        )
        limits = Limits(max_message_bytes=MESSAGE_BYTES, max_stream_age=timedelta(seconds=AGE))
        return stream(plan, self.reader, limits, self.budget.share(lambda: None))

    def settle(self) -> None:
        async def turns() -> None:
            for _ in range(12):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())
        consumer = self.consumer
        if consumer is not None and consumer.taking is not None and consumer.taking.done():
            taking, consumer.taking = consumer.taking, None
            try:
                consumer.hear(taking.result())
            except StopAsyncIteration:
                assert consumer.closed, "a stream ended without closing"
                self._leave()
            except ChangeFeedError as error:
                consumer.fail(error)
                self._leave()
            else:
                self.token = consumer.at

    def _leave(self) -> None:
        """Whatever the end was like: nothing is left behind."""
        assert self.consumer is not None
        self.loop.run_until_complete(self.consumer.items.aclose())
        self.consumer = None
        assert not asyncio.all_tasks(self.loop), "something outlived the stream"
        assert not self.reader.questions
        assert self.budget.held == (0 if self.other is None else _OTHERS)
        self.failures.clear()
        self.ends_seen.clear()

    @rule(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6), missing=st.sampled_from([False, False, True]))
    @precondition(lambda self: not self.reader.retired)
    def write(self, sizes: Sequence[int], missing: bool) -> None:
        self.reader.log += [Entry(b"x" * size, missing and n == 0) for n, size in enumerate(sizes)]

    @rule()
    @precondition(lambda self: len(self.reader.log) > 5)
    def retire(self) -> None:
        self.reader.retired = True

    @rule()
    def drain(self) -> None:
        self.draining = not self.draining

    @rule(seconds=st.sampled_from([1.0, 11.0, 95.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.loop.now += seconds
        self.settle()

    @rule()
    @precondition(lambda self: self.other is None and self.budget.fits(_OTHERS))
    def take_memory(self) -> None:
        share = self.budget.share(lambda: None)
        self.other = share, self.loop.run_until_complete(share.reserve(_OTHERS))

    @rule()
    @precondition(lambda self: self.other is not None)
    def give_memory_back(self) -> None:
        assert self.other is not None
        self.other[0].close()
        self.other = None
        self.settle()

    @rule(max_events=st.sampled_from([0, 0, 1, 4]), required=st.booleans(), size=st.sampled_from([1, 3, 50]))
    @precondition(lambda self: self.consumer is None)
    def subscribe(self, max_events: int, required: bool, size: int) -> None:
        self.consumer = Consumer(self, at=self.token, max_events=max_events, required=required, size=size)
        self.take(3)

    @rule(items=st.integers(1, 8))
    @precondition(lambda self: self.consumer is not None)
    def take(self, items: int) -> None:
        for _ in range(items):
            if self.consumer is not None and self.consumer.taking is None:
                self.consumer.taking = self.loop.create_task(self.consumer.items.__anext__())
                self.settle()

    @rule(count=st.sampled_from([0, 1, 4, 50]), live=st.booleans(), which=st.integers(0, 1))
    @precondition(lambda self: self.reader.questions)
    def answer(self, count: int, live: bool, which: int) -> None:
        question = self.reader.questions[which % len(self.reader.questions)]
        page = self.reader.page(question.read, count=count, live=live)
        if not page.content.more_available:
            self.ends_seen.add(place(page.content.cursor))
        if not question.answer.done():
            question.answer.set_result(page)
        self.settle()

    @rule(failure=st.sampled_from(FAILURES), which=st.integers(0, 1))
    @precondition(lambda self: self.reader.questions)
    def fail_a_read(self, failure: type[ChangeFeedError], which: int) -> None:
        question = self.reader.questions[which % len(self.reader.questions)]
        self.failures.add(failure)
        if not question.answer.done():
            question.answer.set_exception(failure("as told"))
        self.settle()

    @rule(which=st.integers(0, 1))
    @precondition(lambda self: self.reader.questions)
    def cancel_what_it_waits_for(self, which: int) -> None:
        """As somebody else does who owns it."""
        self.failures.add(TransientFailure)
        self.reader.questions[which % len(self.reader.questions)].answer.cancel()
        self.settle()

    @rule(again=st.booleans())
    @precondition(lambda self: self.consumer is not None and self.consumer.taking is not None)
    def cancel_the_consumer(self, again: bool) -> None:
        assert self.consumer is not None
        assert self.consumer.taking is not None
        taking, self.consumer.taking = self.consumer.taking, None
        taking.cancel()
        if again:
            self.loop.run_until_complete(asyncio.sleep(0))
            taking.cancel()
        self.loop.run_until_complete(asyncio.wait({taking}))
        assert taking.cancelled(), "a cancellation was swallowed"
        self._leave()

    @rule()
    @precondition(lambda self: self.consumer is not None and self.consumer.taking is None)
    def hang_up(self) -> None:
        self._leave()

    @invariant()
    def nobody_complains(self) -> None:
        assert not getattr(self, "complaints", None)

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        if self.consumer is not None and self.consumer.taking is not None:
            self.cancel_the_consumer(again=False)
        elif self.consumer is not None:
            self._leave()
        if self.other is not None:
            self.give_memory_back()
        self.draining = False
        self._deliver_the_rest()
        gc.collect()
        self.loop.run_until_complete(asyncio.sleep(0))
        assert not self.complaints
        assert self.budget.held == 0
        self.loop.close()

    def _deliver_the_rest(self) -> None:
        """Whatever happened: a consumer that resumes gets what it has not got, to the last change."""
        self.consumer = consumer = Consumer(self, at=self.token, max_events=0, required=False, size=7)
        for _ in range(10 + 4 * len(self.reader.log)):
            if self.token == len(self.reader.log) or self.consumer is None:
                break
            self.take(1)
            if self.reader.questions:
                self.answer(count=50, live=False, which=0)
        assert self.token == len(self.reader.log)
        if consumer.taking is not None:
            self.cancel_the_consumer(again=False)
        elif self.consumer is not None:
            self._leave()


# About two histories a second.
Subscription.TestCase.settings = settings(max_examples=int(2 * soak_seconds(12)), stateful_step_count=40)
TestWhateverHappensTheStreamKeepsItsPromises = Subscription.TestCase
