"""Questions that many ask at once."""

import asyncio
import contextvars
from functools import partial

import pytest
import structlog

from changefeed_gateway.core.errors import TransientFailure
from changefeed_gateway.core.shared import SharedQuestion


class Database:
    """Answers with the number of the question, when it may."""

    def __init__(self) -> None:
        self.put: list[str] = []
        self.answered: list[int] = []
        self.may_answer = asyncio.Event()
        self.error: BaseException | None = None

    async def answer(self, what: str = "") -> int:
        self.put.append(what)
        number = len(self.put)
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        self.answered.append(number)
        return number


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_an_answer_is_shared_by_those_who_asked_before_and_by_nobody_later() -> None:
    database, question = Database(), SharedQuestion[int](at_once=4)
    first = [asyncio.create_task(question.ask("a", database.answer)) for _ in range(3)]
    await turns()
    later = [asyncio.create_task(question.ask("a", database.answer)) for _ in range(3)]
    await turns()
    assert len(database.put) == 1, "equal questions are put one after the other"
    database.may_answer.set()
    assert await asyncio.gather(*first) == [1, 1, 1]
    assert await asyncio.gather(*later) == [2, 2, 2]


async def test_few_are_put_at_a_time_in_the_order_they_were_asked() -> None:
    database, question = Database(), SharedQuestion[int](at_once=2)
    asking = [asyncio.create_task(question.ask(name, partial(database.answer, name))) for name in "abcdef"]
    await turns()
    assert database.put == ["a", "b"]
    database.may_answer.set()
    await asyncio.gather(*asking)
    assert database.put == list("abcdef")


async def test_one_who_is_cancelled_takes_nothing_from_the_others() -> None:
    database, question = Database(), SharedQuestion[int](at_once=1)
    one, other = (asyncio.create_task(question.ask("a", database.answer)) for _ in range(2))
    await turns()
    one.cancel()
    await turns()
    database.may_answer.set()
    assert await other == 1
    assert one.cancelled()


async def test_a_question_that_nobody_waits_for_is_given_up_and_frees_its_place() -> None:
    database, question = Database(), SharedQuestion[int](at_once=1)
    one = asyncio.create_task(question.ask("a", database.answer))
    await turns()
    waiting = asyncio.create_task(question.ask("b", database.answer))
    never_put = asyncio.create_task(question.ask("c", database.answer))
    await turns()
    never_put.cancel()
    one.cancel()
    await turns()
    assert len(database.put) == 2
    database.may_answer.set()
    assert await waiting == 2
    assert len(database.put) == 2


async def test_a_cancelled_question_is_an_error_and_never_the_cancellation_of_who_asked() -> None:
    database, question = Database(), SharedQuestion[int](at_once=1)
    asking = [asyncio.create_task(question.ask(name, database.answer)) for name in "aab"]
    await turns()
    await question.aclose()
    for task in asking:
        with pytest.raises(TransientFailure) as caught:
            await task
        assert caught.value.retry_after is not None


async def test_each_who_asked_has_an_error_of_its_own() -> None:
    database, question = Database(), SharedQuestion[int](at_once=1)
    database.error = TransientFailure("out", metadata={"table": "orders"})
    database.may_answer.set()
    asking = [asyncio.create_task(question.ask("a", database.answer)) for _ in range(2)]
    one, other = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(one, TransientFailure)
    assert isinstance(other, TransientFailure)
    assert one is not other
    one.metadata["request_id"] = "1"
    assert other.metadata == {"table": "orders"}
    assert str(other) == "out"


async def test_who_will_take_a_question_that_is_under_way_gets_its_answer() -> None:
    database, question = Database(), SharedQuestion[int]()
    first = asyncio.create_task(question.ask("a", database.answer))
    await turns()
    joined = asyncio.create_task(question.ask("a", database.answer, join=True))
    await turns()
    database.may_answer.set()
    assert list(await asyncio.gather(first, joined)) == [1, 1]


async def test_who_joined_a_question_keeps_it_when_all_have_left_who_asked_it() -> None:
    database, question = Database(), SharedQuestion[int]()
    first = asyncio.create_task(question.ask("a", database.answer))
    await turns()
    joined = [asyncio.create_task(question.ask("a", database.answer, join=True)) for _ in range(2)]
    await turns()
    first.cancel()
    joined.pop().cancel()
    await turns()
    database.may_answer.set()
    assert await joined[0] == 1
    assert question.under_way == 0


async def test_a_question_ends_when_all_have_left_who_joined_it_too() -> None:
    database, question = Database(), SharedQuestion[int]()
    first = asyncio.create_task(question.ask("a", database.answer))
    await turns()
    joined = asyncio.create_task(question.ask("a", database.answer, join=True))
    await turns()
    joined.cancel()
    first.cancel()
    await turns()
    database.may_answer.set()
    await turns()
    assert (database.answered, question.under_way) == ([], 0)


async def test_a_question_whose_answer_is_kept_goes_on_when_nobody_waits() -> None:
    database, question = Database(), SharedQuestion[int](goes_on=True)
    one = asyncio.create_task(question.ask("a", database.answer))
    await turns()
    one.cancel()
    await turns()
    later = asyncio.create_task(question.ask("a", database.answer))
    database.may_answer.set()
    assert await later == 2
    assert database.answered == [1, 2]


async def test_nobody_joins_a_question_that_was_ended_before_it_was_put() -> None:
    database, question = Database(), SharedQuestion[int]()
    under_way = asyncio.create_task(question.ask("a", database.answer))
    await turns()
    to_come = asyncio.create_task(question.ask("a", database.answer))
    await turns()
    question.close()
    database.may_answer.set()
    assert await question.ask("a", database.answer) == 2
    for task in (under_way, to_come):
        with pytest.raises(TransientFailure):
            await task


class Foreseen(Exception):
    """What whoever put the question knows of."""


@pytest.mark.parametrize(("failure", "lines"), [(KeyError("x"), 1), (Foreseen(), 0), (TransientFailure("out"), 0)])
async def test_a_question_that_fails_unforeseen_is_told_even_when_nobody_waits(failure: Exception, lines: int) -> None:
    database, question = Database(), SharedQuestion[int](goes_on=True, foreseen=Foreseen)
    database.error = failure
    with structlog.testing.capture_logs() as log:
        alone = asyncio.create_task(question.ask("a", database.answer))
        await turns()
        alone.cancel()
        database.may_answer.set()
        await turns()
    # Another test's gateway may have something to say, too.
    assert [line["log_level"] for line in log if "several calls" in line["event"]] == ["error"] * lines


async def test_a_question_carries_nothing_of_the_call_that_came_first() -> None:
    caller: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="nobody")
    caller.set("a stranger")
    question = SharedQuestion[str](at_once=1)

    async def answer() -> str:
        return caller.get()

    assert await question.ask("a", answer) == "nobody"


async def test_who_asks_again_and_again_needs_no_task_of_its_own() -> None:
    question = SharedQuestion[object]()

    async def answer() -> object:
        return asyncio.current_task()

    assert await question.ask_here("a", answer) is asyncio.current_task()
    assert await question.ask("a", answer) is not asyncio.current_task()
    assert question.under_way == question.waiting == 0


async def test_a_question_in_the_task_of_who_asks_is_one_of_those_under_way() -> None:
    database, question = Database(), SharedQuestion[int](at_once=1)
    here = asyncio.create_task(question.ask_here("a", database.answer))
    await turns()
    joined = asyncio.create_task(question.ask("a", database.answer, join=True))
    later = [asyncio.create_task(question.ask("a", database.answer)) for _ in range(2)]
    here_again = asyncio.create_task(question.ask_here("a", database.answer))
    other = asyncio.create_task(question.ask_here("b", database.answer))
    await turns()
    assert len(database.put) == 1
    database.may_answer.set()
    assert await here == await joined == 1
    assert await other == 2
    assert await asyncio.gather(*later, here_again) == [3, 3, 3]


@pytest.mark.parametrize("failure", [TransientFailure("out"), KeyError("x")])
async def test_what_a_question_in_the_task_of_who_asks_raises_is_told_to_who_joined(failure: Exception) -> None:
    database, question = Database(), SharedQuestion[int]()
    database.error = failure
    here = asyncio.create_task(question.ask_here("a", database.answer))
    await turns()
    joined = asyncio.create_task(question.ask("a", database.answer, join=True))
    await turns()
    database.may_answer.set()
    assert [type(answer) for answer in await asyncio.gather(here, joined, return_exceptions=True)] == [
        type(failure)
    ] * 2
    database.error = None
    assert await question.ask_here("a", database.answer) == 2


async def test_who_cancels_a_question_in_its_own_task_ends_it_and_those_behind_are_answered() -> None:
    database, question = Database(), SharedQuestion[int]()
    here = asyncio.create_task(question.ask_here("a", database.answer))
    await turns()
    joined = asyncio.create_task(question.ask("a", database.answer, join=True))
    behind = asyncio.create_task(question.ask("a", database.answer))
    await turns()
    here.cancel()
    await turns()
    assert here.cancelled()
    database.may_answer.set()
    with pytest.raises(TransientFailure):
        await joined
    assert await behind == 2
