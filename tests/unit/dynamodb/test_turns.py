"""Shared questions: one at a time, for all who ask before they begin, and no concern of who went away."""

import asyncio
import logging
from contextvars import ContextVar

import pytest

from changefeed_gateway.core.errors import TransientFailure
from changefeed_gateway.providers.dynamodb.errors import ShardGone
from changefeed_gateway.providers.dynamodb.turns import Turns

WHO: ContextVar[str] = ContextVar("WHO", default="nobody")


class Question:
    """One that a test lets go on; counts how often it was asked, and in whose name."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.asked: list[str] = []
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self._failure = failure

    async def ask(self) -> int:
        self.asked.append(WHO.get())
        self.begun.set()
        await self.go.wait()
        if self._failure is not None:
            raise self._failure
        return len(self.asked)


async def _nothing() -> None:
    pass


async def waiting(turns: Turns, question: Question, count: int = 1) -> list[asyncio.Task[int]]:
    """So many who wait for one question."""
    tasks = [asyncio.create_task(turns.ask("key", question.ask)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_all_who_ask_before_it_begins_share_one_and_who_asks_later_does_not() -> None:
    turns, question = Turns(), Question()
    first = await waiting(turns, question)
    await question.begun.wait()
    later = await waiting(turns, question, 3)
    question.go.set()
    assert await asyncio.gather(*first, *later) == [1, 2, 2, 2]


async def test_who_will_take_one_that_is_under_way_gets_it() -> None:
    turns, question = Turns(), Question()
    [first] = await waiting(turns, question)
    await question.begun.wait()
    joined = asyncio.create_task(turns.ask("key", question.ask, join=True))
    await asyncio.sleep(0)
    question.go.set()
    assert list(await asyncio.gather(first, joined)) == [1, 1]


async def test_it_is_asked_in_nobodys_name() -> None:
    """P7: what outlives a call must not carry the request id of the one that came first."""
    turns, question = Turns(), Question()
    question.go.set()
    WHO.set("a stranger")
    await turns.ask("key", question.ask)
    assert question.asked == ["nobody"]


async def test_it_goes_on_for_the_others_when_the_first_goes_away() -> None:
    turns, question = Turns(), Question()
    first, second = await waiting(turns, question, 2)
    await question.begun.wait()
    first.cancel()
    question.go.set()
    assert await second == 1
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_one_that_is_ended_is_no_cancellation_of_who_waits_for_it() -> None:
    turns, question = Turns(), Question()
    under_way = await waiting(turns, question)
    await question.begun.wait()
    to_come = await waiting(turns, question, 2)
    turns.close()
    for answer in (*under_way, *to_come):
        with pytest.raises(TransientFailure, match="closing") as found:
            await answer
        assert found.value.retry_after


async def test_nobody_joins_one_that_was_ended_before_it_began() -> None:
    turns, question = Turns(), Question()
    under_way = await waiting(turns, question)
    await question.begun.wait()
    to_come = await waiting(turns, question)
    turns.close()
    await asyncio.wait([*under_way, *to_come])
    question.go.set()
    assert await turns.ask("key", question.ask) == 2


@pytest.mark.parametrize(("failure", "lines"), [(KeyError("x"), 1), (ShardGone(), 0)])
async def test_one_that_fails_unforeseen_is_told_even_when_nobody_waits(
    caplog: pytest.LogCaptureFixture, failure: Exception, lines: int
) -> None:
    turns, question = Turns(), Question(failure)
    with caplog.at_level(logging.ERROR):
        [alone] = await waiting(turns, question)
        await question.begun.wait()
        alone.cancel()
        question.go.set()
        # Its turn comes when the other one is over.
        await turns.ask("another", _nothing)
    assert len(caplog.records) == lines
