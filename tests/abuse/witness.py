"""Another client beside an attack, and what the gateway's process shows of it."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from changefeed.v1 import capabilities_pb2, change_feed_service_pb2_grpc, position_pb2, resource_pb2, subscribe_pb2
from tests.load.gateway_process import GatewayProcess
from tests.soak import soak_seconds

ADDRESS = resource_pb2.ResourceAddress(connection="main", collection="documents")
SUBSCRIBE = subscribe_pb2.SubscribeRequest(
    address=ADDRESS, start_position=position_pb2.StartPosition(beginning=position_pb2.Beginning())
)
CAPABILITIES = capabilities_pb2.GetCapabilitiesRequest(address=ADDRESS)
SETTINGS: dict[str, object] = {
    "connections": {"main": {"provider": "memory", "collections": ["documents"]}},
    "limits": {"min_heartbeat": "100ms", "default_heartbeat": "100ms"},
}

_PATIENCE = 90.0
"""Seconds that an answer may take on a machine where everything else runs too."""
_HEARTBEATS, _CALLS = 2, 5
"""How many the witness must have had while an attack goes on."""
MOST_MEMORY = 400_000_000
"""A gateway that nobody attacks takes about a quarter."""
_MOST_LOG = 2_000_000

Attack = Callable[[], Awaitable[object]]


class Witness:
    """A stream and calls, one after the other, on a connection of its own; any failure is the test's."""

    def __init__(self, gateway: GatewayProcess, channel: grpc.aio.Channel) -> None:
        self.messages = self.calls = 0
        self._gateway = gateway
        self._stub: change_feed_service_pb2_grpc.ChangeFeedServiceAsyncStub = (
            change_feed_service_pb2_grpc.ChangeFeedServiceStub(channel)
        )

    async def read(self) -> None:
        """Follow the stream until cancelled."""
        stream = self._stub.Subscribe(SUBSCRIBE)
        while True:
            async with asyncio.timeout(_PATIENCE):
                message = await stream.read()
            assert isinstance(message, subscribe_pb2.SubscribeResponse), "the stream has ended"
            self.messages += 1

    async def call(self) -> None:
        """Call until cancelled."""
        while True:
            await self._stub.GetCapabilities(CAPABILITIES, timeout=_PATIENCE)
            self.calls += 1
            await asyncio.sleep(0.01)

    async def another_call(self) -> None:
        """Wait until a call has begun and ended."""
        ended = self.calls + 2
        async with asyncio.timeout(2 * _PATIENCE):
            while self.calls < ended:  # noqa: ASYNC110 - it is a count
                await asyncio.sleep(0.005)

    async def during(self, attack: Attack, *, seconds: float = 0.5) -> None:
        """Attack for so long (in a soak its seconds), and until enough was served meanwhile."""
        began = asyncio.get_running_loop().time()
        messages, calls = self.messages + _HEARTBEATS, self.calls + _CALLS
        rounds = 0
        while (
            not rounds
            or asyncio.get_running_loop().time() < began + soak_seconds(seconds)
            or self.messages < messages
            or self.calls < calls
        ):
            await attack()
            rounds += 1
        served = f"{self.calls - calls + _CALLS} calls and {self.messages - messages + _HEARTBEATS} heartbeats"
        print(f"{rounds} rounds; beside them {served}")


@asynccontextmanager
async def witnessed(gateway: GatewayProcess) -> AsyncIterator[Witness]:
    """Another client is served throughout; the process stays, its memory and its log stay bounded."""
    pid = gateway.pid
    forget_peak_memory(pid)
    async with gateway.channel() as channel:
        witness = Witness(gateway, channel)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(witness.read()), group.create_task(witness.call())]
            try:
                yield witness
                # The gateway is as before once the attack is over.
                before = witness.messages, witness.calls
                async with asyncio.timeout(_PATIENCE):
                    while witness.messages <= before[0] or witness.calls <= before[1]:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            finally:
                for task in tasks:
                    task.cancel()
    peak = peak_memory(pid)
    print(f"{peak / 1e6:.0f} MB at most")
    assert gateway.pid == pid
    assert peak < MOST_MEMORY
    said = gateway.log.read_text()
    assert "Traceback" not in said
    assert len(said) < _MOST_LOG


def forget_peak_memory(pid: int) -> None:
    """Let `peak_memory` begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_memory(pid: int) -> int:
    """The most bytes that a process has held since `clear_refs`; fails when it is gone."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None, "the process is gone"
    return int(found[1]) * 1024


@asynccontextmanager
async def abused_gateway(directory: Path, **limits: object) -> AsyncIterator[GatewayProcess]:
    """A gateway on collections in memory."""
    files = limits.pop("files", None)
    assert files is None or isinstance(files, int)
    settings = SETTINGS | {"limits": {**SETTINGS["limits"], **limits}}  # type: ignore[dict-item]
    gateway = GatewayProcess(directory, "", settings=settings, files=files)
    await gateway.start()
    try:
        yield gateway
    finally:
        assert await gateway.stop() == 0
