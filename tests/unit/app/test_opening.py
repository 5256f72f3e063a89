"""A provider plugs in at one place: a made-up one needs its folder, its settings and its opening, and nothing else."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

import grpc
import pytest
from pydantic import BaseModel

from changefeed.v1 import capabilities_pb2, change_feed_service_pb2_grpc, resource_pb2
from changefeed_gateway.app import opening
from changefeed_gateway.app.gateway import open_gateway
from changefeed_gateway.app.opening.contract import OperatorError
from changefeed_gateway.core.finding import Finding
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.providers.memory.provider import MemoryProvider
from changefeed_gateway.providers.memory.store import MemoryStore
from changefeed_gateway.settings import Settings
from changefeed_gateway.settings.values import HostPort


class Sundial(BaseModel):
    """The settings of a made-up database."""

    provider: Literal["sundial"] = "sundial"
    shadow: str = "noon"


class SundialRefused(Exception):
    """What its driver raises."""


class SundialProvider(MemoryProvider):
    """Its provider."""

    started = False

    async def start(self) -> None:
        type(self).started = True


class SundialOpening:
    """How it is opened."""

    async def open(self, name: str, connection: Sundial, settings: Settings, stack: AsyncExitStack) -> Provider:
        if connection.shadow == "night":
            raise SundialRefused("there is no shadow at night")
        if connection.shadow == "eclipse":
            raise ZeroDivisionError
        store = MemoryStore()
        store.create("hours")
        return SundialProvider(store)

    async def examine(self, name: str, connection: Sundial, settings: Settings) -> AsyncIterator[Finding]:
        yield Finding(subject="shadow", healthy=connection.shadow != "night", detail=connection.shadow)

    def is_own(self, error: Exception) -> bool:
        return isinstance(error, SundialRefused)

    def is_private(self, connection: Sundial) -> bool:
        return True


@pytest.fixture(autouse=True)
def plugged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(opening.OPENINGS, Sundial, SundialOpening())


def settings(directory: Path, **sundial: Any) -> Settings:
    known = Settings(state_directory=directory, listen=HostPort("127.0.0.1", 0))
    return known.model_copy(update={"connections": {"garden": Sundial(**sundial)}})


async def test_a_made_up_provider_is_served_through_its_opening_alone(tmp_path: Path) -> None:
    async with open_gateway(settings(tmp_path)) as gateway, grpc.aio.insecure_channel(gateway.target) as channel:
        stub: change_feed_service_pb2_grpc.ChangeFeedServiceAsyncStub = (
            change_feed_service_pb2_grpc.ChangeFeedServiceStub(channel)
        )
        address = resource_pb2.ResourceAddress(connection="garden", collection="hours")
        answer = await stub.GetCapabilities(capabilities_pb2.GetCapabilitiesRequest(address=address))
        assert any(c.name == "CHANGE_FEED" and c.supported for c in answer.capabilities)
    assert SundialProvider.started


async def test_a_made_up_provider_is_looked_over_through_its_opening_alone(tmp_path: Path) -> None:
    found = await opening.examine(settings(tmp_path, shadow="evening"), "garden")
    assert [(finding.subject, finding.healthy, finding.detail) for finding in found] == [("shadow", True, "evening")]


async def test_what_a_database_refuses_is_told_to_the_operator(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(OperatorError, match="no shadow at night"):
            await opening.open_provider(settings(tmp_path, shadow="night"), "garden", stack)


async def test_a_fault_of_ours_is_not_taken_for_a_refusal(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(ZeroDivisionError):
            await opening.open_provider(settings(tmp_path, shadow="eclipse"), "garden", stack)
