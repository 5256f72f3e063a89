"""Whatever comes to the port, the process stays, holds little, and serves the others."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack

import pytest

from tests.abuse import http2
from tests.abuse.http2 import CONVERSATION, OPENING, PING, SETTINGS, connection, send
from tests.abuse.witness import abused_gateway, witnessed
from tests.load.gateway_process import GatewayProcess
from tests.soak import soak_dice

pytestmark = [pytest.mark.xdist_group("abuse"), pytest.mark.soak, pytest.mark.req("P7")]

Flood = Callable[[], Iterable[bytes]]

FLOODS: dict[str, Flood] = {
    "headers without end": http2.continuations,
    "empty continuations": http2.empty_continuations,
    "header bomb": http2.header_bomb,
    "methods that are no text": http2.no_text,
    "rapid resets": http2.resets,
    "settings": lambda: http2.control(SETTINGS, b""),
    "pings": lambda: http2.control(PING, bytes(8)),
    "empty data": http2.empty_data,
    "overflowing windows": http2.overflowing_windows,
}


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayProcess]:
    async with abused_gateway(tmp_path_factory.mktemp("abused")) as gateway:
        yield gateway


@pytest.mark.parametrize("make", [http2.garbage, http2.random_frames, http2.cut, http2.mutated_conversation])
async def test_what_is_no_http2_harms_nobody(
    gateway: GatewayProcess, make: Callable[[random.Random], Iterable[bytes]]
) -> None:
    dice = soak_dice()

    async def attack() -> None:
        await asyncio.gather(*(send(gateway.target, make(dice)) for _ in range(20)))

    async with witnessed(gateway) as witness:
        await witness.during(attack)


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_harms_nobody(gateway: GatewayProcess, flood: str) -> None:
    async with witnessed(gateway) as witness:

        async def attack() -> None:
            await send(gateway.target, FLOODS[flood]())
            # As fast as the gateway takes them: a caller without end is a matter of a firewall (docs/security.md).
            await witness.another_call()

        await witness.during(attack)


@pytest.mark.parametrize("streams", [http2.half_open, http2.without_windows])
async def test_thousands_of_streams_that_go_nowhere_harm_nobody(gateway: GatewayProcess, streams: Flood) -> None:
    async with witnessed(gateway) as witness, AsyncExitStack() as stack:
        for _ in range(2):
            _, writer = await stack.enter_async_context(connection(gateway.target))
            writer.writelines(streams())
        await witness.during(lambda: asyncio.sleep(0.05))


async def test_bytes_that_drip_harm_nobody(gateway: GatewayProcess) -> None:
    said = OPENING + CONVERSATION[len(OPENING) :]
    async with witnessed(gateway) as witness, AsyncExitStack() as stack:
        dripping = [await stack.enter_async_context(connection(gateway.target)) for _ in range(200)]
        drops = iter(said * 1_000)

        async def attack() -> None:
            drop = bytes((next(drops),))
            for _, writer in dripping:
                if not writer.transport.is_closing():
                    writer.write(drop)
            await asyncio.sleep(0.02)

        await witness.during(attack)
