"""Finds the gateway and tells at once when nobody is there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import grpc

from changefeed_client import ChangeFeedClient, connect
from changefeed_gateway.cli.exits import ExitCode, Failed
from changefeed_gateway.cli.output import complain
from changefeed_gateway.settings import GatewayTarget, gateway_target
from changefeed_gateway.settings.values import format_duration

_LONGEST_CONNECTING: Final = timedelta(seconds=5)
"""Of a first connection that nobody refuses, as behind a firewall."""
_OPTIONS: Final = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1_000))


@asynccontextmanager
async def client_of(target: str | None, *, patience: timedelta | None = None) -> AsyncIterator[ChangeFeedClient]:
    """A client of the gateway that an option, the environment or the settings name, once it has been reached.

    A first connection that fails is the end, unless `patience` says how long to wait for it. Raises SettingsError and
    Failed.
    """
    found = gateway_target(target)
    await _reach(found, patience)
    async with connect(found.address) as client:
        yield client


async def _reach(target: GatewayTarget, patience: timedelta | None) -> None:
    async with grpc.aio.insecure_channel(target.address, options=_OPTIONS) as channel:
        if await _connected(channel, _LONGEST_CONNECTING, again=False):
            return
        if patience is not None:
            complain(f"no gateway answers at {target.address}: waiting up to {format_duration(patience)} for it")
            if await _connected(channel, patience, again=True):
                return
    raise Failed(
        ExitCode.TRANSIENT,
        f"no gateway answers at {target.address} ({target.origin}):"
        " start it with changefeed serve, or say with --target where it is",
    )


async def _connected(channel: grpc.aio.Channel, within: timedelta, *, again: bool) -> bool:
    """Whether the channel connects within a time; not `again`, with its first try."""
    ends = {grpc.ChannelConnectivity.READY} | (set() if again else {grpc.ChannelConnectivity.TRANSIENT_FAILURE})
    try:
        async with asyncio.timeout(within.total_seconds()):
            while (state := channel.get_state(try_to_connect=True)) not in ends:
                await channel.wait_for_state_change(state)
    except TimeoutError:
        return False
    return state is grpc.ChannelConnectivity.READY
