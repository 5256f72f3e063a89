"""Many subscribers in one process."""

import asyncio
import re
import time
from collections.abc import Sequence

from google.protobuf import duration_pb2

from bench.processes import Answer, own_cost
from bench.workers.control import ready, when_told_to_finish
from bench.workers.drain import address
from bench.workers.http2 import LoadConnection, OnMessage
from bench.workers.latency import summary
from changefeed.v1 import position_pb2, subscribe_pb2

_SUBSCRIBE = "/changefeed.v1.ChangeFeedService/Subscribe"
_OPENED_AND_STATES = 3
"""Messages before the first batch: opened, catching up, live."""
_STAMP = re.compile(rb'"stamp": ?(\d+)')
_SMALLEST_STAMP = 10**18


def _request(collection: str, start: position_pb2.StartPosition) -> bytes:
    return subscribe_pb2.SubscribeRequest(
        address=address(collection), start_position=start, heartbeat_interval=duration_pb2.Duration(seconds=30)
    ).SerializeToString()


def listen(target: str, collection: str, streams: int, connections: int) -> Answer:
    """Subscribe so many times from now on, and take every delivery until told to finish."""
    return asyncio.run(_listen(target, _request(collection, _now()), streams, connections))


def _now() -> position_pb2.StartPosition:
    return position_pb2.StartPosition(now=position_pb2.Now())


async def _listen(target: str, request: bytes, streams: int, connections: int) -> Answer:
    loop = asyncio.get_running_loop()
    ages: list[float] = []
    messages = deliveries = 0

    def take(message: bytes) -> None:
        nonlocal messages, deliveries
        messages += 1
        now = time.time_ns()
        for found in _STAMP.finditer(message):
            stamp = int(found[1])
            if stamp > _SMALLEST_STAMP:
                deliveries += 1
                ages.append((now - stamp) / 1e6)

    opened = [await _connect(target, take) for _ in range(connections)]
    for number in range(streams):
        opened[number % connections].call(_SUBSCRIBE, request)
    while messages < _OPENED_AND_STATES * streams:
        await asyncio.sleep(0.05)
        if any(connection.closed_streams for connection in opened):
            raise RuntimeError("the gateway ended streams at their start")
    await asyncio.to_thread(ready)
    cpu, began, before = own_cost()["cpu"], time.perf_counter(), messages
    finished = asyncio.Event()
    when_told_to_finish(lambda: loop.call_soon_threadsafe(finished.set))
    await finished.wait()
    seconds = time.perf_counter() - began
    closed = sum(connection.closed_streams for connection in opened)
    _close(opened)
    cost = own_cost()["cpu"] - cpu
    return {
        "messages": messages - before,
        "deliveries": deliveries,
        "seconds": seconds,
        "client_cpu": cost,
        "closed_streams": closed,
        **summary(ages),
    }


def dead(target: str, collection: str, streams: int) -> Answer:
    """Subscribe from the beginning on one connection each, then never give a byte of window back, until told to finish.

    So looks a consumer that hangs: its connection lives and answers pings.
    """
    beginning = position_pb2.StartPosition(beginning=position_pb2.Beginning())
    return asyncio.run(_dead(target, _request(collection, beginning), streams))


async def _dead(target: str, request: bytes, streams: int) -> Answer:
    opened = [await _connect(target, lambda message: None, gives_windows=False) for _ in range(streams)]
    for connection in opened:
        connection.call(_SUBSCRIBE, request)
    await asyncio.to_thread(ready)
    finished = asyncio.Event()
    loop = asyncio.get_running_loop()
    when_told_to_finish(lambda: loop.call_soon_threadsafe(finished.set))
    await finished.wait()
    received = sum(connection.received_bytes for connection in opened)
    closed = sum(connection.closed_streams for connection in opened)
    _close(opened)
    return {"received_bytes": received, "closed_streams": closed}


async def _connect(target: str, take: OnMessage, *, gives_windows: bool = True) -> LoadConnection:
    host, _, port = target.rpartition(":")
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: LoadConnection(take, gives_windows=gives_windows), host, int(port)
    )
    return connection


def _close(connections: Sequence[LoadConnection]) -> None:
    for connection in connections:
        connection.close()
