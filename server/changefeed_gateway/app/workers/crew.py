"""The workers of a parent: started, started anew when they end unasked, asked, and ended."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

from changefeed_gateway.app.orders import Orders
from changefeed_gateway.app.workers.assignment import Assignment
from changefeed_gateway.app.workers.line import Line, NoAnswer, Question
from changefeed_gateway.core.errors import TransientFailure
from changefeed_gateway.core.supervision import Done, Supervisor
from changefeed_gateway.core.token import TokenKey
from changefeed_gateway.settings import Settings

_SECONDS: Final = 3.0
"""For a worker to answer what the parent asks on behalf of a probe or a scrape, which have five themselves."""
_AFTER_THE_GRACE: Final = 5.0
"""Seconds for workers whose drain is over to end; then they are killed."""

_COMMAND: Final = (sys.executable, "-P", "-m", "changefeed_gateway.cli.worker")
"""-P: nothing is imported from the working directory."""

_log: FilteringBoundLogger = structlog.get_logger(__name__)


class WorkerRefused(Exception):
    """The first worker ended before it served, and has said why: no other would fare better."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the first worker {how_it_ended(code)} before it served")
        self.code = code
        """Its exit code; negative, the signal that ended it."""


class Worker:
    """One place in the crew: a process, and the next one when it ends unasked."""

    def __init__(self, crew: "Crew", assignment: Assignment) -> None:
        self.number = assignment.number
        self.starts = 0
        """How often a process was started here."""
        self.serves = False
        """Whether a process serves here now."""
        self.process: asyncio.subprocess.Process | None = None
        self.trial: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        """How the first process fares: None once it serves, its exit code when it ended before."""
        self._crew, self._assignment = crew, assignment
        self._line: Line | None = None
        self._done: Done | None = None

    async def run(self, done: Done) -> None:
        """Start a process and wait for its end. Raises TransientFailure when nobody asked for it."""
        self._done = done
        ours, theirs = socket.socketpair()
        line = await Line.open(ours, self._answer)
        try:
            with theirs:
                # A group of its own: what a terminal sends to all of a group is the parent's to pass on.
                process = await asyncio.create_subprocess_exec(*_COMMAND, stdin=theirs.fileno(), process_group=0)
        except BaseException:
            # A process that was started all the same finds nobody to ask, and ends.
            line.close()
            raise
        self.starts += 1
        self.process, self._line = process, line
        listening = asyncio.create_task(line.listen())
        try:
            if self._crew.ending:
                line.tell(Question.DRAIN)
            code = await process.wait()
        finally:
            self.serves = False
            listening.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()
            self.process = self._line = None
        if not self.trial.done():
            self.trial.set_result(code)
            if self._crew.is_trial(self):
                return
        if not self._crew.ending:
            raise self._ended(process.pid, code)

    def _ended(self, pid: int, code: int) -> TransientFailure:
        how = how_it_ended(code)
        _log.error("a worker ended unasked and is started anew", number=self.number, pid=pid, how=how)
        failure = TransientFailure(f"worker {self.number} {how}")
        failure.logged = True
        return failure

    async def ask(self, question: Question, about: bytes = b"") -> bytes | None:
        """Ask the process that serves here; None where it does not answer, or does not serve."""
        if self._line is None or not self.serves:
            return None
        try:
            async with asyncio.timeout(_SECONDS):
                return await self._line.ask(question, about)
        except (NoAnswer, TimeoutError):
            return None

    def tell(self, question: Question) -> None:
        """Tell the process, if there is one, that it is to end."""
        if self._line is not None:
            self._line.tell(question)

    async def _answer(self, question: Question, about: bytes) -> bytes:
        match question:
            case Question.ASSIGNMENT:
                return self._assignment.encoded()
            case Question.BEGUN:
                self._begin()
                return b""
            case Question.STREAMS:
                number, _, asked = about.partition(b"\0")
                answer = await self._crew.workers[int(number) - 1].ask(Question.STREAMS, asked)
                if answer is not None:
                    return answer
                raise NoAnswer("that worker does not answer")
            case _:
                raise NoAnswer(question.value)

    def _begin(self) -> None:
        assert self.process is not None  # noqa: S101 - it says so itself
        assert self._done is not None  # noqa: S101 - as above
        self.serves = True
        self._done()
        _log.info("a worker serves", number=self.number, pid=self.process.pid)
        if not self.trial.done():
            self.trial.set_result(None)


class Crew:
    """All workers of one parent."""

    def __init__(self, settings: Settings, keys: Sequence[TokenKey]) -> None:
        """`settings` name the port that is reserved; `keys` are those of the tokens."""
        self.ending = False
        self.workers = [
            Worker(self, Assignment(number=number, settings=settings, keys=keys))
            for number in range(1, settings.workers + 1)
        ]
        self._connections = tuple(settings.connections)
        self._supervisor = Supervisor()

    def is_trial(self, worker: Worker) -> bool:
        """Whether a worker goes before the others: what keeps it from serving would keep them all."""
        return worker is self.workers[0]

    async def start(self) -> None:
        """Start the first worker and, once it serves, the others. Raises WorkerRefused when it does not come so far."""
        first, *others = self.workers
        self._keep(first)
        code = await first.trial
        if code is not None:
            raise WorkerRefused(code)
        for worker in others:
            self._keep(worker)

    def _keep(self, worker: Worker) -> None:
        if not self.ending:
            self._supervisor.keep(f"worker {worker.number}", worker.run)

    def counted(self) -> tuple[int, int]:
        """How many workers serve now, and how often one was started anew."""
        starts = (worker.starts for worker in self.workers)
        return sum(worker.serves for worker in self.workers), sum(max(0, count - 1) for count in starts)

    async def alive(self) -> None:
        """Implements `monitoring.http.Alive`: the event loop of each worker that serves must turn."""
        if any(answer is None for answer in await self._answers(Question.ALIVE)):
            raise TimeoutError(f"the event loop of a worker has not answered for {_SECONDS:g} s")

    async def serving(self) -> dict[str, bool]:
        """Implements `monitoring.http.Serving`: a connection serves where every worker that serves says so."""
        answers = [] if self.ending else await self._answers(Question.SERVING)
        told: list[dict[str, bool]] = [{} if answer is None else json.loads(answer) for answer in answers]
        return {name: bool(told) and all(each.get(name, False) for each in told) for name in self._connections}

    async def _answers(self, question: Question) -> list[bytes | None]:
        """Of those that serve before and after."""
        asked = [worker for worker in self.workers if worker.serves]
        answers = await asyncio.gather(*(worker.ask(question) for worker in asked))
        return [answer for worker, answer in zip(asked, answers, strict=True) if worker.serves]

    async def metrics(self) -> list[tuple[int, int, bytes | None]]:
        """Of each worker that has a process its number, which process it is, and its metrics if it says them."""
        asked = [(worker, worker.starts) for worker in self.workers if worker.process is not None]
        answers = await asyncio.gather(*(worker.ask(Question.METRICS) for worker, _ in asked))
        return [(worker.number, start, answer) for (worker, start), answer in zip(asked, answers, strict=True)]

    async def drain(self, grace: timedelta, orders: Orders) -> None:
        """End all workers in good order, or at once when that is ordered; who does not end is killed."""
        self.ending = True
        self._tell(Question.DRAIN)
        ended = asyncio.create_task(self._all_ended())
        at_once = asyncio.create_task(orders.to_end())
        try:
            await asyncio.wait({ended, at_once}, timeout=grace.total_seconds(), return_when=asyncio.FIRST_COMPLETED)
            # Who has drained in time ends by itself; of the others some may read no more.
            self._tell(Question.END)
            await asyncio.wait({ended}, timeout=_AFTER_THE_GRACE)
        finally:
            at_once.cancel()
            ended.cancel()
            await self.aclose()

    def _tell(self, question: Question) -> None:
        for worker in self.workers:
            worker.tell(question)

    async def _all_ended(self) -> None:
        await asyncio.gather(*(worker.process.wait() for worker in self.workers if worker.process is not None))

    async def aclose(self) -> None:
        """Kill what still runs; idempotent."""
        self.ending = True
        if left := [worker.number for worker in self.workers if worker.process is not None]:
            _log.warning("workers did not end in time and are killed", numbers=left)
        await self._supervisor.aclose()


def how_it_ended(code: int) -> str:
    """In words."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
