"""Whoever tries tokens, continuation tokens or credentials, is slowed, and takes nothing from anybody else."""

import asyncio
from collections import Counter
from pathlib import Path

import grpc
import pytest

from bench.workers.http2 import LoadConnection
from changefeed.v1 import change_feed_service_pb2_grpc, position_pb2, read_changes_pb2, token_pb2
from tests.abuse.http2 import HOST
from tests.abuse.witness import ADDRESS, SUBSCRIBE, abused_gateway, witnessed

pytestmark = [pytest.mark.xdist_group("abuse"), pytest.mark.soak, pytest.mark.req("P7")]

GUESSERS = 50
READ_PATH = "/changefeed.v1.ChangeFeedService/ReadChanges"


def reading(start: position_pb2.StartPosition) -> read_changes_pb2.ReadChangesRequest:
    return read_changes_pb2.ReadChangesRequest(address=ADDRESS, start_position=start)


def altered(token: str, at: int) -> str:
    at %= len(token)
    return token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]


async def answered_elsewhere(target: str) -> None:
    """A call from another host, on a connection of its own."""
    host, _, port = target.partition(":")
    heard = asyncio.Event()
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: LoadConnection(lambda _: heard.set()), host, int(port), local_addr=(HOST, 0)
    )
    connection.call(READ_PATH, reading(SUBSCRIBE.start_position).SerializeToString())
    async with asyncio.timeout(30):
        await heard.wait()
    connection.close()


async def test_who_tries_many_tokens_is_slowed_and_nobody_else(tmp_path: Path) -> None:
    heard: Counter[str] = Counter()
    async with abused_gateway(tmp_path) as gateway, gateway.channel() as channel:
        stub: change_feed_service_pb2_grpc.ChangeFeedServiceAsyncStub = (
            change_feed_service_pb2_grpc.ChangeFeedServiceStub(channel)
        )
        token = (await stub.ReadChanges(reading(SUBSCRIBE.start_position))).continuation_token

        async def guess(guess: int) -> None:
            bad = altered(token, guess)
            try:
                if guess % 2:
                    await stub.InspectContinuationToken(
                        token_pb2.InspectContinuationTokenRequest(address=ADDRESS, continuation_token=bad)
                    )
                    heard["inspected"] += 1
                else:
                    await stub.ReadChanges(reading(position_pb2.StartPosition(continuation_token=bad)))
            except grpc.aio.AioRpcError as error:
                heard[error.code().name] += 1

        async def attack() -> None:
            await asyncio.gather(*(guess(number) for number in range(GUESSERS * 2)), answered_elsewhere(gateway.target))

        async with witnessed(gateway) as witness:
            await witness.during(attack, seconds=1)
        print(dict(heard))
        assert heard["RESOURCE_EXHAUSTED"]
        # Soon after, who has a good token is heard on this connection too.
        async with asyncio.timeout(30):
            while True:
                try:
                    await stub.ReadChanges(reading(position_pb2.StartPosition(continuation_token=token)))
                    break
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise
