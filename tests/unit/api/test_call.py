"""The limit on a message's time, whose timer goes on from message to message."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest

from changefeed_gateway.api.call import Call
from changefeed_gateway.api.call_log import CallLog
from changefeed_gateway.core.errors import Reason, Throttled
from changefeed_gateway.core.observation import Observation
from tests.virtual_time import VirtualTime

_LIMIT = timedelta(seconds=60)


class Context:
    """A client that takes a message when it is told to."""

    def __init__(self) -> None:
        self.takes = asyncio.Event()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def set_trailing_metadata(self, metadata: object) -> None: ...

    async def write(self, message: bytes) -> None:
        await self.takes.wait()


class Scene:
    def __init__(self, loop: VirtualTime) -> None:
        self.loop, self.context = loop, Context()
        self.ended: BaseException | None = None
        self.written = 0
        self.call: Call

    async def write_all(self, within: timedelta) -> None:
        context: Any = self.context
        self.call = Call("Subscribe", context, CallLog(), Observation())
        try:
            while True:
                await self.call.write(b"message", within=within)
                self.written += 1
                self.context.takes.clear()
        except BaseException as error:
            self.ended = error
            raise
        finally:
            self.call.end_writes()

    async def at(self, seconds: float, *, takes: bool = False) -> None:
        self.loop.now = seconds
        if takes:
            self.context.takes.set()
        await self.loop.turns()


def run(scenario: Callable[[Scene], Coroutine[None, None, None]]) -> None:
    loop = VirtualTime()
    loop.run(scenario(Scene(loop)))


@pytest.mark.req("P7")
def test_a_write_that_does_not_end_fails_when_its_own_time_is_over_whatever_was_written_before() -> None:
    async def scenario(scene: Scene) -> None:
        writing = asyncio.create_task(scene.write_all(_LIMIT))
        await scene.at(0.0)
        await scene.at(30.0, takes=True)
        assert scene.written == 1
        for seconds in (59.0, 60.0, 61.0, 89.0):
            await scene.at(seconds)
            assert scene.ended is None, "the first message's time is none of the second's"
        await scene.at(90.0)
        assert isinstance(scene.ended, Throttled)
        assert scene.ended.reason == Reason.CONSUMER_TOO_SLOW.value
        await asyncio.wait({writing})
        assert writing.exception() is scene.ended
        assert not writing.cancelling()

    run(scenario)


def test_a_stream_that_waits_for_news_is_not_ended_by_the_time_of_its_last_message() -> None:
    async def scenario(scene: Scene) -> None:
        context: Any = scene.context
        call = Call("Subscribe", context, CallLog(), Observation())
        scene.context.takes.set()
        for seconds in (0.0, 59.0, 300.0):
            await scene.at(seconds)
            await call.write(b"message", within=_LIMIT)
        await scene.at(1_000.0)
        assert call.task is asyncio.current_task()
        assert not call.task.cancelling()
        call.end_writes()

    run(scenario)


def test_a_shorter_limit_counts_from_its_own_message() -> None:
    async def scenario(scene: Scene) -> None:
        context: Any = scene.context
        call = Call("Subscribe", context, CallLog(), Observation())
        scene.context.takes.set()
        await call.write(b"message", within=_LIMIT)
        scene.context.takes.clear()
        asyncio.get_running_loop().call_soon(setattr, scene.loop, "now", 1.0)
        with pytest.raises(Throttled):
            await call.write(b"message", within=timedelta(seconds=1))
        call.end_writes()

    run(scenario)


@pytest.mark.parametrize("late", [False, True])
def test_a_cancellation_of_the_call_is_one_also_in_the_moment_in_which_time_is_over(late: bool) -> None:
    async def scenario(scene: Scene) -> None:
        writing = asyncio.create_task(scene.write_all(_LIMIT))
        await scene.at(0.0)
        if late:
            scene.call.end_write()
        writing.cancel()
        await asyncio.wait({writing})
        assert isinstance(scene.ended, asyncio.CancelledError)
        assert writing.cancelled()

    run(scenario)


def test_a_call_that_ended_leaves_no_timer() -> None:
    async def scenario(scene: Scene) -> None:
        writing = asyncio.create_task(scene.write_all(_LIMIT))
        await scene.at(0.0)
        timer = scene.call._write_timer
        assert timer is not None
        writing.cancel()
        await asyncio.wait({writing})
        assert timer.cancelled()

    run(scenario)
