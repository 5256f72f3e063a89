"""How many streams go on within one turn of the event loop."""

import asyncio
from collections import deque
from contextvars import Context
from typing import Any, Final, TypeVar

_A_TURN: Final = 4
"""With more of them a turn takes so long that whatever needs several turns waits: a new call needs five in grpc.aio, a
page of the database some more (docs/decisions/0018-streams-go-on-in-turns-of-the-loop.md)."""

_Answer = TypeVar("_Answer")


class Turns:
    """Lets some go on within each turn of the loop, in the order in which they came.

    Where a thousand streams have something to send all the time, each turn would otherwise be as long as it takes to
    serve them all.
    """

    def __init__(self, a_turn: int = _A_TURN) -> None:
        self._a_turn = self._left = a_turn
        self._waiting: deque[tuple[asyncio.Future[Any], object]] = deque()
        self._next_is_due = False

    async def come(self) -> None:
        """Go on in this turn if it has room and nobody waits, or else in a later one."""
        if self._left and not self._waiting:
            self._left -= 1
            self._make_due()
        else:
            mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.resolve(mine, None)
            await mine

    def resolve(self, future: "asyncio.Future[_Answer]", answer: _Answer) -> None:
        """Let who awaits a future go on with an answer, in the next turn or a later one."""
        if self._left and not self._waiting and not future.done():
            self._left -= 1
            future.set_result(answer)
        else:
            self._waiting.append((future, answer))
        self._make_due()

    def _make_due(self) -> None:
        if not self._next_is_due:
            self._next_is_due = True
            # In a context of its own: the next turn belongs to no call.
            asyncio.get_running_loop().call_soon(self._begin_turn, context=Context())

    def _begin_turn(self) -> None:
        self._next_is_due = False
        self._left = self._a_turn
        waiting = self._waiting
        while self._left and waiting:
            future, answer = waiting.popleft()
            if not future.done():
                self._left -= 1
                future.set_result(answer)
        if waiting:
            self._make_due()
