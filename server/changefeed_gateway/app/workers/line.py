"""The line between the parent and a worker: a pair of sockets on which either asks the other.

Nobody else can reach it, since it has no name, and its end tells each that the other is gone.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from enum import IntEnum, StrEnum
from itertools import count
from typing import Final, Self

import structlog
from structlog.typing import FilteringBoundLogger

_HEAD: Final = struct.Struct("!IQB")
"""Bytes that follow, the question's number, and the kind."""
_MOST_UNSENT: Final = 1_000_000
"""Bytes that wait for the other end to read them; it is asked nothing more until it does."""


class Question(StrEnum):
    """What parent and worker ask of one another."""

    ASSIGNMENT = "assignment"
    """Of the parent: what to serve."""
    BEGUN = "begun"
    """Of the parent: take note that this worker serves."""
    ALIVE = "alive"
    """Of a worker: whether its event loop turns."""
    SERVING = "serving"
    """Of a worker: which connections serve."""
    METRICS = "metrics"
    """Of a worker: its numbers."""
    STREAMS = "streams"
    """Of a worker, and of the parent for another worker: its open streams, for a caller."""
    DRAIN = "drain"
    """Of a worker: end in good order."""
    END = "end"
    """Of a worker: end now."""


_LARGEST: Final = 64_000_000
"""Bytes of a question or answer; one that says more is none of ours."""

Answer = Callable[[Question, bytes], Awaitable[bytes]]
"""Answers a question about something. Raises NoAnswer."""

_log: FilteringBoundLogger = structlog.get_logger(__name__)


class NoAnswer(Exception):
    """The other end is gone, does not read, or failed to answer."""


class _Kind(IntEnum):
    QUESTION = 0
    ANSWER = 1
    FAILURE = 2


class Line:
    """One end of a line. Only `open` makes one; it is heard as long as `listen` runs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
        self._reader, self._writer, self._answer = reader, writer, answer
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._ended = False

    @classmethod
    async def open(cls, end: socket.socket, answer: Answer) -> Self:
        """Take one of two sockets that belong together."""
        reader, writer = await asyncio.open_connection(sock=end)
        return cls(reader, writer, answer)

    async def ask(self, question: Question, about: bytes = b"") -> bytes:
        """Ask the other end, and wait as long as it takes. Raises NoAnswer."""
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._send(number, _Kind.QUESTION, b"%s\0%s" % (question.encode(), about))
            return await answer
        finally:
            del self._asked[number]

    def tell(self, question: Question) -> None:
        """Ask without waiting; in vain when the other end is gone."""
        if not self._ended:
            self._writer.write(self._framed(next(self._numbers), _Kind.QUESTION, question.encode() + b"\0"))

    async def listen(self) -> None:
        """Answer and be answered until the other end is gone."""
        answering: set[asyncio.Task[None]] = set()
        try:
            while True:
                size, number, kind = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
                if size > _LARGEST:
                    return
                content = await self._reader.readexactly(size)
                if kind == _Kind.QUESTION:
                    task = asyncio.create_task(self._answer_question(number, content))
                    answering.add(task)
                    task.add_done_callback(answering.discard)
                elif (asked := self._asked.get(number)) is not None and not asked.done():
                    asked.set_result(content) if kind == _Kind.ANSWER else asked.set_exception(NoAnswer("it failed"))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.close()
            for task in answering:
                task.cancel()

    def close(self) -> None:
        """End it for both; idempotent."""
        self._ended = True
        self._writer.close()
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(NoAnswer("the other end is gone"))

    async def _answer_question(self, number: int, content: bytes) -> None:
        name, _, about = content.partition(b"\0")
        question = Question(name.decode())
        try:
            answer = await self._answer(question, about)
        except NoAnswer:
            self._send(number, _Kind.FAILURE, b"")
        except Exception:
            _log.exception("a question between processes failed", question=question.value)
            self._send(number, _Kind.FAILURE, b"")
        else:
            self._send(number, _Kind.ANSWER, answer)

    def _send(self, number: int, kind: _Kind, content: bytes) -> None:
        if self._ended or self._writer.transport.get_write_buffer_size() > _MOST_UNSENT:
            if kind == _Kind.QUESTION:
                raise NoAnswer("the other end is gone" if self._ended else "the other end does not read")
            return
        self._writer.write(self._framed(number, kind, content))

    def _framed(self, number: int, kind: _Kind, content: bytes) -> bytes:
        return _HEAD.pack(len(content), number, kind) + content
