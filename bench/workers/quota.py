"""Two callers of one gateway: one that asks at a steady pace, and one that asks as often as it can."""

import asyncio
import time

import grpc

from bench.processes import Answer
from bench.workers.control import ready
from bench.workers.drain import address
from bench.workers.latency import summary
from changefeed.v1 import position_pb2, read_changes_pb2

_READ = "/changefeed.v1.ChangeFeedService/ReadChanges"
_CHANGES = 10
"""In each answer."""


def _request(collection: str) -> bytes:
    start = position_pb2.StartPosition(beginning=position_pb2.Beginning())
    request = read_changes_pb2.ReadChangesRequest(
        address=address(collection), start_position=start, max_page_size=_CHANGES
    )
    return request.SerializeToString()


def steady(target: str, collection: str, bearer: str, rate: int, seconds: float) -> Answer:
    """Ask so often a second, and tell how long the answers took."""
    taken: list[float] = []
    metadata = (("authorization", f"Bearer {bearer}"),)
    with grpc.insecure_channel(target) as channel:
        read: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_READ)
        read(_request(collection), metadata=metadata, wait_for_ready=True)
        begin_at = ready()
        for number in range(int(rate * seconds)):
            time.sleep(max(0.0, begin_at + number / rate - time.time()))
            began = time.perf_counter()
            read(_request(collection), metadata=metadata)
            taken.append((time.perf_counter() - began) * 1e3)
    return summary(taken)


def greedy(target: str, collection: str, bearer: str, at_once: int, seconds: float) -> Answer:
    """Ask without a pause, so many calls at once, whatever the answers say."""
    return asyncio.run(
        _greedy(target, _request(collection), (("authorization", f"Bearer {bearer}"),), at_once, seconds)
    )


async def _greedy(
    target: str, request: bytes, metadata: tuple[tuple[str, str], ...], at_once: int, seconds: float
) -> Answer:
    answered = refused = 0
    async with grpc.aio.insecure_channel(target) as channel:
        read: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_READ)
        await channel.channel_ready()
        await asyncio.to_thread(ready)
        end = time.monotonic() + seconds

        async def ask() -> None:
            nonlocal answered, refused
            while time.monotonic() < end:
                try:
                    await read(request, metadata=metadata)
                    answered += 1
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise
                    refused += 1

        await asyncio.gather(*(ask() for _ in range(at_once)))
    return {"answered": answered, "refused": refused}
