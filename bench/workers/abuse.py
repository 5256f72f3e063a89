"""A caller who sends bad tokens, as large as they may be and costly to parse."""

import asyncio
import base64
import time

import grpc

from bench.processes import Answer
from bench.workers.control import ready
from bench.workers.drain import address
from changefeed.v1 import position_pb2, read_changes_pb2

_AT_ONCE = 16
_READ = "/changefeed.v1.ChangeFeedService/ReadChanges"
_REFUSALS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)


def send(target: str, collection: str, tokens: int, chars: int, seconds: float) -> Answer:
    """Send them evenly over the time, or as fast as they are refused, and count the refusals."""
    return asyncio.run(_send(target, _request(collection, chars), tokens, seconds))


def _request(collection: str, chars: int) -> bytes:
    room = chars * 3 // 4 - 200
    body = b'{"schemaVersion":1,"a":[' + b"[]," * (room // 3) + b'0],"keyId":"k","signature":"' + b"s" * 43 + b'"}'
    token = base64.urlsafe_b64encode(body).decode().rstrip("=")
    start = position_pb2.StartPosition(continuation_token=token)
    return read_changes_pb2.ReadChangesRequest(address=address(collection), start_position=start).SerializeToString()


async def _send(target: str, request: bytes, tokens: int, seconds: float) -> Answer:
    refused = 0
    async with grpc.aio.insecure_channel(target) as channel:
        read: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_READ)
        await channel.channel_ready()
        await asyncio.to_thread(ready)
        began = time.monotonic()

        async def attack(first: int) -> None:
            nonlocal refused
            for number in range(first, tokens, _AT_ONCE):
                await asyncio.sleep(began + seconds * number / tokens - time.monotonic())
                try:
                    await read(request)
                except grpc.aio.AioRpcError as error:
                    refused += error.code() in _REFUSALS

        await asyncio.gather(*(attack(first) for first in range(_AT_ONCE)))
        return {"refused": refused, "attack_seconds": time.monotonic() - began}
