"""A worker: one process of several, started by the parent, which it asks what to serve."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from structlog.typing import FilteringBoundLogger

from changefeed_gateway.app.gateway import Gateway, Membership, open_gateway
from changefeed_gateway.app.logs import configure_logging
from changefeed_gateway.app.orders import Orders
from changefeed_gateway.app.serving import collect_seldom, drained
from changefeed_gateway.app.workers.assignment import Assignment
from changefeed_gateway.app.workers.line import Line, NoAnswer, Question
from changefeed_gateway.app.workers.siblings import SiblingsByLine, decoded_question

_log: FilteringBoundLogger = structlog.get_logger(__name__)


async def serve_assignment(end: socket.socket) -> None:
    """Serve what the parent says until it says that it is enough, or is gone; SIGTERM to this process alone drains too.

    `end` is this process's of the line. Raises SettingsError and OperatorError, as a gateway alone would.
    """
    orders = Orders()
    # The parent alone cuts a drain short: whoever signals all processes at once signals this one a second time.
    orders.take_signals(impatient=False)
    answers = _Answers(orders)
    line = await Line.open(end, answers.to)
    listening = asyncio.create_task(line.listen())
    listening.add_done_callback(lambda _: orders.drain("end of the parent"))
    try:
        assignment = Assignment.decoded(await line.ask(Question.ASSIGNMENT))
    except NoAnswer:
        return
    settings = assignment.settings
    configure_logging(settings.logging, worker=assignment.number)
    siblings = SiblingsByLine(line, own=assignment.number, count=settings.workers)
    collect_seldom()
    async with open_gateway(settings, Membership(keys=assignment.keys, siblings=siblings)) as gateway:
        with answers.of(gateway, monitored=settings.monitoring.listen is not None):
            line.tell(Question.BEGUN)
            by = await orders.to_drain()
            _log.info("draining", signal=by, grace=str(settings.shutdown_grace))
            await drained(gateway, settings, orders)
    listening.cancel()


class _Answers:
    """What a worker answers its parent."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._gateway: Gateway | None = None
        self._metrics: Callable[[], bytes] | None = None

    @contextmanager
    def of(self, gateway: Gateway, *, monitored: bool) -> Iterator[None]:
        """Answer for a gateway as long as the context lasts."""
        with _metrics_of(gateway) if monitored else _no_metrics() as self._metrics:
            self._gateway = gateway
            yield
            self._gateway = self._metrics = None

    async def to(self, question: Question, about: bytes) -> bytes:
        """Answer a question. Raises NoAnswer for what there is nothing to say of."""
        match question:
            case Question.ALIVE:
                return b""
            case Question.DRAIN:
                self._orders.drain("the parent")
                return b""
            case Question.END:
                self._orders.end()
                return b""
            case Question.SERVING if self._gateway is not None:
                return json.dumps(self._gateway.server.serving).encode()
            case Question.METRICS if self._metrics is not None:
                return await asyncio.to_thread(self._metrics)
            case Question.STREAMS if self._gateway is not None:
                return await self._gateway.server.streams(*decoded_question(about))
            case _:
                raise NoAnswer(question.value)


@contextmanager
def _metrics_of(gateway: Gateway) -> Iterator[Callable[[], bytes]]:
    """What reads and writes all numbers of this process, for a thread."""
    # Here, and no earlier: whoever shows none does not load what writes them.
    from changefeed_gateway.app.monitoring.added_up import encoded
    from changefeed_gateway.app.monitoring.http import OnLoop
    from changefeed_gateway.app.monitoring.loop import LoopWatch
    from changefeed_gateway.app.monitoring.metrics import process_registry

    async def serving() -> dict[str, bool]:
        return gateway.server.serving

    observation, on_loop = gateway.router.observation, OnLoop(asyncio.get_running_loop())
    registry = process_registry(observation, gateway.router.meter, serving, on_loop)
    watch = LoopWatch(observation.stalls)
    try:
        yield lambda: encoded(registry)
    finally:
        watch.close()


@contextmanager
def _no_metrics() -> Iterator[None]:
    yield None
