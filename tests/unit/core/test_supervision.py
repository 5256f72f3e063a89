"""Long-lived tasks: started anew when they fail, told once, counted, and seen by who asks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import timedelta

import pytest
import structlog
from structlog.testing import capture_logs

from changefeed_gateway.core.errors import NotFound, TransientFailure
from changefeed_gateway.core.supervision import Done, Supervisor

_CALL: ContextVar[str] = ContextVar("call")


@asynccontextmanager
async def supervising(settled_after: timedelta = timedelta(minutes=1)) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(
        first_pause=timedelta(milliseconds=1), longest_pause=timedelta(milliseconds=4), settled_after=settled_after
    )
    try:
        async with asyncio.timeout(30):
            yield supervisor
    finally:
        await supervisor.aclose()


class Loop:
    """Long-lived work that fails as it is told, and says when it began and how often."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.starts = 0
        self.well = asyncio.Event()
        self.rest = asyncio.Event()

    async def run(self, done: Done) -> None:
        self.starts += 1
        if self.errors:
            raise self.errors.pop(0)
        done()
        self.well.set()
        await self.rest.wait()


@pytest.mark.parametrize("error", [RuntimeError("unforeseen"), TransientFailure("away"), asyncio.CancelledError()])
async def test_a_task_that_fails_is_started_anew(error: BaseException) -> None:
    """A cancellation too that is somebody else's: it came out of what the task waited for."""
    async with supervising() as supervisor:
        loop = Loop(error, error, error)
        task = supervisor.keep("loop", loop.run)
        await loop.well.wait()
        assert (loop.starts, task.failures) == (4, 3)


async def test_a_task_that_has_no_more_to_do_ends() -> None:
    async with supervising() as supervisor:
        loop = Loop()
        loop.rest.set()
        task = supervisor.keep("loop", loop.run)
        await asyncio.wait({task._task})
        assert (loop.starts, task.running) == (1, False)


async def test_what_fails_again_and_again_is_told_once() -> None:
    with capture_logs() as logs:
        async with supervising() as supervisor:
            loop = Loop(*[TransientFailure("away")] * 20, *[RuntimeError("secret")] * 20)
            supervisor.keep("loop", loop.run)
            await loop.well.wait()
    assert [(entry["log_level"], entry["task"], entry["problem"], entry["failures"]) for entry in logs] == [
        ("warning", "loop", "away", 1),
        ("error", "loop", "RuntimeError", 21),
    ]
    assert isinstance(logs[1]["exc_info"], RuntimeError), "with its traceback"


async def test_a_task_that_keeps_failing_is_seen_until_it_has_worked_for_a_while() -> None:
    with capture_logs() as logs:
        async with supervising(timedelta(milliseconds=50)) as supervisor:
            loop = Loop(*[NotFound("gone")] * 3)
            supervisor.keep("loop", loop.run)
            other = Loop(NotFound("gone"))
            supervisor.keep("blip", other.run)
            await loop.well.wait()
            await other.well.wait()
            with pytest.raises(TransientFailure, match=r"^what must go on keeps failing: loop: gone$"):
                supervisor.check()
            while len(logs) < 4:  # noqa: ASYNC110 - the log has no event
                await asyncio.sleep(0.01)
            supervisor.check()
    assert {(entry["event"], entry["task"]) for entry in logs if entry["log_level"] == "info"} == {
        ("a task works again", "loop"),
        ("a task works again", "blip"),
    }


async def test_a_task_that_works_a_round_between_its_failures_is_no_healthy_one() -> None:
    class Flapping(Loop):
        async def run(self, done: Done) -> None:
            self.starts += 1
            done()
            if self.starts > 30:
                self.well.set()
                await self.rest.wait()
            raise RuntimeError("again")

    with capture_logs() as logs:
        async with supervising() as supervisor:
            flapping = Flapping()
            supervisor.keep("flapping", flapping.run)
            await flapping.well.wait()
            with pytest.raises(TransientFailure, match="flapping: RuntimeError"):
                supervisor.check()
    assert len(logs) == 1, "neither its failures nor its recoveries are told each time"


async def test_work_that_may_fail_makes_no_connection_unfit_unless_by_a_fault() -> None:
    async with supervising() as supervisor:
        loop = Loop(*[TransientFailure("not heard")] * 3)
        supervisor.keep("bell", loop.run, optional=True)
        await loop.well.wait()
        supervisor.check()
        broken = Loop(*[RuntimeError("unforeseen")] * 3)
        supervisor.keep("broken bell", broken.run, optional=True)
        await broken.well.wait()
        with pytest.raises(TransientFailure, match="broken bell: RuntimeError"):
            supervisor.check()


async def test_pauses_grow_to_a_bound() -> None:
    supervisor = Supervisor(first_pause=timedelta(seconds=1), longest_pause=timedelta(seconds=60))
    for failures, longest in ((1, 1), (2, 2), (5, 16), (7, 60), (100_000, 60)):
        assert longest / 2 <= supervisor.pause(failures) <= longest


async def test_a_task_knows_nothing_of_the_call_that_started_it() -> None:
    found: list[object] = []
    well = asyncio.Event()

    async def look(done: Done) -> None:
        found.append((_CALL.get(None), structlog.contextvars.get_contextvars()))
        if len(found) == 1:
            raise RuntimeError("once more")
        well.set()

    async with supervising() as supervisor:
        _CALL.set("somebody's")
        with structlog.contextvars.bound_contextvars(request_id="somebody's"):
            supervisor.keep("loop", look)
            await well.wait()
    assert found == [(None, {}), (None, {})]


async def test_what_swallows_its_end_is_asked_again_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver may swallow a cancellation: asyncio.wait_for before Python 3.12 does."""
    monkeypatch.setattr("changefeed_gateway.core.supervision._ASK_AGAIN", 0.01)
    begun = asyncio.Event()

    async def deaf(done: Done) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    async with supervising() as supervisor:
        task = supervisor.keep("deaf", deaf)
        await begun.wait()
        await supervisor.aclose()
        assert not task.running
        with pytest.raises(RuntimeError, match="closed"):
            supervisor.keep("late", deaf)


async def test_a_task_that_fails_at_its_end_ends() -> None:
    begun = asyncio.Event()
    starts = 0

    async def clumsy(done: Done) -> None:
        nonlocal starts
        starts += 1
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("while closing")

    async with supervising() as supervisor:
        supervisor.keep("clumsy", clumsy)
        await begun.wait()
        await supervisor.aclose()
    assert starts == 1
