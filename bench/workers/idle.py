"""One subscriber on each of many feeds, in one process."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import grpc.aio
from google.protobuf import duration_pb2

from bench.processes import Answer
from bench.workers.control import ready, when_told_to_finish
from bench.workers.drain import address
from bench.workers.latency import summary
from changefeed.v1 import change_event_pb2, position_pb2, subscribe_pb2
from changefeed.v1.change_feed_service_pb2_grpc import ChangeFeedServiceStub

if TYPE_CHECKING:
    from changefeed.v1.change_feed_service_pb2_grpc import ChangeFeedServiceAsyncStub

_GRACE_SECONDS = 2.0
"""How long the last changes may take to arrive."""
Take = Callable[[Iterable[change_event_pb2.ChangeEvent]], None]


def listen(target: str, collections: Sequence[str], heartbeat: int) -> Answer:
    """Subscribe to each from now on, and tell how old each change is that arrives until told to finish."""
    ages: list[float] = []

    def take(events: Iterable[change_event_pb2.ChangeEvent]) -> None:
        now = time.time_ns()
        ages.extend((now - json.loads(event.new_item_json)["stamp"]) / 1e6 for event in events)

    ended = asyncio.run(_listen(target, collections, heartbeat, take))
    return {"closed_streams": ended, **(summary(ages) if ages else {"measured": 0})}


def count(target: str, collections: Sequence[str], heartbeat: int) -> Answer:
    """Subscribe to each from now on, and tell how many changes arrive until told to finish."""
    arrived: Counter[str] = Counter()

    def take(events: Iterable[change_event_pb2.ChangeEvent]) -> None:
        arrived.update(event.address.collection for event in events)

    ended = asyncio.run(_listen(target, collections, heartbeat, take))
    return {"closed_streams": ended, "arrived": dict(arrived)}


async def _listen(target: str, collections: Sequence[str], heartbeat: int, take: Take) -> int:
    """How many of the streams ended by themselves."""
    open_streams = [asyncio.Event() for _ in collections]
    finished = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with grpc.aio.insecure_channel(target) as channel:
        stub: ChangeFeedServiceAsyncStub = ChangeFeedServiceStub(channel)
        following = [
            asyncio.create_task(_follow(stub, collection, heartbeat, opened, take))
            for collection, opened in zip(collections, open_streams, strict=True)
        ]
        for opened in open_streams:
            await opened.wait()
        await asyncio.to_thread(ready)
        when_told_to_finish(lambda: loop.call_soon_threadsafe(finished.set))
        await finished.wait()
        await asyncio.sleep(_GRACE_SECONDS)
        ended = sum(task.done() for task in following)
        for task in following:
            task.cancel()
        await asyncio.wait(following)
    return ended


async def _follow(
    stub: "ChangeFeedServiceAsyncStub", collection: str, heartbeat: int, opened: asyncio.Event, take: Take
) -> None:
    request = subscribe_pb2.SubscribeRequest(
        address=address(collection),
        start_position=position_pb2.StartPosition(now=position_pb2.Now()),
        heartbeat_interval=duration_pb2.Duration(seconds=heartbeat),
    )
    try:
        async for message in stub.Subscribe(request):
            opened.set()
            if message.WhichOneof("content") == "batch":
                take(message.batch.events)
    finally:
        opened.set()
