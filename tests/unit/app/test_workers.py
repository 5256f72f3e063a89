"""Several processes behind one port, part by part: the port, the line, the sums, the pages of their streams."""

import asyncio
import contextlib
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from changefeed.v1.operator_service_pb2 import ListStreamsRequest, ListStreamsResponse
from changefeed_gateway.api.identity.door import Door
from changefeed_gateway.api.operator import OperatorService
from changefeed_gateway.app.monitoring.added_up import LARGEST, SMALLEST, SUMMED, Report, Sums
from changefeed_gateway.app.orders import Orders
from changefeed_gateway.app.workers.assignment import Assignment
from changefeed_gateway.app.workers.line import Answer, Line, NoAnswer, Question
from changefeed_gateway.app.workers.port import ReservedPort
from changefeed_gateway.app.workers.siblings import decoded_question, encoded_question
from changefeed_gateway.core.errors import InvalidRequest
from changefeed_gateway.core.model import EntireCollection
from changefeed_gateway.core.observation import Observation
from changefeed_gateway.core.policy import Principal
from changefeed_gateway.core.streams import Streams
from changefeed_gateway.core.token import TokenKey
from changefeed_gateway.settings import Settings
from changefeed_gateway.settings.values import HostPort

ANY = HostPort("127.0.0.1", 0)
WHO = Principal(name="jwt:alice", groups=frozenset({"operators"}), claims=(("workspace_id", "w1"),))


def listener(address: HostPort, *, shared: bool) -> socket.socket:
    """Listens as gRPC does."""
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(socket.socket())
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        found.bind((address.host, address.port))
        found.listen()
        stack.pop_all()
        return found


@pytest.fixture
def reserved() -> Iterator[ReservedPort]:
    with closing(ReservedPort.of(ANY)) as port:
        yield port


def test_workers_share_a_reserved_port_and_nobody_else_has_it(reserved: ReservedPort) -> None:
    assert reserved.address.port
    with pytest.raises(OSError, match="in use"):
        ReservedPort.of(reserved.address)
    with pytest.raises(OSError, match="in use"):
        listener(reserved.address, shared=False)
    with listener(reserved.address, shared=True), listener(reserved.address, shared=True):
        with pytest.raises(OSError, match="in use"):
            ReservedPort.of(reserved.address)
        reserved.close()
        with pytest.raises(OSError, match="in use"):
            ReservedPort.of(reserved.address)


def test_a_port_that_is_taken_cannot_be_reserved() -> None:
    with listener(ANY, shared=False) as other, pytest.raises(OSError, match="in use"):
        ReservedPort.of(HostPort(*other.getsockname()))


def test_what_connections_of_an_earlier_process_left_keeps_nobody_from_the_port() -> None:
    with listener(ANY, shared=False) as earlier:
        address = HostPort(*earlier.getsockname())
        with socket.create_connection(address) as caller:
            served, _ = earlier.accept()
            served.close()
            assert caller.recv(1) == b"", "who closes first keeps the port in TIME_WAIT"
    with closing(ReservedPort.of(address)) as reserved, listener(reserved.address, shared=True):
        pass


@asynccontextmanager
async def line(answer: Answer, back: Answer) -> AsyncIterator[tuple[Line, Line]]:
    """Both ends, heard as long as the context lasts."""
    ends = [await Line.open(end, one) for end, one in zip(socket.socketpair(), (answer, back), strict=True)]
    heard = [asyncio.create_task(end.listen()) for end in ends]
    try:
        yield ends[0], ends[1]
    finally:
        for task in heard:
            task.cancel()
        await asyncio.wait(heard)


async def silent(question: Question, about: bytes) -> bytes:
    raise NoAnswer(question.value)


async def test_either_end_asks_the_other_and_slow_answers_keep_no_quick_one() -> None:
    slow = asyncio.Event()

    async def answer(question: Question, about: bytes) -> bytes:
        if question is Question.METRICS:
            await slow.wait()
        return about + about

    async with line(answer, answer) as (one, other):
        asked = asyncio.create_task(other.ask(Question.METRICS, b"\0slow"))
        assert await other.ask(Question.STREAMS, b"quick\0") == b"quick\0quick\0"
        assert await one.ask(Question.STREAMS, b"x" * 3_000_000) == b"x" * 6_000_000
        slow.set()
        assert await asked == b"\0slow\0slow"


async def test_who_is_gone_or_cannot_answer_is_no_answer() -> None:
    hold = asyncio.Event()

    async def answer(question: Question, about: bytes) -> bytes:
        hold.set()
        await asyncio.Event().wait()
        return b""

    async with line(silent, answer) as (one, other):
        with pytest.raises(NoAnswer):
            await other.ask(Question.ALIVE)
        asked = asyncio.create_task(one.ask(Question.ALIVE))
        await hold.wait()
        other._writer.close()
        with pytest.raises(NoAnswer):
            await asked
        with pytest.raises(NoAnswer):
            await one.ask(Question.ALIVE)
        one.tell(Question.DRAIN)


async def test_what_is_too_large_to_be_ours_ends_the_line() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        one = await Line.open(ours, silent)
        theirs.sendall(b"\xff" * 13)
        await asyncio.wait_for(one.listen(), 10)
        with pytest.raises(NoAnswer):
            await one.ask(Question.ALIVE)


async def test_who_does_not_read_is_asked_no_more_once_a_megabyte_waits() -> None:
    ours, theirs = socket.socketpair()

    async def ask_on() -> None:
        for _ in range(100):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await one.ask(Question.STREAMS, b"x" * 100_000)

    with theirs:
        one = await Line.open(ours, silent)
        with pytest.raises(NoAnswer, match="does not read"):
            await ask_on()
        one._writer.close()


async def test_the_second_order_ends_at_once_and_the_first_alone_drains() -> None:
    alone, worker = Orders(), Orders()
    for orders, impatient in ((alone, True), (worker, False)):
        orders._signalled(signal.SIGTERM, impatient)
        assert await orders.to_drain() == "SIGTERM"
        assert not orders._end.is_set()
        orders._signalled(signal.SIGINT, impatient)
        assert await orders.to_drain() == "SIGTERM"
    await alone.to_end()
    assert not worker._end.is_set(), "its parent alone cuts it short"


def test_an_assignment_arrives_whole_with_its_secrets() -> None:
    settings = Settings.model_validate(
        {"workers": 2, "connections": {"main": {"provider": "postgres", "dsn": "host=db password=hunter2"}}}
    )
    key = TokenKey(key_id="one", secret=b"\xff secret")
    arrived = Assignment.decoded(Assignment(number=2, settings=settings, keys=[key]).encoded())
    assert (arrived.number, arrived.settings, list(arrived.keys)) == (2, settings, [key])
    assert "hunter2" not in repr(arrived)


@given(
    st.builds(
        Principal,
        name=st.text(),
        groups=st.frozensets(st.text()),
        claims=st.lists(st.tuples(st.text(), st.text())).map(tuple),
    ),
    st.binary(),
)
def test_a_question_for_a_sibling_says_who_asks(principal: Principal, request: bytes) -> None:
    assert decoded_question(encoded_question(principal, request)) == (principal, request)


# --- The sums


def counter(value: float, name: str = "changefeed_calls") -> Metric:
    family = CounterMetricFamily(name, "Calls.", labels=("method",))
    family.add_metric(("Subscribe",), value)
    return family


def gauge(name: str, value: float) -> Metric:
    return GaugeMetricFamily(f"changefeed_{name}", "A gauge.", value=value)


def values(metrics: list[Metric]) -> dict[tuple[str, str], float]:
    """By the sample's name and its worker."""
    return {(s.name, s.labels.get("worker", "")): s.value for metric in metrics for s in metric.samples}


REPORTS = st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["counts", "silent", "dies"]), st.integers(0, 9)))
"""Of a worker: it counts so many more, does not answer, or ends and another process takes its place."""


@given(REPORTS)
def test_no_count_goes_back_and_none_that_was_told_is_lost(steps: list[tuple[int, str, int]]) -> None:
    sums, pids, counts = Sums(), Counter({1: 10, 2: 20, 3: 30}), Counter[tuple[int, int]]()
    before = 0.0
    for worker, what, more in steps:
        if what == "dies":
            pids[worker] += 1
        counts[worker, pids[worker]] += more if what == "counts" else 0
        told = [counter(counts[worker, pids[worker]])] if what == "counts" else None
        shown = values(sums.add_up([Report(worker, pids[worker], told)]))
        total = shown.get(("changefeed_calls_total", ""), 0.0)
        assert total == sum(counts.values()) >= before
        before = total


def test_an_answer_that_comes_after_a_newer_one_takes_nothing_back_and_is_counted_once() -> None:
    sums = Sums()

    def total(*reports: Report) -> float:
        return values(sums.add_up(reports))["changefeed_calls_total", ""]

    assert total(Report(1, 1, [counter(5)])) == 5
    assert total(Report(1, 1, [counter(3)])) == 5
    assert total(Report(1, 2, [counter(1)])) == 6
    assert total(Report(1, 1, [counter(4)])) == 6
    assert total(Report(1, 2, None)) == 6


def test_gauges_are_added_up_as_they_mean_and_processes_stand_apart() -> None:
    reports = [
        Report(
            number,
            number,
            [
                gauge("streams", 3 * number),
                gauge("stream_lag_seconds", number),
                gauge("token_expiry_seconds", number),
                counter(number, "process_cpu_seconds"),
            ],
        )
        for number in (1, 2)
    ]
    assert values(Sums().add_up(reports)) == {
        ("changefeed_streams", ""): 9,
        ("changefeed_stream_lag_seconds", ""): 2,
        ("changefeed_token_expiry_seconds", ""): 1,
        ("process_cpu_seconds_total", "1"): 1,
        ("process_cpu_seconds_total", "2"): 2,
    }
    assert not LARGEST & SMALLEST | LARGEST & SUMMED | SMALLEST & SUMMED


def test_a_gauge_of_a_worker_that_is_gone_is_gone_and_histograms_are_summed() -> None:
    def seconds(count: float) -> Metric:
        family = HistogramMetricFamily("changefeed_call_seconds", "Seconds.")
        family.add_metric((), [("0.1", count), ("+Inf", 2 * count)], 5 * count)
        return family

    sums = Sums()
    sums.add_up([Report(1, 1, [gauge("streams", 3), seconds(1)]), Report(2, 2, [gauge("streams", 4), seconds(2)])])
    (streams, histogram) = sums.add_up([Report(1, 1, [gauge("streams", 5), seconds(2)])])
    assert [sample.value for sample in streams.samples] == [5]
    assert [sample.value for sample in histogram.samples] == [4, 8, 8, 20]


# --- The streams


class Linked:
    """Siblings in this process."""

    def __init__(self, own: int, services: dict[int, OperatorService]) -> None:
        self.own, self.count, self._services = own, 3, services

    async def streams(self, number: int, principal: Principal, request: bytes) -> bytes | None:
        service = self._services.get(number)
        return None if service is None else await service.page(principal, ListStreamsRequest.FromString(request))


def crew(counts: dict[int, int], stack: contextlib.ExitStack) -> dict[int, OperatorService]:
    """Workers that have so many open streams each."""
    services: dict[int, OperatorService] = {}
    for number in counts:
        streams = Streams(Observation())
        services[number] = OperatorService(streams, f"host:{number}", Linked(number, services))
        services[number]._door = Door(scope_of=lambda token: EntireCollection())
        for one in range(counts[number]):
            stack.enter_context(streams.opening(f"{number}/{one}", "host"))
    return services


async def pages(
    service: OperatorService, *, size: int, each: Callable[[ListStreamsResponse], None] = lambda page: None
) -> list[str]:
    found: list[str] = []
    request = ListStreamsRequest(page_size=size)
    while True:
        page = ListStreamsResponse.FromString(await service.page(WHO, request))
        each(page)
        found += [stream.request_id for stream in page.streams]
        if not page.next_page_token:
            return found
        request = ListStreamsRequest(page_size=size, page_token=page.next_page_token)


@pytest.mark.parametrize("asked", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 100])
async def test_whichever_worker_is_asked_tells_the_streams_of_all_once(asked: int, size: int) -> None:
    counts = {1: 3, 2: 0, 3: 2}
    with contextlib.ExitStack() as stack:
        services = crew(counts, stack)
        gateways: set[str] = set()
        found = await pages(services[asked], size=size, each=lambda page: gateways.add(page.gateway))
        assert found == ["1/0", "1/1", "1/2", "3/0", "3/1"]
        assert gateways == {"host:1", "host:2", "host:3"}


async def test_a_worker_that_does_not_answer_hides_no_other() -> None:
    with contextlib.ExitStack() as stack:
        services = crew({1: 1, 2: 1, 3: 1}, stack)
        del services[2]
        assert await pages(services[3], size=10) == ["1/0", "3/0"]


@pytest.mark.parametrize("token", ["9.1", "0.1", "1.", ".1", "1.1.1", "x", "1" * 30, "\u0661"])
async def test_a_page_token_of_no_answer_is_refused(token: str) -> None:
    with contextlib.ExitStack() as stack:
        services = crew({1: 1, 2: 1}, stack)
        with pytest.raises(InvalidRequest):
            await services[1].page(WHO, ListStreamsRequest(page_token=token))
