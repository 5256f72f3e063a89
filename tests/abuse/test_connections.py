"""More connections than the process may open files: who is connected is served, and others once they are gone."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest

from changefeed.v1 import change_feed_service_pb2_grpc
from tests.abuse.http2 import OPENING, connection
from tests.abuse.witness import CAPABILITIES, abused_gateway, witnessed

pytestmark = [pytest.mark.xdist_group("abuse"), pytest.mark.soak, pytest.mark.req("BX-8")]

FILES, CONNECTIONS = 1_024, 2_000


@pytest.mark.parametrize("says", [b"", OPENING], ids=["silent", "that speak HTTP/2"])
async def test_more_connections_than_files_harm_nobody(tmp_path: Path, says: bytes) -> None:
    async with abused_gateway(tmp_path, files=FILES) as gateway, witnessed(gateway) as witness:
        async with AsyncExitStack() as stack:
            for _ in range(CONNECTIONS // 100):
                opened = await asyncio.gather(
                    *(stack.enter_async_context(connection(gateway.target)) for _ in range(100))
                )
                for _, writer in opened:
                    writer.write(says)
            await witness.during(lambda: asyncio.sleep(0.05))
            assert psutil.Process(gateway.pid).num_fds() < FILES - 200, "files are left for databases"
        async with gateway.channel() as channel, asyncio.timeout(60):
            stub: change_feed_service_pb2_grpc.ChangeFeedServiceAsyncStub = (
                change_feed_service_pb2_grpc.ChangeFeedServiceStub(channel)
            )
            await stub.GetCapabilities(CAPABILITIES, wait_for_ready=True)


async def test_a_host_that_comes_for_all_places_again_and_again_keeps_nobody_out(tmp_path: Path) -> None:
    async with abused_gateway(tmp_path, files=FILES) as gateway, witnessed(gateway), AsyncExitStack() as stack:

        async def come(count: int) -> None:
            opened = await asyncio.gather(
                *(stack.enter_async_context(connection(gateway.target)) for _ in range(count))
            )
            for _, writer in opened:
                writer.write(OPENING)

        async def come_again() -> None:
            while True:
                await come(20)
                await asyncio.sleep(0.05)

        for _ in range(FILES // 100):
            await come(100)
        coming = asyncio.create_task(come_again())
        try:
            async with gateway.channel() as channel, asyncio.timeout(30):
                stub: change_feed_service_pb2_grpc.ChangeFeedServiceAsyncStub = (
                    change_feed_service_pb2_grpc.ChangeFeedServiceStub(channel)
                )
                await stub.GetCapabilities(CAPABILITIES, wait_for_ready=True)
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
