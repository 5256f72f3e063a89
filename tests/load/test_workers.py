"""Several processes behind one port, as an operator runs them: `changefeed serve` with `workers`, on PostgreSQL."""

import asyncio
import os
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from changefeed_client import BEGINNING, ChangeFeedClient, collection, connect
from changefeed_gateway.app.monitoring.added_up import LARGEST, SMALLEST, SUMMED
from tests.databases import PostgresForTests
from tests.listening import free_port
from tests.load.gateway_process import GatewayProcess
from tests.load.scene import Scene, open_scene
from tests.monitored import until

pytestmark = [pytest.mark.xdist_group("load"), pytest.mark.timeout(120)]

ITEMS = collection("main/public.items")


class Monitoring:
    """What a gateway shows over HTTP."""

    def __init__(self) -> None:
        self.address = f"127.0.0.1:{free_port()}"

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page."""
        return await asyncio.to_thread(self._get, path)

    def _get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}", timeout=30) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    async def metrics(self) -> list[Metric]:
        """All of them."""
        status, text = await self.get("/metrics")
        assert status == 200, text
        return list(text_string_to_metric_families(text))

    async def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of a name that have these labels."""
        return sum(
            sample.value
            for metric in await self.metrics()
            for sample in metric.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def until(self, wanted: float, name: str, **labels: str) -> None:
        """Wait until a value is so."""

        async def is_so() -> bool:
            return await self.value(name, **labels) == wanted

        await until(is_so, 60)


class Consumers:
    """Clients with a connection each, which read everything."""

    def __init__(self, target: str) -> None:
        self.keys: list[list[int]] = []
        self._target = target
        self._stack = AsyncExitStack()
        self._reading: list[asyncio.Task[None]] = []

    async def one_more(self) -> None:
        """Begin to read on one more connection."""
        client = await self._stack.enter_async_context(connect(self._target))
        self.keys.append([])
        self._reading.append(asyncio.create_task(self._read(client, self.keys[-1])))

    async def _read(self, client: ChangeFeedClient, keys: list[int]) -> None:
        async for delivery in client.tail(ITEMS, BEGINNING):
            keys += [int(event.key.components[0].value) for event in delivery.events]

    async def until_read(self, scene: Scene) -> None:
        """Wait until each of them has read all that there is, and nothing besides but what came again."""
        found = await scene.database.execute("SELECT id FROM items ORDER BY id")
        wanted = [row[0] for row in await found.fetchall()]

        async def all_have() -> bool:
            return all(set(keys) >= set(wanted) for keys in self.keys)

        await until(all_have, 60)
        for keys in self.keys:
            assert list(dict.fromkeys(keys)) == wanted

    async def aclose(self) -> None:
        """Read no more."""
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)
        await self._stack.aclose()


async def open_streams(client: ChangeFeedClient) -> dict[str, set[str]]:
    """The request ids of the open streams of each worker that has some, by its pid."""
    found: dict[str, set[str]] = {}
    async for page in client.streams():
        for stream in page.streams:
            found.setdefault(page.gateway.rpartition(":")[2], set()).add(stream.request_id)
    return found


@pytest.fixture(scope="module")
def monitoring() -> Monitoring:
    return Monitoring()


@pytest.fixture
async def client(scene: Scene) -> AsyncIterator[ChangeFeedClient]:
    async with connect(scene.gateway.target) as client:
        yield client


@pytest.fixture
async def consumers(scene: Scene, client: ChangeFeedClient) -> AsyncIterator[Consumers]:
    """So many that both workers have some."""
    consumers = Consumers(scene.gateway.target)
    try:
        while len(await open_streams(client)) < 2:
            await consumers.one_more()
            assert len(consumers.keys) < 30, "all connections came to one worker"
            await until(_all_open(client, len(consumers.keys)))
        yield consumers
    finally:
        await consumers.aclose()


def _all_open(client: ChangeFeedClient, count: int) -> Callable[[], Awaitable[bool]]:
    async def all_open() -> bool:
        return sum(map(len, (await open_streams(client)).values())) == count

    return all_open


@pytest.fixture(scope="module")
async def module_scene(
    postgres: PostgresForTests, tmp_path_factory: pytest.TempPathFactory, monitoring: Monitoring
) -> AsyncIterator[Scene]:
    settings = {"workers": 2, "monitoring": {"listen": monitoring.address}}
    async with open_scene(postgres, tmp_path_factory.mktemp("workers"), settings=settings) as scene:
        yield scene
    await postgres.drop(scene.dsn)


@pytest.fixture
async def scene(module_scene: Scene, monitoring: Monitoring) -> Scene:
    """Two workers, both of which serve: those of the test before where it has let them live."""
    if not module_scene.gateway.running:
        await module_scene.gateway.start()
    await monitoring.until(2, "changefeed_workers")
    await monitoring.until(0, "changefeed_streams")
    return module_scene


def workers_of(gateway: GatewayProcess) -> list[int]:
    """Their pids."""
    return [child.pid for child in psutil.Process(gateway.pid).children()]


async def all_end(pids: list[int]) -> None:
    """Wait until processes have ended."""

    async def ended() -> bool:
        return not any(psutil.pid_exists(pid) for pid in pids)

    await until(ended, 30)


@pytest.mark.req("P1", "P4")
async def test_a_killed_worker_loses_nothing_cuts_nobody_elses_streams_and_comes_back(
    scene: Scene, consumers: Consumers, client: ChangeFeedClient, monitoring: Monitoring
) -> None:
    await consumers.until_read(scene)
    before = await open_streams(client)
    assert {int(pid) for pid in before} == set(workers_of(scene.gateway))
    await monitoring.until(len(consumers.keys), "changefeed_streams")
    events = await monitoring.value("changefeed_delivered_events_total", method="Subscribe")
    await scene.insert(50)
    await consumers.until_read(scene)
    delivered = await monitoring.value("changefeed_delivered_events_total", method="Subscribe")
    assert delivered == events + 50 * len(consumers.keys), "what both have delivered"
    restarts = await monitoring.value("changefeed_worker_restarts_total")
    killed, spared = before
    os.kill(int(killed), signal.SIGKILL)
    await scene.insert(50)
    await monitoring.until(restarts + 1, "changefeed_worker_restarts_total")
    await monitoring.until(2, "changefeed_workers")
    await scene.insert(50)
    await consumers.until_read(scene)
    after = await open_streams(client)
    assert before[spared] <= after[spared], "their streams are the same as before"
    assert killed not in after
    assert await monitoring.value("changefeed_delivered_events_total", method="Subscribe") >= delivered
    pids = set(workers_of(scene.gateway))
    assert len(pids) == 2
    assert int(spared) in pids


async def test_what_is_told_of_several_workers_is_told_as_of_one_gateway(
    scene: Scene, consumers: Consumers, monitoring: Monitoring
) -> None:
    await scene.insert(10)
    await consumers.until_read(scene)
    families = {metric.name: metric for metric in await monitoring.metrics()}
    ours = {name: metric for name, metric in families.items() if name.startswith("changefeed_")}
    gauges = {name for name, metric in ours.items() if metric.type == "gauge"} - {"changefeed_workers"}
    assert gauges - LARGEST - SMALLEST - SUMMED == set(), "each is said how it adds up"
    assert (LARGEST | SMALLEST | SUMMED) - gauges <= {"changefeed_stream_changes_behind"}, "and nothing else is"
    for name, metric in ours.items():
        labels = [(sample.name, tuple(sample.labels.items())) for sample in metric.samples]
        assert len(labels) == len(set(labels)), name
        assert not any("worker" in sample.labels for sample in metric.samples)
    processes = {sample.labels["worker"] for sample in families["process_resident_memory_bytes"].samples}
    assert processes == {"0", "1", "2"}, "the parent is 0"
    assert (await monitoring.get("/readyz"))[1] == "main: serving\n"


async def test_a_worker_that_stands_still_is_not_alive_and_hides_no_other(
    scene: Scene, client: ChangeFeedClient, consumers: Consumers, monitoring: Monitoring
) -> None:
    stopped = max(workers_of(scene.gateway))
    assert (await monitoring.get("/livez"))[0] == 200
    os.kill(stopped, signal.SIGSTOP)
    try:
        assert [await asyncio.wait_for(asked, 30) for asked in map(monitoring.get, ("/livez", "/readyz"))] == [
            (503, "the event loop of a worker has not answered for 3 s\n"),
            (503, "main: not serving\n"),
        ]
        assert await monitoring.value("process_resident_memory_bytes", worker="0") > 0
    finally:
        os.kill(stopped, signal.SIGCONT)

    async def alive() -> bool:
        return (await monitoring.get("/livez"))[0] == 200 and (await monitoring.get("/readyz"))[0] == 200

    await until(alive)


async def test_a_drain_ends_all_workers_in_good_order(scene: Scene, consumers: Consumers) -> None:
    await scene.insert(10)
    await consumers.until_read(scene)
    pids = workers_of(scene.gateway)
    # As systemd and a terminal do: every process is signalled, and the parent passes it on besides.
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    assert await scene.gateway.stop() == 0
    await all_end(pids)
    await scene.gateway.start()
    await scene.insert(10)
    await consumers.until_read(scene)


async def test_workers_do_not_outlive_their_parent(scene: Scene) -> None:
    pids = workers_of(scene.gateway)
    await scene.gateway.kill()
    await all_end(pids)


async def test_a_worker_that_does_not_end_is_killed(scene: Scene) -> None:
    pids = workers_of(scene.gateway)
    os.kill(pids[0], signal.SIGSTOP)
    process = psutil.Process(scene.gateway.pid)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert await scene.gateway.wait() == 0
    await all_end(pids)
    await scene.gateway.kill()


async def test_what_keeps_one_from_serving_is_said_once_and_ends_all(tmp_path: Path) -> None:
    settings: dict[str, object] = {
        "logging": {"level": "error", "format": "json"},
        "security": {"access_tokens_file": str(tmp_path / "nowhere")},
    }
    said = []
    for workers in (1, 3):
        gateway = GatewayProcess(tmp_path, "host=nowhere", settings={**settings, "workers": workers})
        with pytest.raises(RuntimeError) as refused:
            await gateway.start()
        assert await gateway.wait() == 10
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert "security.access_tokens_file" in said[0]


async def test_a_port_of_another_gateway_is_refused(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    settings = {"workers": 2, "listen": scene.gateway.target}
    second = GatewayProcess(tmp_path / "second", scene.dsn, settings=settings)
    with pytest.raises(RuntimeError, match="no other process listens on"):
        await second.start()
    assert await second.wait() == 10
