"""How many connections and sessions the provider's calls take when many begin at once."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from changefeed_gateway.core.errors import TransientFailure
from changefeed_gateway.providers.spanner.sdk import Endpoint, Retries, Sdk
from tests.faults import ALWAYS
from tests.spanner.gateway import IMPATIENT, RETRIES
from tests.spanner.server.errors import ServiceError
from tests.spanner.server.wire import WireServer

MANY = 200
MOST_A_CONNECTION = 100
"""What Google's front ends allow."""


def sdk_of(server: WireServer, retries: Retries = RETRIES) -> Sdk:
    _, project, _, instance, _, database = server.path("main").split("/")
    endpoint = Endpoint(project=project, instance=instance, database=database, emulator_host=server.host)
    return Sdk(endpoint, retries)


@pytest.fixture
async def sdk(wire_server: WireServer) -> AsyncIterator[Sdk]:
    sdk = sdk_of(wire_server)
    yield sdk
    await sdk.close()


async def test_queries_that_begin_at_once_do_not_crowd_one_connection(wire_server: WireServer, sdk: Sdk) -> None:
    streams = await asyncio.gather(*(sdk.open("SELECT 1", {}, life=60, doing="a query") for _ in range(MANY)))
    taken = [channel.open for channel in sdk._channels]
    assert sum(taken) == MANY
    assert max(taken) < MOST_A_CONNECTION
    assert wire_server.calls.count("CreateSession") == 1
    for stream in streams:
        stream.close()
    assert not any(channel.open for channel in sdk._channels)


async def test_a_query_that_did_not_begin_takes_no_place(wire_server: WireServer, sdk: Sdk) -> None:
    await sdk.connect()
    wire_server.fail("*", ServiceError(grpc.StatusCode.UNAVAILABLE, "away"), times=ALWAYS)
    opened = (sdk.open("SELECT 1", {}, life=60, doing="a query") for _ in range(5))
    for found in await asyncio.gather(*opened, return_exceptions=True):
        if not isinstance(found, BaseException):
            found.close()
    assert not any(channel.open for channel in sdk._channels)


async def test_who_connects_while_the_service_is_away_is_told_with_the_first(wire_server: WireServer) -> None:
    sdk = sdk_of(wire_server, IMPATIENT)
    wire_server.fail("*", ServiceError(grpc.StatusCode.UNAVAILABLE, "away"), times=ALWAYS)
    try:
        for found in await asyncio.gather(*(sdk.connect() for _ in range(50)), return_exceptions=True):
            assert isinstance(found, TransientFailure)
        assert sum(wire_server.calls.errors.values()) <= IMPATIENT.attempts
    finally:
        await sdk.close()
