"""Readers that are slow, dead or idle: they harm nobody else, and the gateway's memory stays within bounds."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import psutil
import pytest

from tests.conformance.client import BEGINNING, NOW, Refusal, Stream, after, logical
from tests.databases import PostgresForTests
from tests.load.scene import Scene, keys, open_scene, until_stalled

pytestmark = [pytest.mark.xdist_group("load"), pytest.mark.timeout(120)]

NOTE_BYTES = 100_000
CHANGES = 2_000
"""200 MB of them in all."""
MEMORY = 300_000_000
"""Bytes that the gateway may take beside what it took when it was idle."""
SUBSCRIBERS = 300

_CLIENT = """
import sys, grpc
from changefeed.v1 import change_feed_service_pb2_grpc as service, position_pb2, resource_pb2, subscribe_pb2
channel = grpc.insecure_channel(sys.argv[1])
stream = service.ChangeFeedServiceStub(channel).Subscribe(subscribe_pb2.SubscribeRequest(
    address=resource_pb2.ResourceAddress(connection="main", collection="public.items"),
    start_position=position_pb2.StartPosition(beginning=position_pb2.Beginning())))
for message in stream:
    print(message.WhichOneof("content"), flush=True)
"""


@asynccontextmanager
async def memory_watched(pid: int) -> AsyncIterator[list[int]]:
    """Look at a process's memory all the time; answers the most that was seen, in bytes, and what it was before."""
    process = psutil.Process(pid)
    before = process.memory_info().rss
    most = [before, before]

    async def look() -> None:
        while True:
            most[0] = max(most[0], process.memory_info().rss)
            await asyncio.sleep(0.02)

    looking = asyncio.create_task(look())
    try:
        yield most
    finally:
        looking.cancel()


@asynccontextmanager
async def stopped_client(scene: Scene) -> AsyncIterator[None]:
    """A client in a process of its own that is stopped after its first batch, connections and all."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _CLIENT, scene.gateway.target), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            while await process.stdout.readline() != b"batch\n":
                pass
        process.send_signal(signal.SIGSTOP)
        yield
    finally:
        process.kill()
        await process.wait()


async def read_to_the_refusal(stream: Stream) -> Refusal:
    """Take what was sent, until the stream fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.to_the_end()
    return Refusal.of_error(caught.value)


@pytest.mark.req("P7")
async def test_200_mb_flow_past_readers_that_do_not_read(postgres: PostgresForTests, tmp_path: Path) -> None:
    async with open_scene(postgres, tmp_path, settings={"limits": {"write_timeout": "60s"}}) as scene:
        backlog = await scene.insert(200, note_bytes=NOTE_BYTES)
        slow_client = await scene.another_client()
        async with stopped_client(scene), slow_client.subscribe(BEGINNING) as slow, scene.client.subscribe(NOW) as fast:
            await slow.until_events(1)
            await fast.until_live()
            await until_stalled(scene.gateway.pid)
            blocked_at = len(slow.events)
            written: list[str] = []
            began = time.monotonic()
            async with memory_watched(scene.gateway.pid) as memory:
                for _ in range(CHANGES // 100):
                    written += await scene.insert(100, note_bytes=NOTE_BYTES)
                    await fast.until_events(len(written) - 200)
                await fast.until_events(len(written))
            elapsed = time.monotonic() - began
            assert keys(fast.events) == written
            assert len(slow.events) == blocked_at
            print(
                f"200 MB in {elapsed:.1f} s; memory {memory[1] / 1e6:.0f} MB before, {memory[0] / 1e6:.0f} MB at most"
            )
            assert memory[0] - memory[1] < MEMORY
            # The slow one was neither dropped nor buffered for: it reads on, from the log.
            await slow.until_events(len(backlog) + len(written))
            assert keys(slow.events) == backlog + written


@pytest.mark.req("P7", "P4")
async def test_a_reader_that_is_too_slow_is_told_so_and_resumes(postgres: PostgresForTests, tmp_path: Path) -> None:
    async with open_scene(postgres, tmp_path, settings={"limits": {"write_timeout": "1s"}}) as scene:
        written = await scene.insert(400, note_bytes=NOTE_BYTES)
        async with scene.client.subscribe(BEGINNING) as slow, stopped_client(scene):
            await slow.until_events(1)
            await until_stalled(scene.gateway.pid)
            fast = await scene.another_client()
            began = time.monotonic()
            async with fast.subscribe(NOW) as stream:
                await stream.until_live()
                # Written to the end of the limit and beyond: nobody else notices.
                while time.monotonic() - began < 2:
                    written += await scene.insert()
                    await stream.until_events(len(written) - 400)
            refused = await read_to_the_refusal(slow)
            assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (refused.category, refused.reason) == ("THROTTLED", "CONSUMER_TOO_SLOW")
            assert refused.retry_delay
            got = keys(slow.events)
            assert len(got) < 400
            got += keys((await scene.client.read_all(after(slow.token))).events)
            assert got == written


@pytest.mark.req("P7")
async def test_idle_subscribers_do_not_slow_a_fast_one(postgres: PostgresForTests, tmp_path: Path) -> None:
    async with open_scene(postgres, tmp_path) as scene, contextlib.AsyncExitStack() as stack:
        written: list[str] = []
        alone = await drained(scene, written)
        process = psutil.Process(scene.gateway.pid)
        before = process.memory_info().rss
        idle = []
        for number in range(SUBSCRIBERS):
            stream = scene.client.subscribe(NOW, scope=logical(str(number + 10)))
            idle.append(await stack.enter_async_context(stream))
        await asyncio.gather(*(stream.until_live() for stream in idle))
        memory = process.memory_info().rss - before
        among = await drained(scene, written)
        print(
            f"10 000 changes live: {alone:.2f} s alone, {among:.2f} s among {SUBSCRIBERS} idle subscribers,"
            f" {memory / SUBSCRIBERS / 1000:.0f} kB each"
        )
        assert memory < SUBSCRIBERS * 200_000
        # One of them is not idle any more, and is the only one to hear of it.
        woken = await scene.insert(shelf=10)
        await idle[0].until_events(1)
        assert keys(idle[0].events) == woken
        assert not any(stream.events for stream in idle[1:])


async def drained(scene: Scene, written: list[str]) -> float:
    """Let a live stream follow 10 000 changes; answers the seconds that it took."""
    client = await scene.another_client()
    async with client.subscribe(NOW) as stream:
        await stream.until_live()
        began = time.monotonic()
        mine: list[str] = []
        for _ in range(20):
            mine += await scene.insert(500)
        await stream.until_events(len(mine))
        assert keys(stream.events) == mine
        written += mine
        return time.monotonic() - began
