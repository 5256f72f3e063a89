"""SIGTERM: everybody is told, nobody loses anything, the process is gone within its grace."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from changefeed.v1.subscribe_pb2 import CLOSING_REASON_DRAINING
from tests.conformance.client import BEGINNING, NOW, Client, Stream, after, logical
from tests.databases import PostgresForTests
from tests.load.scene import Scene, keys, open_scene, until_stalled

pytestmark = [pytest.mark.xdist_group("load"), pytest.mark.timeout(120)]

GRACE = 10
"""Seconds: more than twice what an end takes that need not wait for somebody."""


@pytest.fixture
async def scene(postgres: PostgresForTests, tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(postgres, tmp_path, settings={"shutdown_grace": f"{GRACE}s"}) as opened:
        yield opened


async def statuses(scene: Scene, ready: asyncio.Event) -> list[int]:
    """What a watcher of the overall health is told, until the watch ends."""
    seen: list[int] = []
    async with grpc.aio.insecure_channel(scene.gateway.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        async for answer in stub.Watch(health_pb2.HealthCheckRequest()):  # type: ignore[attr-defined]
            seen.append(answer.status)
            ready.set()
    return seen


async def closed(stream: Stream) -> str:
    """Read a stream to its end, which must be that of a drain; answers the token to go on from."""
    closing = await stream.to_the_end()
    assert closing.reason == CLOSING_REASON_DRAINING
    assert 0 <= closing.reconnect_after.ToTimedelta().total_seconds() <= 5
    return closing.continuation_token


async def backends(scene: Scene) -> int:
    """How many sessions of the gateway the database has."""
    cursor = await scene.database.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'changefeed-gateway%'"
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def refused_code(client: Client) -> grpc.StatusCode:
    """How a new call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.read(NOW)
    return caught.value.code()


@pytest.mark.req("P4", "SC-2")
async def test_sigterm_ends_everything_in_good_order(scene: Scene) -> None:
    written = await scene.insert(20)
    client = scene.client
    watching = asyncio.Event()
    watch = asyncio.create_task(statuses(scene, watching))
    async with (
        client.subscribe(BEGINNING) as live,
        client.subscribe(NOW, scope=logical("7")) as quiet,
        asyncio.timeout(30),
    ):
        await live.until_events(20)
        await live.until_live()
        await quiet.until_live()
        await watching.wait()
        poll = asyncio.create_task(client.read(after(live.token), wait=25, deadline=30))
        page = await client.read(after(live.token), wait=0)
        assert await backends(scene) > 0
        process = psutil.Process(scene.gateway.pid)
        began = time.monotonic()
        exit_code = asyncio.create_task(scene.gateway.stop())
        tokens = [await closed(live), await closed(quiet)]
        answer = await poll
        assert not answer.events
        assert await exit_code == 0
        elapsed = time.monotonic() - began
    assert await refused_code(client) is grpc.StatusCode.UNAVAILABLE
    assert await watch == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
    # Whoever has started it tells of its end before it is a zombie no more.
    await asyncio.to_thread(process.wait, 20)
    assert await backends(scene) == 0
    assert elapsed < GRACE / 2, "nobody was left to wait for"
    print(f"drained in {elapsed:.2f} s")
    written += await scene.insert(5)
    await scene.gateway.start()
    client = await scene.another_client()
    for token in (tokens[0], answer.continuation_token, page.continuation_token):
        assert keys((await client.read_until(after(token), 5)).events) == written[20:]
    assert not (await client.read(after(tokens[1]))).events


@pytest.mark.req("P1", "P4")
async def test_a_stream_in_the_middle_of_a_backlog_goes_on_where_it_was_closed(scene: Scene) -> None:
    written = await scene.insert(20_000, note_bytes=1_000)
    async with scene.client.subscribe(BEGINNING, size=100) as stream:
        await stream.until_events(500)
        exit_code = asyncio.create_task(scene.gateway.stop())
        token = await closed(stream)
        assert await exit_code == 0
    got = keys(stream.events)
    assert 500 <= len(got) < 20_000
    await scene.gateway.start()
    got += keys((await scene.client.read_all(after(token))).events)
    assert got == written


@asynccontextmanager
async def dead_and_live(scene: Scene) -> AsyncIterator[tuple[Client, Stream]]:
    """A reader that takes nothing of what the gateway has for it; another client and its live stream."""
    await scene.insert(200, note_bytes=200_000)
    async with scene.client.subscribe(BEGINNING) as dead:
        await dead.until_events(1)
        await until_stalled(scene.gateway.pid)
        other = await scene.another_client()
        async with other.subscribe(NOW) as live:
            await live.until_live()
            yield other, live


@pytest.mark.req("P7")
async def test_a_dead_reader_holds_the_end_up_for_the_grace_and_no_longer(scene: Scene) -> None:
    async with dead_and_live(scene) as (other, live):
        began = time.monotonic()
        os.kill(scene.gateway.pid, signal.SIGTERM)
        await closed(live)
        assert time.monotonic() - began < GRACE / 2, "one reader's end waits for another"
        assert await refused_code(other) is grpc.StatusCode.UNAVAILABLE
        assert await refused_code(await scene.another_client()) is grpc.StatusCode.UNAVAILABLE
        assert psutil.Process(scene.gateway.pid).is_running()
        assert await scene.gateway.wait() == 0
        assert GRACE * 0.9 < time.monotonic() - began < 2 * GRACE


@pytest.mark.req("P7")
async def test_a_second_signal_cuts_the_drain_short(postgres: PostgresForTests, tmp_path: Path) -> None:
    async with (
        open_scene(postgres, tmp_path, settings={"shutdown_grace": "60s"}) as scene,
        dead_and_live(scene) as (_, live),
    ):
        os.kill(scene.gateway.pid, signal.SIGTERM)
        await closed(live)
        began = time.monotonic()
        assert await scene.gateway.stop() == 0
        assert time.monotonic() - began < 30
