"""The database restarts, its connections are cut, its doorbell falls silent: streams go on and nothing is lost."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from changefeed.v1.change_feed_service_pb2_grpc import ChangeFeedServiceStub
from changefeed_gateway.providers.postgres.embedded.server import EmbeddedPostgres
from tests.conformance.client import ENTIRE, NOW, Refusal, after, logical, refusal
from tests.databases import BINARIES, LOG, PostgresForTests, server_directory
from tests.load.database_relay import DOORBELL, DatabaseRelay
from tests.load.readers import Reader
from tests.load.scene import Scene, keys, open_scene

pytestmark = [pytest.mark.xdist_group("load"), pytest.mark.timeout(120)]


@dataclass
class CarefulReader(Reader):
    """A consumer that also remembers how it was refused; anything but UNAVAILABLE with RetryInfo ends it."""

    refusals: list[Refusal] = field(default_factory=list)

    async def run(self) -> None:
        while True:
            async with self.gateway.channel() as channel:
                stub = ChangeFeedServiceStub(channel)
                try:
                    async for token, events in self._pages(stub) if self.page_size else self._stream(stub):
                        self._keep(token, events)
                except grpc.aio.AioRpcError as error:
                    refused = Refusal.of_error(error)
                    assert refused.code is grpc.StatusCode.UNAVAILABLE, refused
                    assert refused.retry_delay is not None, refused
                    self.refusals.append(refused)
                    self.grown.set()
                    self._may_repeat = True
                    await asyncio.sleep(refused.retry_delay.total_seconds())


@asynccontextmanager
async def reading(scene: Scene) -> AsyncIterator[list[CarefulReader]]:
    """Streams and unary readers at work until the end of the block, each from the beginning."""
    readers = [
        CarefulReader("stream", scene.gateway, scene.address, ENTIRE),
        CarefulReader("stream of a shelf", scene.gateway, scene.address, logical("0")),
        CarefulReader("pages", scene.gateway, scene.address, ENTIRE, page_size=50),
        CarefulReader("pages of a shelf", scene.gateway, scene.address, logical("0"), page_size=200),
    ]
    running = [asyncio.create_task(reader.run()) for reader in readers]
    try:
        yield readers
        for task in running:
            assert not task.done(), task.exception()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def all_have(readers: list[CarefulReader], written: list[str]) -> None:
    """Wait until every reader has every change, and check that each has them in the order of their commits."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60):
            for reader in readers:
                await reader.wait_for(len(written))
    assert {reader.name: len(reader.events) for reader in readers} == dict.fromkeys(
        (reader.name for reader in readers), len(written)
    )
    for reader in readers:
        assert [event.key for event in reader.events] == written, reader.name


_START = """
import pathlib, sys
from changefeed_gateway.providers.postgres.embedded.server import EmbeddedPostgres
binaries = pathlib.Path(sys.argv[2]) if sys.argv[2:] else None
EmbeddedPostgres(pathlib.Path(sys.argv[1]), binaries=binaries).start()
"""


async def stop_fast(postgres: PostgresForTests) -> None:
    """What an operator's restart does: sessions are ended, everything is written."""
    await asyncio.to_thread(postgres.server.stop)


async def stop_immediately(postgres: PostgresForTests) -> None:
    """As a crash: the server recovers when it starts again."""
    server = psutil.Process(int((postgres.server.data_directory / "postmaster.pid").read_text().split()[0]))
    server.send_signal(signal.SIGQUIT)
    async with asyncio.timeout(30):
        while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110 - not our child
            await asyncio.sleep(0.01)


async def start_elsewhere(data_directory: Path) -> None:
    """Start a server from another process, so that the one that stops it need not be its parent."""
    places = [str(place) for place in (data_directory, BINARIES) if place is not None]
    starter = await asyncio.create_subprocess_exec(sys.executable, "-c", _START, *places)
    assert await starter.wait() == 0


async def start_again(postgres: PostgresForTests) -> None:
    """Start a server that was stopped."""
    await start_elsewhere(postgres.server.data_directory)
    await asyncio.to_thread(postgres.server.start)


@pytest.fixture
async def own_postgres() -> AsyncIterator[PostgresForTests]:
    """A server that the test may stop."""
    with server_directory() as directory:
        data_directory = Path(directory) / "data"
        await start_elsewhere(data_directory)
        async with EmbeddedPostgres(data_directory, binaries=BINARIES) as server:
            postgres = PostgresForTests(server)
            await postgres.make_templates()
            yield postgres


@pytest.mark.req("CF-07", "P1", "P2", "SC-2")
async def test_streams_outlive_restarts_of_the_database(own_postgres: PostgresForTests, tmp_path: Path) -> None:
    async with open_scene(own_postgres, tmp_path) as scene, reading(scene) as readers:
        written = await scene.insert(100)
        await all_have(readers, written)
        stops: list[Callable[[PostgresForTests], Awaitable[None]]] = [stop_fast, stop_immediately]
        for stop in stops:
            # Half of these are on their way to the readers when the server goes.
            written += await scene.insert(300)
            await stop(own_postgres)
            await start_again(own_postgres)
            scene.database = await scene.connect()
            started = time.monotonic()
            written += await scene.insert(20)
            await all_have(readers, written)
            print(f"{stop.__name__}: caught up {time.monotonic() - started:.2f} s after the restart")
        assert not [reader for reader in readers if reader.refusals and not reader.page_size], "a stream was ended"
    print([len(reader.refusals) for reader in readers], "refusals")


@pytest.mark.req("CF-07", "P1", "P4")
async def test_a_long_outage_is_unavailable_with_a_time_to_try_again(
    own_postgres: PostgresForTests, tmp_path: Path
) -> None:
    async with open_scene(own_postgres, tmp_path, settings={"limits": {"outage_patience": "1s"}}) as scene:
        written = await scene.insert(10)
        client = scene.client
        reader = CarefulReader("stream", scene.gateway, scene.address, ENTIRE)
        running = asyncio.create_task(reader.run())
        await reader.wait_for(10)
        page = await client.read(after(reader.token))
        await stop_fast(own_postgres)
        began = time.monotonic()
        start = after(page.continuation_token)
        calls = [refusal(client.read(start, wait=2, deadline=deadline)) for deadline in (3, 30)]
        for unary in await asyncio.gather(*calls):
            assert unary.code is grpc.StatusCode.UNAVAILABLE
            assert unary.category == "TRANSIENT_FAILURE"
            assert unary.retry_delay
            assert "5432" not in unary.message
        print(f"unary refused after {time.monotonic() - began:.1f} s")
        async with asyncio.timeout(30):
            while not reader.refusals:
                reader.grown.clear()
                await reader.grown.wait()
        print(f"stream refused after {time.monotonic() - began:.1f} s")
        async with grpc.aio.insecure_channel(scene.gateway.target) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(  # type: ignore[attr-defined]
                health_pb2.HealthCheckRequest(service="main"), timeout=30
            )
            async for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                    break
            watch.cancel()
        await start_again(own_postgres)
        scene.database = await scene.connect()
        written += await scene.insert(10)
        await all_have([reader], written)
        assert keys((await client.read_until(after(page.continuation_token), 10)).events) == written[10:]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def relayed_scene(postgres: PostgresForTests, directory: Path) -> AsyncIterator[tuple[DatabaseRelay, Scene]]:
    """A gateway that reaches its database through a relay."""
    dsn = await postgres.fresh(LOG)
    relay = DatabaseRelay(dsn)
    try:
        async with open_scene(postgres, directory, dsn=dsn, gateway_dsn=await relay.start()) as scene:
            yield relay, scene
    finally:
        await relay.stop()


@pytest.mark.req("CF-07", "P1", "P2", "P3")
async def test_connections_cut_in_the_middle_of_pages_lose_nothing(postgres: PostgresForTests, tmp_path: Path) -> None:
    async with relayed_scene(postgres, tmp_path) as (relay, scene):
        written = await scene.insert(4_000, note_bytes=300)
        relay.cut_every = 700_000
        async with reading(scene) as readers:
            for _ in range(20):
                written += await scene.insert(100, note_bytes=300)
                await readers[0].wait_for(len(written) - 500)
            await all_have(readers, written)
            assert relay.cuts > 5
            orders = {tuple(reader.order) for reader in readers}
            assert len(orders) == 1, "event ids differ"
        print(f"{relay.cuts} cuts, {[len(reader.refusals) for reader in readers]} refusals")


@pytest.mark.req("CF-07", "P1")
async def test_backends_terminated_all_the_time_lose_nothing(postgres: PostgresForTests, tmp_path: Path) -> None:
    kill = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
              WHERE datname = current_database() AND application_name LIKE 'changefeed-gateway%'"""
    async with open_scene(postgres, tmp_path) as scene, reading(scene) as readers:
        written: list[str] = []
        killed = 0
        for _ in range(15):
            written += await scene.insert(40)
            row = await (await scene.database.execute(kill.encode())).fetchone()
            killed += row[0] if row else 0
            written += await scene.insert(40)
            await readers[0].wait_for(len(written) - 80)
        await all_have(readers, written)
        print(f"{killed} backends ended, {[len(reader.refusals) for reader in readers]} refusals")
        assert killed > 15


@pytest.mark.req("P1")
async def test_a_doorbell_that_died_silently_costs_only_time(postgres: PostgresForTests, tmp_path: Path) -> None:
    async with relayed_scene(postgres, tmp_path) as (relay, scene), scene.client.subscribe(NOW) as stream:
        await stream.until_live()
        written = await scene.insert()
        await stream.until_events(1)
        assert relay.stall(DOORBELL) == 1
        latencies = []
        for _ in range(4):
            began = time.monotonic()
            written += await scene.insert()
            await stream.until_events(len(written))
            latencies.append(time.monotonic() - began)
        assert keys(stream.events) == written
        assert max(latencies) < 8, "the safety poll comes once a second, a heartbeat after 10"
        print("latencies without a doorbell:", [f"{latency:.3f}" for latency in latencies])


@pytest.mark.req("P1")
async def test_a_doorbell_that_is_cut_off_is_hung_anew(postgres: PostgresForTests, tmp_path: Path) -> None:
    await_and_end_it = """DO $$
        BEGIN
            LOOP
                PERFORM pg_stat_clear_snapshot();
                PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name = 'changefeed-gateway doorbell';
                EXIT WHEN FOUND;
                PERFORM pg_sleep(0.01);
            END LOOP;
        END $$"""
    async with open_scene(postgres, tmp_path) as scene, scene.client.subscribe(NOW) as stream:
        await stream.until_live()
        written: list[str] = []
        for _ in range(3):
            await scene.database.execute(await_and_end_it)
            written += await scene.insert()
            await stream.until_events(len(written))
        assert keys(stream.events) == written
