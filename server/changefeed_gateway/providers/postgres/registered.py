"""A connection whose socket stays registered with the event loop from one answer to the next.

psycopg registers it anew for each part of an answer and sets a timer beside it. For a short statement that costs about
as much as all the rest in Python; for a page it is done dozens of times.
"""

import asyncio
from typing import Any, Final, TypeVar, cast

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import TupleRow
from psycopg.waiting import Ready, Wait

_T = TypeVar("_T")

_INTERVAL: Final = 0.1
"""Seconds; psycopg's own, where it waits itself."""


class RegisteredConnection(psycopg.AsyncConnection[TupleRow]):
    """As psycopg's, which still does all but wait for answers: it sends what does not fit at once, and cancels."""

    _loop: asyncio.AbstractEventLoop
    _socket: int | None = None
    """The one that is registered."""
    _reading: PQGen[Any] | None = None
    """What reads the answer that is awaited now."""
    _answer: asyncio.Future[Any] | None = None
    taken_at: float = 0.0
    """When the pool gave it."""

    async def wait(self, gen: PQGen[_T], interval: float = _INTERVAL, timeout: float | None = None) -> _T:  # noqa: ASYNC109
        """See `psycopg.AsyncConnection.wait`."""
        if timeout is not None:
            return await self._leave_to_psycopg(gen, interval, timeout)
        try:
            wanted = next(gen)
        except StopIteration as end:
            return cast(_T, end.value)
        except BaseException:
            self._unregister()
            raise
        if wanted != Wait.R:
            return await self._leave_to_psycopg(_begun(gen, wanted), interval)
        try:
            answer = await self._read(gen)
        except asyncio.CancelledError as error:
            return await self._leave_to_psycopg(_begun(gen, wanted, error), interval)
        if isinstance(answer, _Begun):
            return await self._leave_to_psycopg(cast(PQGen[_T], answer), interval)
        return answer

    async def _leave_to_psycopg(self, gen: PQGen[_T], interval: float, timeout: float | None = None) -> _T:  # noqa: ASYNC109
        # It registers the socket itself, and takes that back.
        self._unregister()
        return await super().wait(gen, interval, timeout)

    async def close(self) -> None:
        """See `psycopg.AsyncConnection.close`."""
        # Before the number of its socket is another one's.
        self._unregister()
        await super().close()

    async def _read(self, gen: PQGen[_T]) -> "_T | _Begun":
        if self._socket is None:
            self._loop, self._socket = asyncio.get_running_loop(), self.pgconn.socket
            self._loop.add_reader(self._socket, self._go_on)
        answer = self._answer = self._loop.create_future()
        self._reading = gen
        try:
            return cast("_T | _Begun", await answer)
        finally:
            self._reading = self._answer = None
            if answer.done() and not answer.cancelled():
                answer.exception()  # It may have come together with a cancellation, and then nobody hears of it.

    def _go_on(self) -> None:
        """Read what has come."""
        if self._reading is None or self._answer is None or self._answer.done():
            # Nobody has asked: the server says good-bye, or more than the answer. Whoever asks next reads it.
            self._unregister()
            return
        try:
            wanted = self._reading.send(Ready.R)
        except StopIteration as end:
            self._answer.set_result(end.value)
        except Exception as error:
            # libpq may have closed the socket, whose number will be another one's.
            self._unregister()
            self._answer.set_exception(error)
        else:
            if wanted != Wait.R:
                self._answer.set_result(_begun(self._reading, wanted))

    def _unregister(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket = None


class _Begun:
    """A generator of psycopg's that waits for something, as it takes one that has not begun."""

    def __init__(self, gen: PQGen[Any], wanted: Wait, error: BaseException | None) -> None:
        self._gen, self._wanted, self._error = gen, wanted, error

    def __next__(self) -> Wait:
        if (error := self._error) is not None:
            self._error = None
            raise error
        return self._wanted

    def send(self, ready: Ready) -> Wait:
        """Say what it waited for."""
        return self._gen.send(ready)


def _begun(gen: PQGen[_T], wanted: Wait, error: BaseException | None = None) -> PQGen[_T]:
    """What goes on with a generator; `error` is raised where it is begun, as psycopg expects a cancellation there."""
    return cast(PQGen[_T], _Begun(gen, wanted, error))
