"""Many subscribers that resume from one token at once, as after a restart of the gateway."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc.aio

from bench.processes import Answer
from bench.workers.control import ready, when_told_to_finish
from bench.workers.drain import address
from changefeed.v1 import position_pb2, subscribe_pb2
from changefeed.v1.change_feed_service_pb2_grpc import ChangeFeedServiceStub

if TYPE_CHECKING:
    from changefeed.v1.change_feed_service_pb2_grpc import ChangeFeedServiceAsyncStub

_STREAMS_A_CHANNEL = 100


def listen(target: str, collection: str, tokens: list[str], streams: int) -> Answer:
    """Open all at once, from the tokens in turn; when each was live, and how old changes were that came after that."""
    return asyncio.run(_listen(target, collection, tokens, streams))


async def _listen(target: str, collection: str, tokens: list[str], streams: int) -> Answer:
    live: list[float] = []
    ages: list[float] = []
    finished = asyncio.Event()
    loop = asyncio.get_running_loop()
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(target, options) for _ in range(-(-streams // _STREAMS_A_CHANNEL))]
    for channel in channels:
        await channel.channel_ready()
    await asyncio.to_thread(ready)
    when_told_to_finish(lambda: loop.call_soon_threadsafe(finished.set))
    began = time.monotonic()
    following = [
        asyncio.create_task(
            _follow(
                ChangeFeedServiceStub(channels[number % len(channels)]),
                collection,
                tokens[number % len(tokens)],
                lambda: live.append(time.monotonic() - began),
                ages,
            )
        )
        for number in range(streams)
    ]
    await finished.wait()
    ended = sum(task.done() for task in following)
    for task in following:
        task.cancel()
    await asyncio.wait(following)
    for channel in channels:
        await channel.close()
    ages.sort()
    return {"live_s": sorted(live), "closed_streams": ended, "ages_ms": ages}


async def _follow(
    stub: "ChangeFeedServiceAsyncStub", collection: str, token: str, say_live: Callable[[], None], ages: list[float]
) -> None:
    request = subscribe_pb2.SubscribeRequest(
        address=address(collection), start_position=position_pb2.StartPosition(continuation_token=token)
    )
    live = False
    async for message in stub.Subscribe(request):
        match message.WhichOneof("content"):
            case "state_changed" if message.state_changed.state == subscribe_pb2.SUBSCRIPTION_STATE_LIVE:
                if not live:
                    say_live()
                live = True
            case "batch" if live:
                now = time.time_ns()
                ages += [(now - json.loads(event.new_item_json)["stamp"]) / 1e6 for event in message.batch.events]
